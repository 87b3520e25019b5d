//! `seawall status`.

use std::time::Duration;

use serde_json::Value;

use crate::config::units::{count, format_duration};

use super::admin_client::AdminArgs;
use super::{counted, list, pools, text};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the API's answers as they are.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn execute(args: &Args) -> super::Result {
    let (status, pools) = (args.admin.get("/v1/status")?, args.admin.get("/v1/pools")?);
    if args.json {
        println!("{}", serde_json::json!({ "status": status, "pools": pools["pools"] }));
    } else {
        print!("{}", render(&status, &pools));
    }
    Ok(())
}

/// The status for a person to read.
fn render(status: &Value, pools: &Value) -> String {
    let mut out = format!(
        "{} {} (seawall {}), up {}, {}\n",
        text(&status["node"]),
        text(&status["state"]),
        text(&status["version"]),
        format_duration(Duration::from_secs(status["uptime_s"].as_u64().unwrap_or(0))),
        counted(&status["connections"], "connection"),
    );
    let config = &status["config"];
    let reload = &config["last_reload"];
    let verdict = match reload["ok"].as_bool() {
        None => "never reloaded".to_owned(),
        Some(true) => "last reload ok".to_owned(),
        Some(false) => {
            let mistakes = count(list(&reload["errors"]).count() as u64, "mistake");
            format!("LAST RELOAD REFUSED, {mistakes} (see seawall check)")
        }
    };
    out += &format!("config   generation {} of {}, {verdict}\n", config["generation"], text(&config["source"]));
    for what in list(&config["needs_restart"]) {
        out += &format!("           NEEDS A RESTART: {}\n", text(what));
    }
    let memory = &status["cache"]["memory"];
    let fills = counted(&status["cache"]["fills"], "fill");
    out += &format!("memory   {}, {}, {fills} running\n", share(memory), counted(&memory["keys"], "key"));
    for disk in list(&status["cache"]["disk"]) {
        out += &render_disk(disk);
    }
    out += &format!("purges   number {}, {} in force\n", status["purges"]["seq"], status["purges"]["marks"]);
    for site in list(&status["sites"]) {
        out += &render_site(site, &memory["sites"][text(&site["name"])]);
    }
    out += &pools::render(pools);
    out
}

/// The share of requests that needed no origin, of those that the cache had to do with, since the start.
fn hit_ratio(served: &Value) -> String {
    let sum = |names: &[&str]| names.iter().map(|name| served[*name].as_u64().unwrap_or(0)).sum::<u64>();
    match (sum(&["hit", "stale"]), sum(&["hit", "stale", "miss", "expired"])) {
        (_, 0) => String::new(),
        (hits, all) => format!(", {} % hits of {}", hits * 100 / all, count(all, "request")),
    }
}

/// A site, with what it has of what has a bound; `memory`: its own part, if it has one.
fn render_site(site: &Value, memory: &Value) -> String {
    let mut line = format!("site     {} version {}", text(&site["name"]), site["version"]);
    let requests = &site["requests"];
    if requests["max"].is_number() {
        line += &format!(", {} of {} requests ({} refused)", requests["running"], requests["max"], requests["refused"]);
    }
    line += &hit_ratio(&site["served"]);
    if memory.is_object() {
        line += &format!(", memory {}", share(memory));
    }
    line + "\n"
}

/// One directory of the disk tier; while it is scanned with a bar.
fn render_disk(disk: &Value) -> String {
    let reason = disk["reason"].as_str().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let mut out = format!(
        "disk     {} {}, {}, {}, index {}{reason}\n",
        text(&disk["path"]),
        text(&disk["state"]),
        share(disk),
        counted(&disk["objects"], "object"),
        size(disk["index_bytes"].as_u64().unwrap_or(0)),
    );
    let scan = &disk["scan"];
    if scan["done"] == Value::Bool(false) {
        let percent = scan["percent"].as_u64().unwrap_or(100).min(100) as usize;
        let (done, left) = ("#".repeat(percent / 5), "-".repeat(20 - percent / 5));
        out += &format!("           scan [{done}{left}] {percent} %, {} so far\n", counted(&scan["files"], "object"));
    }
    for trouble in list(&disk["troubles"]).filter(|trouble| trouble[1].as_u64() > Some(0)) {
        out += &format!("           {} {}\n", text(&trouble[0]), counted(&trouble[1], "time"));
    }
    out
}

/// How much of its space a tier takes.
fn share(tier: &Value) -> String {
    let [bytes, most] = ["bytes", "max_bytes"].map(|name| tier[name].as_u64().unwrap_or(0));
    format!("{} of {} ({} %)", size(bytes), size(most), bytes * 100 / most.max(1))
}

fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_readable_and_incomplete_answers_do_no_harm() {
        let status = serde_json::json!({
            "node": "edge-1", "state": "serving", "version": "1", "uptime_s": 3661, "connections": 2,
            "config": { "generation": 3, "source": "a.toml", "last_reload": { "ok": false, "errors": [{}] },
                "needs_restart": ["[[listen]]"] },
            "cache": { "memory": { "bytes": 1536, "max_bytes": 1 << 20, "keys": 5,
                "sites": { "shop": { "bytes": 512, "max_bytes": 1024, "keys": 1 } } }, "fills": 0, "disk": [{
                "path": "/var/cache/seawall", "state": "read only", "reason": "EROFS", "bytes": 4096, "max_bytes": 1 << 30,
                "objects": 1, "index_bytes": 75, "scan": { "done": false, "percent": 42, "files": 1 },
                "troubles": [["disk-full", 3], ["disk-slow", 0]]
            }] },
            "purges": { "seq": 7, "marks": 1 }, "sites": [{ "name": "shop", "version": 2, "served": { "hit": 90, "stale": 1, "miss": 6, "expired": 3, "pass": 50 }, "requests": { "running": 3, "max": 100, "refused": 7 } }],
        });
        let pools = serde_json::json!({ "pools": [{ "name": "app", "balance": "random", "origins": [
            { "address": "127.0.0.1:1", "status": "down", "since_s": 7300, "reason": "refused", "active": 0, "requests": 9, "failures": 1, "last_error": "refused" }
        ] }] });
        let shown = render(&status, &pools);
        for part in [
            "up 1h1m1s",
            "REFUSED, 1 mistake (",
            "NEEDS A RESTART: [[listen]]",
            "1.5 KiB of 1.0 MiB",
            "site     shop version 2, 3 of 100 requests (7 refused), 91 % hits of 100 requests, memory 512 B of 1.0 KiB (50 %)\n",
            "down 2h ",
            "(refused)",
            "disk     /var/cache/seawall read only, 4.0 KiB of 1.0 GiB (0 %), 1 object,",
            "(EROFS)",
            "[########------------] 42 %",
            "disk-full 3 times",
            "2 connections",
            "5 keys, 0 fills running",
            "9 requests, 1 failure (",
            "42 %, 1 object so far",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        render(&Value::Null, &Value::Null);
    }
}
