//! `seawall warm`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::admin_client::{AdminArgs, CallError};

/// URLs in one call.
const BATCH: usize = 10_000;
/// How often it asks for the progress.
const EVERY: Duration = Duration::from_millis(200);
/// A list longer than this is a mistake.
const MAX_LIST: u64 = 512 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the URLs are: a file with one on each line, a sitemap.xml, or "-" for standard input.
    #[arg(long)]
    from: PathBuf,
    /// Fetches at one time.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Print every URL that was not stored, with the reason.
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) fn execute(args: &Args) -> super::Result {
    let urls = urls_in(&read(&args.from)?)?;
    if urls.is_empty() {
        return Err(format!("there are no URLs in {}", args.from.display()).into());
    }
    stop_on_ctrl_c()?;
    let mut report = Report { total: urls.len() as u64, ..Report::default() };
    for batch in urls.chunks(BATCH) {
        let job = start(args, batch)?;
        let path = format!("/v1/warm/{}", job["id"]);
        let done = loop {
            if STOP.load(Ordering::Relaxed) {
                args.admin.delete(&path)?;
            }
            let progress = args.admin.get(&path)?;
            report.show(&progress);
            if progress["finished"] == true {
                break progress;
            }
            pause();
        };
        report.add(&done);
        if STOP.load(Ordering::Relaxed) {
            report.stopped = true;
            break;
        }
    }
    report.print(args.verbose);
    Ok(())
}

/// Has the node begin with some; a line that it does not take is named.
fn start(args: &Args, batch: &[Line]) -> std::result::Result<Value, Box<dyn std::error::Error>> {
    let urls: Vec<&str> = batch.iter().map(|line| &*line.url).collect();
    match args.admin.post("/v1/warm", &json!({ "urls": urls, "concurrency": args.concurrency })) {
        Err(CallError::Refused { index: Some(index), detail, .. }) if index < batch.len() => {
            Err(format!("{}:{}: {detail}", args.from.display(), batch[index].number).into())
        }
        answer => Ok(answer?),
    }
}

#[allow(clippy::disallowed_methods, reason = "a command has no worker that it could block")]
fn pause() {
    std::thread::sleep(EVERY);
}

fn read(from: &PathBuf) -> Result<String, String> {
    let fail = |error: std::io::Error| format!("cannot read {}: {error}", from.display());
    let mut text = String::new();
    let read = match from.as_os_str() == "-" {
        true => std::io::stdin().take(MAX_LIST).read_to_string(&mut text),
        false => std::fs::File::open(from).and_then(|file| file.take(MAX_LIST).read_to_string(&mut text)),
    };
    read.map_err(fail)?;
    Ok(text)
}

/// A URL and the line that it is in.
struct Line {
    number: usize,
    url: String,
}

/// The URLs of a list or of a sitemap (sitemaps.org).
fn urls_in(text: &str) -> Result<Vec<Line>, String> {
    if !text.trim_start().starts_with('<') {
        let lines = (1..).zip(text.lines().map(str::trim));
        let urls = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        return Ok(urls.map(|(number, line)| Line { number, url: line.to_owned() }).collect());
    }
    let invalid = |error: &dyn std::fmt::Display| format!("the sitemap is not valid XML: {error}");
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut urls, mut current) = (Vec::new(), None::<String>);
    let (mut number, mut counted) = (1, 0);
    loop {
        use quick_xml::events::Event;
        match reader.read_event().map_err(|error| invalid(&error))? {
            Event::Start(tag) if tag.local_name().as_ref() == "loc" => current = Some(String::new()),
            Event::Text(piece) => {
                if let Some(url) = &mut current {
                    url.push_str(&piece);
                }
            }
            Event::GeneralRef(reference) => {
                if let Some(url) = &mut current {
                    let name: &str = &reference;
                    let character = match quick_xml::escape::resolve_predefined_entity(name) {
                        Some(text) => text.to_owned(),
                        None => {
                            let resolved = reference.resolve_char_ref().map_err(|error| invalid(&error))?;
                            resolved.map(String::from).ok_or_else(|| invalid(&format!("unknown entity &{name};")))?
                        }
                    };
                    url.push_str(&character);
                }
            }
            Event::End(tag) if tag.local_name().as_ref() == "loc" => {
                let position = reader.buffer_position() as usize;
                number += text[counted..position].matches('\n').count();
                counted = position;
                let url = current.take().map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
                urls.extend(url.map(|url| Line { number, url }));
            }
            Event::Eof => return Ok(urls),
            _ => {}
        }
    }
}

fn stop_on_ctrl_c() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot set up signals: {error}"))?;
    std::thread::spawn(move || {
        // Without it, Ctrl-C ends the command, and the node goes on.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            STOP.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

#[derive(Default)]
struct Report {
    total: u64,
    stored: u64,
    there: u64,
    not_stored: u64,
    /// URL and reason, of the first of each batch.
    failures: Vec<(String, String)>,
    stopped: bool,
}

impl Report {
    fn done(&self) -> u64 {
        self.stored + self.there + self.not_stored
    }

    /// A bar, where somebody sees it.
    fn show(&self, progress: &Value) {
        if std::io::stderr().is_terminal() {
            let done = self.done() + progress["done"].as_u64().unwrap_or(0);
            let tenths = (done * 20 / self.total.max(1)).min(20) as usize;
            let bar = format!("{}{}", "#".repeat(tenths), "-".repeat(20 - tenths));
            let _ = write!(std::io::stderr(), "\r[{bar}] {done} of {}", self.total); // only for show
        }
    }

    fn add(&mut self, progress: &Value) {
        let number = |name: &str| progress[name].as_u64().unwrap_or(0);
        self.stored += number("stored");
        self.there += number("there");
        self.not_stored += number("not_stored");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let failures = super::list(&progress["failures"]);
        self.failures.extend(failures.map(|failure| (text(&failure["url"]), text(&failure["reason"]))));
    }

    fn print(&self, verbose: bool) {
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        let how = if self.stopped { "stopped after" } else { "done:" };
        println!("{how} {} of {}", self.done(), self.total);
        println!("  stored      {}", self.stored);
        println!("  were there  {}", self.there);
        println!("  not stored  {}", self.not_stored);
        let mut reasons = BTreeMap::<&str, u64>::new();
        self.failures.iter().for_each(|(_, reason)| *reasons.entry(reason).or_default() += 1);
        for (reason, times) in reasons {
            println!("    {times} {reason}");
        }
        if verbose {
            self.failures.iter().for_each(|(url, reason)| println!("{url}: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_sitemaps() {
        let list = "# a list\nhttps://a.example/1\n\n  a.example/2?b=c&d  \n";
        let read = |text: &str| -> Vec<(usize, String)> {
            urls_in(text).unwrap().into_iter().map(|line| (line.number, line.url)).collect()
        };
        let line = |number: usize, url: &str| (number, url.to_owned());
        assert_eq!(read(list), [line(2, "https://a.example/1"), line(4, "a.example/2?b=c&d")]);
        let sitemap = "<?xml version=\"1.0\"?>\n<urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\">\
            <url><loc>https://a.example/1?b=c&amp;d=&#101;</loc><lastmod>2020-01-01</lastmod></url>\
            \n\n<url><loc> https://a.example/2 </loc></url><url><loc/></url></urlset>";
        assert_eq!(read(sitemap), [line(2, "https://a.example/1?b=c&d=e"), line(4, "https://a.example/2")]);
        assert!(urls_in("<urlset><loc>a</urlset>").is_err());
        assert!(urls_in("<loc>&nope;</loc>").is_err());
        assert!(urls_in("").unwrap().is_empty());
    }
}
