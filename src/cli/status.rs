//! `seawall status`.

use std::time::Duration;

use serde_json::Value;

use crate::config::units::format_duration;

use super::admin_client::AdminArgs;

#[derive(clap::Args)]
pub struct Args {
    /// Print the API's answers as they are.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub fn execute(args: &Args) -> super::Result {
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
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let memory = &status["cache"]["memory"];
    let mut out = format!(
        "{} {} (seawall {}), up {}, {} connections\n",
        text(&status["node"]),
        text(&status["state"]),
        text(&status["version"]),
        format_duration(Duration::from_secs(number(&status["uptime_s"]))),
        status["connections"],
    );
    let reload = &status["config"]["last_reload"];
    let verdict = match reload["ok"].as_bool() {
        None => "never reloaded".to_owned(),
        Some(true) => "last reload ok".to_owned(),
        Some(false) => {
            let count = reload["errors"].as_array().map_or(0, Vec::len);
            format!("LAST RELOAD REFUSED, {count} mistakes (see seawall check)")
        }
    };
    let config = &status["config"];
    out += &format!("config   generation {} of {}, {verdict}\n", config["generation"], text(&config["source"]));
    let (bytes, most) = (number(&memory["bytes"]), number(&memory["max_bytes"]));
    out += &format!(
        "memory   {} of {} ({} %), {} keys, {} fills running\n",
        size(bytes),
        size(most),
        bytes * 100 / most.max(1),
        memory["keys"],
        status["cache"]["fills"],
    );
    for disk in status["cache"]["disk"].as_array().into_iter().flatten() {
        out += &render_disk(disk);
    }
    out += &format!("purges   number {}, {} in force\n", status["purges"]["seq"], status["purges"]["marks"]);
    for site in status["sites"].as_array().into_iter().flatten() {
        out += &format!("site     {} version {}\n", text(&site["name"]), site["version"]);
    }
    for pool in pools["pools"].as_array().into_iter().flatten() {
        out += &format!("pool     {} ({})\n", text(&pool["name"]), text(&pool["balance"]));
        for origin in pool["origins"].as_array().into_iter().flatten() {
            out += &format!(
                "           {:<24} {:<10} {} active, {} requests, {} failures",
                text(&origin["address"]),
                text(&origin["status"]),
                origin["active"],
                origin["requests"],
                origin["failures"],
            );
            if let Some(error) = origin["last_error"].as_str() {
                out += &format!(" ({error})");
            }
            out.push('\n');
        }
    }
    out
}

/// One directory of the disk tier; while it is scanned with a bar.
fn render_disk(disk: &Value) -> String {
    let number = |name: &str| disk[name].as_u64().unwrap_or(0);
    let (bytes, most) = (number("bytes"), number("max_bytes"));
    let mut out = format!(
        "disk     {} {}, {} of {} ({} %), {} objects, index {}",
        disk["path"].as_str().unwrap_or("-"),
        disk["state"].as_str().unwrap_or("-"),
        size(bytes),
        size(most),
        bytes * 100 / most.max(1),
        number("objects"),
        size(number("index_bytes")),
    );
    if let Some(reason) = disk["reason"].as_str() {
        out += &format!(" ({reason})");
    }
    out.push('\n');
    let percent = disk["scan"]["percent"].as_u64().unwrap_or(100).min(100) as usize;
    if disk["scan"]["done"] == Value::Bool(false) {
        let (done, left) = ("#".repeat(percent / 5), "-".repeat(20 - percent / 5));
        out += &format!("           scan [{done}{left}] {percent} %, {} objects so far\n", disk["scan"]["files"]);
    }
    let troubles = disk["troubles"].as_array().into_iter().flatten();
    for trouble in troubles.filter(|trouble| trouble[1].as_u64() > Some(0)) {
        out += &format!("           {} {} times\n", trouble[0].as_str().unwrap_or("-"), trouble[1]);
    }
    out
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
            "config": { "generation": 3, "source": "a.toml", "last_reload": { "ok": false, "errors": [{}] } },
            "cache": { "memory": { "bytes": 1536, "max_bytes": 1 << 20, "keys": 5 }, "fills": 0, "disk": [{
                "path": "/var/cache/seawall", "state": "read only", "reason": "EROFS", "bytes": 4096, "max_bytes": 1 << 30,
                "objects": 1, "index_bytes": 75, "scan": { "done": false, "percent": 42, "files": 1 },
                "troubles": [["disk-full", 3], ["disk-slow", 0]]
            }] },
            "purges": { "seq": 7, "marks": 1 }, "sites": [{ "name": "shop", "version": 2 }],
        });
        let pools = serde_json::json!({ "pools": [{ "name": "app", "balance": "random", "origins": [
            { "address": "127.0.0.1:1", "status": "down", "active": 0, "requests": 9, "failures": 3, "last_error": "refused" }
        ] }] });
        let shown = render(&status, &pools);
        for part in [
            "up 1h1m1s",
            "REFUSED, 1 mistakes",
            "1.5 KiB of 1.0 MiB",
            "site     shop version 2",
            "down",
            "(refused)",
            "disk     /var/cache/seawall read only, 4.0 KiB of 1.0 GiB (0 %), 1 objects",
            "(EROFS)",
            "[########------------] 42 %",
            "disk-full 3 times",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        render(&Value::Null, &Value::Null);
    }
}
