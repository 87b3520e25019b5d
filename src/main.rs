mod config;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    match config::load::load(path.as_ref()) {
        Ok(c) => println!("{c:#?}"),
        Err(e) => println!("{e}"),
    }
}
