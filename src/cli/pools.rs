//! `seawall pools`: how origins stand, and what is ordered of them.

use std::time::Duration;

use serde_json::{Value, json};

use super::admin_client::AdminArgs;
use super::{counted, lasting, list, text};

/// How often the table is shown anew.
const EVERY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Option<Order>,
    /// Show the table anew each second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// Print the API's answer as it is.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(clap::Subcommand)]
enum Order {
    /// Give an origin no new requests, until it is enabled; also after a restart.
    Drain { pool: String, origin: String },
    /// Give it requests again.
    Enable { pool: String, origin: String },
    /// Give it another weight than the configured one, from 1 to 1000; without a number the configured one counts again.
    Weight { pool: String, origin: String, weight: Option<u16> },
    /// Have a pool give another share of its requests to the pool of its split: 5% or 0.05; without one the configured share counts again.
    Split {
        pool: String,
        #[arg(value_parser = parse_share)]
        share: Option<f64>,
    },
}

pub(crate) fn execute(args: &Args) -> super::Result {
    if let Some(order) = &args.order {
        return give(order, &args.admin);
    }
    loop {
        let pools = args.admin.get("/v1/pools")?;
        match (args.json, args.watch) {
            (true, _) => println!("{pools}"),
            (false, true) => print!("\x1b[H\x1b[2J{}", render(&pools)),
            (false, false) => print!("{}", render(&pools)),
        }
        if !args.watch {
            return Ok(());
        }
        super::pause(EVERY);
    }
}

/// A share as a person writes it.
fn parse_share(text: &str) -> Result<f64, String> {
    if text.trim() == "1" {
        return Err("write 1% or 100%: which is meant?".to_owned());
    }
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    let share = share.ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0% to 100%, or from 0 to 1".to_owned())
}

fn give(order: &Order, admin: &AdminArgs) -> super::Result {
    let escaped = |name: &str| form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
    let (pool, origin, what, body) = match order {
        Order::Drain { pool, origin } => (pool, origin, "drain", Value::Null),
        Order::Enable { pool, origin } => (pool, origin, "enable", Value::Null),
        Order::Weight { pool, origin, weight } => (pool, origin, "weight", json!({ "weight": weight })),
        Order::Split { pool, share } => {
            let answer = admin.post(&format!("/v1/pools/{}/split", escaped(pool)), &json!({ "share": share }))?;
            println!("{pool}: {} of its requests go to {}", percent(&answer["share"]), text(&answer["to"]));
            note_durable(&answer);
            return Ok(());
        }
    };
    let answer = admin.post(&format!("/v1/pools/{}/origins/{}/{what}", escaped(pool), escaped(origin)), &body)?;
    let weight = answer["weight"].as_u64().map(|weight| format!(", weight {weight}")).unwrap_or_default();
    let active = counted(&answer["active"], "active request");
    println!("{origin} of {pool}: {}{weight}, {active}", text(&answer["status"]));
    note_durable(&answer);
    Ok(())
}

fn note_durable(answer: &Value) {
    if answer["durable"] != true {
        println!("a restart forgets it: it could not be written, or there is no state_dir in [node]");
    }
}

/// As a person reads a share.
fn percent(share: &Value) -> String {
    format!("{} %", (share.as_f64().unwrap_or(0.0) * 1000.0).round() / 10.0)
}

/// A table for a person to read.
pub(super) fn render(pools: &Value) -> String {
    let mut out = String::new();
    for pool in list(&pools["pools"]) {
        out += &format!("pool     {} ({})\n", text(&pool["name"]), text(&pool["balance"]));
        let levels: Vec<&Value> = list(&pool["levels"]).collect();
        for level in levels.iter().filter(|level| levels.len() > 1 || level["panic"] == true) {
            out += &render_level(level);
        }
        if pool["queue"].is_object() {
            let queue = &pool["queue"];
            out += &format!("           {} of {} that may wait for room\n", queue["waiting"], queue["max"]);
        }
        if pool["hedge"].is_object() {
            let hedge = &pool["hedge"];
            let after = hedge["after_ms"].as_f64().map_or("unknown yet".to_owned(), |after| format!("{after:.1} ms"));
            out += &format!("           hedged after {after}: {} sent, {} won\n", hedge["sent"], hedge["won"]);
        }
        if pool["split"].is_object() {
            let split = &pool["split"];
            out += &format!("           {} of the requests go to {}\n", percent(&split["share"]), text(&split["to"]));
        }
        if pool["mirror"].is_object() {
            let mirror = &pool["mirror"];
            out += &format!(
                "           copies go to {}: {} answered, {} failed, {} left out\n",
                text(&mirror["to"]),
                mirror["answered"],
                mirror["failed"],
                mirror["left_out"]
            );
        }
        for source in list(&pool["sources"]) {
            let error = source["error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
            out += &format!(
                "           {} from {}{error}\n",
                counted(&source["origins"], "origin"),
                text(&source["from"])
            );
        }
        for origin in list(&pool["origins"]) {
            out += &render_origin(origin);
        }
    }
    out
}

/// A priority in a region, where there are several.
fn render_level(level: &Value) -> String {
    let percent = |value: &Value| (value.as_f64().unwrap_or(0.0) * 100.0).round();
    let region = level["region"].as_str().map(|region| format!(" in {region}")).unwrap_or_default();
    let panic = if level["panic"] == true { ", PANIC: all its origins are asked" } else { "" };
    let (health, share) = (percent(&level["health"]), percent(&level["share"]));
    format!("           priority {}{region}: {health} % well, {share} % of the requests{panic}\n", level["priority"])
}

fn render_origin(origin: &Value) -> String {
    let why = origin["reason"].as_str().filter(|_| origin["status"] != "up").or(origin["last_error"].as_str());
    let error = why.map(|error| format!(" ({error})")).unwrap_or_default();
    let weight = origin["weight"].as_u64().filter(|weight| *weight != 1);
    let weight = weight.map(|weight| format!(", weight {weight}")).unwrap_or_default();
    format!(
        "           {:<24} {:<14} {} active, {}, {}{weight}{error}\n",
        text(&origin["address"]),
        format!("{} {}", text(&origin["status"]), lasting(&origin["since_s"])),
        origin["active"],
        counted(&origin["requests"], "request"),
        counted(&origin["failures"], "failure"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_shown() {
        for (text, expected) in [
            ("5%", Some("5 %")),
            ("0.055", Some("5.5 %")),
            ("100 %", Some("100 %")),
            ("0", Some("0 %")),
            ("101%", None),
            ("x", None),
            ("1", None),
        ] {
            assert_eq!(parse_share(text).ok().map(|share| percent(&json!(share))).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn levels_are_shown_where_there_are_several() {
        let level = |region: &str, health: f64, share: f64, panic: bool| json!({ "priority": 1, "region": region, "health": health, "share": share, "panic": panic });
        let origin = json!({ "address": "127.0.0.1:1", "status": "ejected", "since_s": 65, "reason": "5 failures", "active": 2, "requests": 9, "failures": 5, "weight": 3 });
        let of = |levels: Value| json!({ "pools": [{ "name": "app", "balance": "p2c", "levels": levels, "origins": [origin] }] });
        let two = render(&of(json!([level("eu", 0.35, 0.5, false), level("us", 1.0, 0.5, false)])));
        assert!(two.contains("priority 1 in eu: 35 % well, 50 % of the requests\n"), "{two}");
        assert!(two.contains("ejected 1m     2 active, 9 requests, 5 failures, weight 3 (5 failures)"), "{two}");
        let one = render(&of(json!([level("eu", 1.0, 1.0, false)])));
        assert!(!one.contains("priority"), "{one}");
        let panic = render(&of(json!([level("eu", 0.1, 1.0, true)])));
        assert!(panic.contains("PANIC"), "{panic}");
    }
}
