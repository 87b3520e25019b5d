//! `seawall warm`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::units::count;

use super::admin_client::AdminArgs;
use super::url_list::{self, Line, UrlList};

/// URLs in one call, and their bytes: of a body that is taken half, for what stands between them.
const BATCH: usize = 10_000;
const BATCH_BYTES: usize = 4 << 20;
/// How often it asks for the progress.
const EVERY: Duration = Duration::from_millis(200);
/// Sitemaps of an index that are followed.
const MAX_SITEMAPS: usize = 1000;
/// How long fetching one may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the URLs are: a file with one on each line, a sitemap.xml, its URL, or "-" for standard input.
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
    let urls = urls_of(&args.from)?;
    if urls.is_empty() {
        return Err(format!("there are no URLs in {}", args.from.display()).into());
    }
    stop_on_ctrl_c()?;
    let mut report = Report { total: urls.len() as u64, ..Report::default() };
    for batch in batches(&urls) {
        let job = start(args, batch)?;
        report.refused += super::list(&job["refused"]).count() as u64;
        if job["id"].is_null() {
            continue; // none of them was taken
        }
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
            super::pause(EVERY);
        };
        report.add(&done);
        if STOP.load(Ordering::Relaxed) {
            report.stopped = true;
            break;
        }
    }
    report.print(args.verbose);
    match report.refused {
        0 => Ok(()),
        refused => Err(format!("{} not taken; see above", count(refused, "line"))).map_err(Into::into),
    }
}

/// What goes in one call each; a single line may be too long for any.
fn batches(mut urls: &[Line]) -> impl Iterator<Item = &[Line]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |line: &&Line| {
            bytes += line.url.len();
            bytes <= BATCH_BYTES
        };
        let count = urls.iter().take(BATCH).take_while(fits).count();
        let (batch, rest) = urls.split_at_checked(count.max(1))?;
        urls = rest;
        Some(batch)
    })
}

/// Has the node begin with some. Lines that it does not take are told, and left out.
fn start(args: &Args, batch: &[Line]) -> std::result::Result<Value, Box<dyn std::error::Error>> {
    let urls: Vec<&str> = batch.iter().map(|line| &*line.url).collect();
    let job =
        args.admin.post("/v1/warm", &json!({ "urls": urls, "concurrency": args.concurrency, "leave_out": true }))?;
    for refused in super::list(&job["refused"]) {
        let line = refused["index"].as_u64().and_then(|index| batch.get(index as usize));
        let number = line.map_or(0, |line| line.number);
        eprintln!("{}:{number}: {}", args.from.display(), super::text(&refused["detail"]));
    }
    Ok(job)
}

/// The URLs of a file. An index of sitemaps is followed.
fn urls_of(from: &Path) -> Result<Vec<Line>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", from.display());
    let bytes = match from.as_os_str() == "-" {
        true => url_list::read_bounded(std::io::stdin().lock()).map_err(|error| cannot(&error)),
        false => match from.to_str().filter(|from| from.starts_with("http://") || from.starts_with("https://")) {
            Some(url) => fetch(url).map_err(|error| cannot(&error)),
            None => std::fs::File::open(from).and_then(url_list::read_bounded).map_err(|error| cannot(&error)),
        },
    };
    match UrlList::read(bytes?).map_err(|error| cannot(&error))? {
        UrlList::Pages(lines) => Ok(lines),
        UrlList::Sitemaps(sitemaps) if sitemaps.len() > MAX_SITEMAPS => {
            Err(cannot(&format!("it names {} sitemaps; {MAX_SITEMAPS} are followed at most", sitemaps.len())))
        }
        UrlList::Sitemaps(sitemaps) => {
            let mut all = Vec::new();
            for Line { number, url } in sitemaps {
                let at = |error: String| format!("{}:{number}: the sitemap {url}: {error}", from.display());
                match UrlList::read(fetch(&url).map_err(at)?).map_err(at)? {
                    UrlList::Pages(lines) => all.extend(lines.into_iter().map(|line| Line { number, ..line })),
                    UrlList::Sitemaps(_) => return Err(at("it is an index itself, which is not followed".to_owned())),
                }
            }
            Ok(all)
        }
    }
}

/// A sitemap from its URL.
fn fetch(url: &str) -> Result<Vec<u8>, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(FETCH_PATIENCE)).build().into();
    let mut response = agent.get(url).call().map_err(|error| match url.starts_with("https:") {
        true => format!("{error}; by https: fetch it yourself, such as by curl, and give the file"),
        false => error.to_string(),
    })?;
    url_list::read_bounded(response.body_mut().as_reader()).map_err(|error| error.to_string())
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
    /// Lines that the node did not take.
    refused: u64,
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
