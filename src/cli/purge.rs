//! `seawall purge`.

use serde_json::json;

use super::admin_client::AdminArgs;
use super::counted;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("target").required(true).multiple(true).args(["urls", "prefix", "tags", "site", "all"])))]
pub(crate) struct Args {
    /// URLs to purge, in all their variants and versions.
    #[arg(conflicts_with_all = ["prefix", "tags", "site", "all"])]
    urls: Vec<String>,
    /// Purge all URLs that begin with this.
    #[arg(long, value_name = "URL", conflicts_with_all = ["tags", "site", "all"])]
    prefix: Option<String>,
    /// Purge everything with this tag; may be given more than once.
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "all")]
    tags: Vec<String>,
    /// Purge a whole site, or with --tag what has that tag in it.
    #[arg(long, conflicts_with = "all")]
    site: Option<String>,
    /// Purge everything.
    #[arg(long)]
    all: bool,
    /// Mark it stale instead: it may be validated, and served while that goes on.
    #[arg(long)]
    soft: bool,
    /// Only count what it would hit.
    #[arg(long, conflicts_with = "refetch")]
    dry_run: bool,
    /// Fetch so many of what it hits anew, the most requested first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    refetch: u64,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let mut body = json!({ "soft": args.soft });
    for (name, value, is_given) in [
        ("urls", json!(args.urls), !args.urls.is_empty()),
        ("prefix", json!(args.prefix), args.prefix.is_some()),
        ("tags", json!(args.tags), !args.tags.is_empty()),
        ("site", json!(args.site), args.site.is_some()),
        ("all", json!(true), args.all),
        ("dry_run", json!(true), args.dry_run),
        ("refetch", json!(args.refetch), args.refetch > 0),
    ] {
        if is_given {
            body[name] = value;
        }
    }
    let answer = args.admin.post("/v1/purge", &body)?;
    if args.dry_run {
        for (tier, place) in [("memory", "in memory"), ("disk", "on disk")] {
            let (objects, bytes) =
                (counted(&answer[tier]["objects"], "object"), counted(&answer[tier]["bytes"], "byte"));
            println!("it would hit {objects} ({bytes}) {place}");
        }
    } else {
        let lasts = if answer["durable"] == true {
            "durable and in force"
        } else {
            "in force until a restart, as the cache is (no state_dir),"
        };
        println!("purged: number {}, {lasts} after {} us", answer["seq"], answer["took_us"]);
    }
    Ok(())
}
