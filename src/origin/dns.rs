//! Questions to name servers, with the times for which their answers are good.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::srv::Target;

/// What the system's own configuration of names is in. It is read again when one of them has changed.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// How long all servers together have for an answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one has, and how often it is asked.
const EACH: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// How long the one family is waited for when the other is there. Only at first: later, what was known is kept.
const OTHER_FAMILY: Duration = Duration::from_secs(1);
/// For how long what is known of the one family counts where nothing is heard of the other.
const PARTLY: Duration = Duration::from_secs(30);
/// Look-ups by the system at one time: one that hangs takes a thread.
const MAX_BY_SYSTEM: usize = 32;

/// What was found, and for how long that is good; `None`: nobody says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer<T> {
    pub found: T,
    pub ttl: Option<Duration>,
}

/// Asks name servers: those that are configured, or the system's.
#[derive(Default)]
pub(crate) struct Resolver {
    made: Mutex<Option<Made>>,
}

struct Made {
    servers: Arc<[SocketAddr]>,
    /// Of the system's files when it was made.
    stamp: Vec<Option<(u64, u64, i64, i64)>>,
    resolver: TokioResolver,
}

/// The addresses of one family; `Err`: it is not known which there are.
type Family = Result<Answer<Vec<IpAddr>>, String>;

impl Resolver {
    /// All addresses of a name, in order. `known`: those that it had; they stay where nothing is heard of their family.
    pub(super) async fn addresses(
        &self,
        servers: &Arc<[SocketAddr]>,
        host: &str,
        known: &[IpAddr],
    ) -> Result<Answer<Vec<IpAddr>>, String> {
        let resolver = self.get(servers);
        let by_dns = async {
            let resolver = resolver.as_ref().map_err(Clone::clone)?;
            let (v4, v6) = both(family(resolver, host, RecordType::A), family(resolver, host, RecordType::AAAA)).await;
            joined(v4, v6, known)
        };
        let why = match timeout(DEADLINE, by_dns).await {
            Ok(Ok(answer)) if !answer.found.is_empty() => return Ok(answer),
            Ok(Ok(_)) => "it has no address".to_owned(),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        // The system may know names in other ways, too: nsswitch.conf(5).
        match servers.is_empty() {
            true => by_system(host).await.map_err(|_| why),
            false => Err(why),
        }
    }

    /// The targets of the SRV records of a name.
    pub(super) async fn targets(&self, servers: &Arc<[SocketAddr]>, name: &str) -> Result<Answer<Vec<Target>>, String> {
        let resolver = self.get(servers)?;
        let asking = timeout(DEADLINE, resolver.lookup(name, RecordType::SRV));
        let lookup = match asking.await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        let target = |data: &RData| match data {
            RData::SRV(srv) => Some(Target {
                host: srv.target.to_utf8().trim_end_matches('.').to_ascii_lowercase(),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
            }),
            _ => None,
        };
        let found: Vec<Target> = lookup.answers().iter().filter_map(|record| target(&record.data)).collect();
        Ok(Answer { ttl: ttl(&lookup), found })
    }

    /// As the files say now.
    fn get(&self, servers: &Arc<[SocketAddr]>) -> Result<TokioResolver, String> {
        let stamp: Vec<_> = SYSTEM_FILES.iter().map(|file| stamp(file)).collect();
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| made.stamp == stamp && made.servers == *servers) {
            return Ok(made.resolver.clone());
        }
        let resolver = make(servers).map_err(|error| format!("/etc/resolv.conf cannot be used: {error}"))?;
        *made = Some(Made { servers: servers.clone(), stamp, resolver: resolver.clone() });
        Ok(resolver)
    }
}

/// What tells one state of a file from another.
fn stamp(file: &str) -> Option<(u64, u64, i64, i64)> {
    let state = fs::metadata(file).ok()?;
    Some((state.ino(), state.size(), state.mtime(), state.mtime_nsec()))
}

fn make(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = match servers {
        [] => TokioResolver::builder_tokio()?,
        servers => {
            let server = |address: &SocketAddr| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            (builder.options_mut().timeout, builder.options_mut().attempts) = (EACH, ATTEMPTS);
            builder
        }
    };
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Always;
    options.cache_size = 0; // whoever asks keeps the answer, for as long as it is good
    options.case_randomization = false; // some servers answer in lower case
    builder.build()
}

async fn family(resolver: &TokioResolver, host: &str, family: RecordType) -> Family {
    match resolver.lookup(host, family).await {
        Ok(lookup) => {
            let address = |data: &RData| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            };
            let found = lookup.answers().iter().filter_map(|record| address(&record.data)).collect();
            Ok(Answer { ttl: ttl(&lookup), found })
        }
        Err(error) if error.is_no_records_found() => Ok(Answer { found: Vec::new(), ttl: None }),
        Err(error) => Err(describe(&error)),
    }
}

/// The answers to both questions; where the one has brought addresses, the other is not waited for long.
async fn both(v4: impl Future<Output = Family>, v6: impl Future<Output = Family>) -> (Family, Family) {
    tokio::pin!(v4, v6);
    let late = |_| Err(format!("no answer within {} s of the other family's", OTHER_FAMILY.as_secs()));
    let is_found = |family: &Family| family.as_ref().is_ok_and(|answer| !answer.found.is_empty());
    tokio::select! {
        first = &mut v4 => match is_found(&first) {
            true => { let other = timeout(OTHER_FAMILY, v6).await.unwrap_or_else(late); (first, other) }
            false => (first, v6.await),
        },
        first = &mut v6 => match is_found(&first) {
            true => (timeout(OTHER_FAMILY, v4).await.unwrap_or_else(late), first),
            false => (v4.await, first),
        },
    }
}

/// Both families in one, in order. Of one that nothing was heard of the addresses stay that were known.
fn joined(v4: Family, v6: Family, known: &[IpAddr]) -> Family {
    if let (Err(why), Err(_)) = (&v4, &v6) {
        return Err(why.clone()); // then all stay that were known
    }
    let (mut all, mut ttl, mut error) = (Vec::new(), None, None);
    for (family, is_own) in [(v4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (v6, IpAddr::is_ipv6)] {
        match family {
            Ok(answer) => {
                all.extend(answer.found);
                ttl = ttl.into_iter().chain(answer.ttl).min();
            }
            Err(why) => {
                all.extend(known.iter().copied().filter(is_own));
                ttl = ttl.into_iter().chain([PARTLY]).min(); // some servers never have an answer for the one
                error = Some(why);
            }
        }
    }
    all.retain(is_somebodys);
    all.sort_unstable();
    all.dedup();
    match error {
        Some(why) if all.is_empty() => Err(why),
        _ => Ok(Answer { found: all, ttl }),
    }
}

/// Whether an address may be one machine's: that of nobody leads to this one.
fn is_somebodys(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// For how long an answer is good: as long as the record of it that is good for the shortest time.
fn ttl(lookup: &Lookup) -> Option<Duration> {
    lookup.answers().iter().map(|record| Duration::from_secs(record.ttl.into())).min()
}

fn describe(error: &NetError) -> String {
    match error {
        error if error.is_nx_domain() => "there is no such name".to_owned(),
        error if error.is_no_records_found() => "it has no such records".to_owned(),
        error => error.to_string(),
    }
}

/// getaddrinfo on a thread of its own: no worker waits for it.
async fn by_system(host: &str) -> Result<Answer<Vec<IpAddr>>, String> {
    static PLACES: Semaphore = Semaphore::const_new(MAX_BY_SYSTEM);
    let host = host.to_owned();
    // It cannot be broken off: its place is taken until it ends.
    let asking = tokio::spawn(async move {
        let _place = PLACES.acquire().await.map_err(|error| error.to_string())?;
        let found = tokio::net::lookup_host((host.as_str(), 0)).await.map_err(|error| error.to_string())?;
        let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        found.sort_unstable();
        found.dedup();
        if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(Answer { found, ttl: None }) }
    });
    match timeout(DEADLINE, asking).await {
        Ok(done) => done.map_err(|error| error.to_string())?,
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_joined_and_what_is_not_heard_of_stays() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |found: &[&str], ttl: u64| -> Family {
            Ok(Answer { found: found.iter().map(|text| ip(text)).collect(), ttl: Some(Duration::from_secs(ttl)) })
        };
        let none = || -> Family { Ok(Answer { found: Vec::new(), ttl: None }) };
        let broken = || -> Family { Err("refused".to_owned()) };
        let known = [ip("10.0.0.9"), ip("::9")];
        for (v4, v6, expected) in [
            (of(&["10.0.0.2", "10.0.0.1"], 60), of(&["::1"], 30), Ok((&["10.0.0.1", "10.0.0.2", "::1"][..], Some(30)))),
            (of(&["10.0.0.1"], 60), none(), Ok((&["10.0.0.1"], Some(60)))),
            (of(&["10.0.0.1", "0.0.0.0", "224.0.0.1"], 60), broken(), Ok((&["10.0.0.1", "::9"], Some(30)))),
            (none(), broken(), Ok((&["::9"], Some(30)))),
            (none(), none(), Ok((&[], None))),
            (broken(), broken(), Err("refused")),
        ] {
            let found = joined(v4, v6, &known);
            let expected = expected.map_err(str::to_owned).map(|(found, ttl): (&[&str], Option<u64>)| Answer {
                found: found.iter().map(|text| ip(text)).collect(),
                ttl: ttl.map(Duration::from_secs),
            });
            assert_eq!(found, expected);
        }
        assert_eq!(joined(broken(), none(), &[]), Err("refused".to_owned()));
    }
}
