//! SRV records (RFC 2782) as origins.

use std::net::IpAddr;

use crate::config::model::{Endpoint, Origin};

/// The highest weight and priority that an origin may have.
const MOST_WEIGHT: u32 = 1000;
const LAST_PRIORITY: u16 = 100;

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Without a dot at its end.
    pub host: String,
    pub port: u16,
    pub priority: u16,
    pub weight: u16,
}

/// The origins of some targets, in order. The lowest of their priorities is that of `like`, the next one comes after it, and so on;
/// their weights are in proportion. The target `.` says that there is no such service.
pub(super) fn origins(mut targets: Vec<Target>, like: &Origin) -> Vec<Origin> {
    targets.retain(|target| !target.host.is_empty() && target.port != 0);
    targets.sort_by(|one, other| (one.priority, &one.host, one.port).cmp(&(other.priority, &other.host, other.port)));
    targets.dedup_by(|one, other| (&one.host, one.port) == (&other.host, other.port));
    let heaviest = targets.iter().map(|target| u32::from(target.weight)).max().unwrap_or(0);
    let mut priorities: Vec<u16> = targets.iter().map(|target| target.priority).collect();
    priorities.dedup();
    let origin = |target: Target| {
        let rank = priorities.iter().position(|priority| *priority == target.priority).unwrap_or(0);
        let weight = match heaviest {
            0..=MOST_WEIGHT => u32::from(target.weight),
            heaviest => u32::from(target.weight) * MOST_WEIGHT / heaviest,
        };
        let endpoint = match target.host.parse::<IpAddr>() {
            Ok(ip) => Endpoint::Address((ip, target.port).into()),
            Err(_) => Endpoint::Name { host: target.host.clone(), port: target.port },
        };
        Origin {
            address: format!("{}:{}", target.host, target.port).into(),
            endpoint,
            weight: weight.max(1) as u16, // a weight of 0 is a small one
            priority: like.priority.saturating_add(rank as u16).min(LAST_PRIORITY),
            ..like.clone()
        }
    };
    targets.into_iter().map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_origins_by_priority_and_weight() {
        let target = |host: &str, port, priority, weight| Target { host: host.to_owned(), port, priority, weight };
        let like = Origin { priority: 2, ..Origin::new("".into(), Endpoint::Name { host: String::new(), port: 1 }) };
        for (targets, expected) in [
            (
                vec![target("b.x", 80, 20, 0), target("a.x", 80, 10, 60), target("a.x", 81, 10, 20)],
                &[("a.x:80", 60, 2), ("a.x:81", 20, 2), ("b.x:80", 1, 3)][..],
            ),
            (vec![target("a", 1, 0, 60_000), target("b", 1, 0, 30_000)], &[("a:1", 1000, 2), ("b:1", 500, 2)]),
            (vec![target("a", 1, 0, 0), target("a", 1, 0, 0)], &[("a:1", 1, 2)]),
            (vec![target("", 0, 0, 0)], &[]),
            (vec![target("a", 1, 5, 0), target("a", 1, 9, 0)], &[("a:1", 1, 2)]),
        ] {
            let found = origins(targets, &like);
            let shown: Vec<_> = found.iter().map(|one| (&*one.address, one.weight, one.priority)).collect();
            assert_eq!(shown, expected);
        }
    }
}
