//! Names of origins, looked up in the background, and again when what was found is no longer good. A name that does not resolve
//! blocks nothing: its origin keeps the addresses it had, or is not used until it has some.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::model::Endpoint;

use super::address::Place;
use super::dns::Resolver;
use super::member::Member;
use super::pool::PoolRuntime;

/// How soon a name that did not resolve is tried again: twice as long each time, and no longer than eight times.
const RETRY: Duration = Duration::from_secs(1);
/// For how long what is found is taken as good: at least, where nobody says, and at most, where the configuration does not say.
const SHORTEST: Duration = Duration::from_secs(1);
const UNSAID: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);

/// When what was found is looked up again: when its TTL is over, and by the pool's `resolve_interval` at the latest.
pub(super) fn again_after(ttl: Option<Duration>, longest: Option<Duration>) -> Duration {
    let longest = longest.unwrap_or(LONGEST);
    ttl.unwrap_or(UNSAID.min(longest)).clamp(SHORTEST.min(longest), longest)
}

/// When what has failed so many times in a row is tried again.
pub(super) fn retry_after(failures: u32) -> Duration {
    RETRY * (1 << failures.saturating_sub(1).min(3))
}

/// A task for an origin that is known by name.
pub(crate) fn start(pool: &Arc<PoolRuntime>, member: &Arc<Member>, resolver: &Arc<Resolver>, tasks: &mut JoinSet<()>) {
    if let Endpoint::Name { host, port } = &member.origin.endpoint {
        tasks.spawn(keep_resolved(pool.clone(), member.clone(), resolver.clone(), host.clone(), *port));
    }
}

async fn keep_resolved(pool: Arc<PoolRuntime>, member: Arc<Member>, resolver: Arc<Resolver>, host: String, port: u16) {
    let (config, origin) = (&pool.config, &member.origin);
    let mut failures = 0;
    loop {
        let places = origin.addresses();
        let known: Vec<IpAddr> = places.iter().filter_map(Place::ip).collect();
        let found = resolver.addresses(&config.resolvers, &host, &known).await;
        let pause = match &found {
            Ok(answer) => {
                let of = |ip: &IpAddr| Place::Inet(SocketAddr::new(*ip, port));
                let now: Vec<Place> = answer.found.iter().map(of).collect();
                if now != places {
                    let addresses = now.iter().map(Place::to_string).collect::<Vec<_>>().join(" ");
                    tracing::info!(pool = %config.name, origin = %origin.address, addresses, "origin resolved");
                    origin.set_addresses(&now);
                    pool.changed(origin, None);
                    member.kept.keep_only(&now); // those that have gone get nothing more
                }
                again_after(answer.ttl, config.resolve_interval)
            }
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    let keeps = if places.is_empty() { "none is known" } else { "it keeps those it had" };
                    let (pool, origin) = (&config.name, &origin.address);
                    member.origin.set_error(Some(&format!("its name cannot be looked up: {error}")));
                    tracing::warn!(%pool, %origin, error, "the addresses of an origin cannot be looked up; {keeps}; trying on");
                }
                retry_after(failures)
            }
        };
        origin.set_looked_up();
        if found.is_ok() {
            failures = 0;
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_again_when_their_time_is_over() {
        let seconds = Duration::from_secs;
        for (ttl, longest, expected) in [
            (Some(60), None, 60),
            (Some(0), None, 1),
            (Some(86_400), None, 300),
            (None, None, 30),
            (Some(60), Some(5), 5),
            (None, Some(5), 5),
            (Some(600), Some(3600), 600),
            (Some(2), Some(5), 2),
        ] {
            assert_eq!(again_after(ttl.map(seconds), longest.map(seconds)), seconds(expected), "{ttl:?} {longest:?}");
        }
    }
}
