//! What the tests are made of: a scriptable origin, the real node in a process of its own, and a client that
//! sees bytes.

pub mod client;
pub mod dns;
pub mod frames;
pub mod h2;
pub mod node;
pub mod origin;

use std::time::{Duration, Instant};

pub use client::Client;
pub use node::{Node, Protocol};
pub use origin::{Origin, Reply, Step};

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lets this process have as many files open as it may.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Asks again and again until the answer is there. For states that no event tells of, such as another
/// process's.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
