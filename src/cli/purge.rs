//! `seawall purge`.

use serde_json::{Map, Value, json};

use super::admin_client::AdminArgs;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["urls", "prefix", "tags", "site", "all"])))]
pub struct Args {
    /// URLs to purge, in all their variants and versions.
    urls: Vec<String>,
    /// Purge all URLs that begin with this.
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// Purge everything with this tag; may be given more than once.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Purge a whole site.
    #[arg(long)]
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

pub fn execute(args: &Args) -> super::Result {
    let mut body = Map::new();
    if !args.urls.is_empty() {
        body.insert("urls".into(), json!(args.urls));
    }
    if let Some(prefix) = &args.prefix {
        body.insert("prefix".into(), json!(prefix));
    }
    if !args.tags.is_empty() {
        body.insert("tags".into(), json!(args.tags));
    }
    if let Some(site) = &args.site {
        body.insert("site".into(), json!(site));
    }
    if args.all {
        body.insert("all".into(), json!(true));
    }
    body.insert("soft".into(), json!(args.soft));
    if args.dry_run {
        body.insert("dry_run".into(), json!(true));
        let would = args.admin.post("/v1/purge", &Value::Object(body))?;
        for tier in ["memory", "disk"] {
            println!("it would hit {} objects ({} bytes) in {tier}", would[tier]["objects"], would[tier]["bytes"]);
        }
        return Ok(());
    }
    if args.refetch > 0 {
        body.insert("refetch".into(), json!(args.refetch));
    }
    let done = args.admin.post("/v1/purge", &Value::Object(body))?;
    println!("purged: number {}, durable and in force after {} us", done["seq"], done["took_us"]);
    Ok(())
}
