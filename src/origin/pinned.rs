//! Origins that show, as their own, a certificate of their pool's `ca`: it is pinned.
//!
//! What `openssl req -x509` makes is a server's certificate and an authority's at one time, and rustls takes no authority's
//! certificate for a server's. So where verifying fails, the connection is made once more without, and the certificate
//! is compared with those of `ca`, byte for byte (by SHA-256). That the origin has its key is proved by the handshake in either
//! case. Such a certificate must be valid by its dates; its names do not matter, since no other can have its key. Decision 27.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{BError, Error, ErrorType};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::Timestamp;
use crate::config::model::Pool;

use super::address::Place;
use super::error::{certificate_fault, invalid_certificate};

/// Addresses that are remembered.
const MOST_SHOWN: usize = 1024;

/// The certificates that the origins of a pool may show as their own.
#[derive(Debug, Default)]
pub(super) struct Pins {
    certificates: Vec<Pin>,
    /// The addresses that showed one of them when they were connected to last: the way that is tried first.
    shown: Mutex<HashSet<Place>>,
}

#[derive(Debug)]
struct Pin {
    sha256: [u8; 32],
    /// Seconds since the epoch.
    valid: RangeInclusive<i64>,
}

impl Pins {
    pub(super) fn new(pool: &Pool) -> Self {
        let verified = pool.tls.as_ref().filter(|tls| tls.verify);
        let Some(ca) = verified.and_then(|tls| tls.ca.as_ref()) else { return Pins::default() };
        let certificates = ca.iter().filter_map(|der| Pin::new(der)).collect();
        Pins { certificates, shown: Mutex::default() }
    }

    /// Makes a connection, or a stream of one, to an origin whose certificate is valid or pinned. `certificate`: the one that
    /// was shown on it; `discard`: closes what is not to be used.
    pub(super) async fn connect<S, F>(
        &self,
        at: &Place,
        peer: HttpPeer,
        connect: impl Fn(HttpPeer) -> F,
        certificate: impl Fn(&S) -> Option<Arc<SslDigest>>,
        discard: impl Fn(S),
    ) -> Result<S, BError>
    where
        F: Future<Output = Result<S, BError>>,
    {
        if self.certificates.is_empty() {
            return connect(peer).await;
        }
        let was_shown = self.is_shown(at);
        let mut invalid = None;
        for compare in [was_shown, !was_shown] {
            let peer = if compare { unverified(peer.clone()) } else { peer.clone() };
            match connect(peer).await {
                Ok(stream) => {
                    let is_pinned = || self.is_pinned(certificate(&stream).as_deref(), Timestamp::now());
                    let is_valid = if compare { is_pinned() } else { Ok(true) };
                    if matches!(is_valid, Ok(true)) {
                        self.note(at, compare);
                        return Ok(stream);
                    }
                    discard(stream);
                    is_valid?; // else what is wrong with it is said by the other way
                }
                Err(error) if !compare && certificate_fault(&error).is_some() => invalid = Some(error),
                Err(error) => return Err(invalid.unwrap_or(error)),
            }
        }
        Err(invalid.unwrap_or_else(|| Error::new(ErrorType::InvalidCert)))
    }

    /// A stream of a connection that was kept, if there is one that may be used. Whoever made it may have found that the
    /// certificate is not the pinned one.
    pub(super) async fn reuse<S, F>(
        &self,
        at: &Place,
        peer: HttpPeer,
        kept: impl Fn(HttpPeer) -> F,
        certificate: impl Fn(&S) -> Option<Arc<SslDigest>>,
        discard: impl Fn(S),
    ) -> Result<Option<S>, BError>
    where
        F: Future<Output = Result<Option<S>, BError>>,
    {
        let compare = self.is_shown(at);
        let stream = kept(if compare { unverified(peer) } else { peer }).await?;
        let is_pinned = |stream: &S| self.is_pinned(certificate(stream).as_deref(), Timestamp::now()).unwrap_or(false);
        Ok(stream.and_then(|stream| match !compare || is_pinned(&stream) {
            true => Some(stream),
            false => {
                discard(stream);
                None
            }
        }))
    }

    fn is_shown(&self, at: &Place) -> bool {
        !self.certificates.is_empty() && self.shown.lock().contains(at)
    }

    fn note(&self, at: &Place, is_shown: bool) {
        let mut shown = self.shown.lock();
        match is_shown {
            // A name that is at ever other addresses: what is forgotten is found out again.
            true if shown.len() >= MOST_SHOWN => *shown = HashSet::from([at.clone()]),
            true => _ = shown.insert(at.clone()),
            false => _ = shown.remove(at),
        }
    }

    /// Whether a certificate is one of these; an error if it is, and not valid now.
    fn is_pinned(&self, shown: Option<&SslDigest>, now: Timestamp) -> Result<bool, BError> {
        let same = |pin: &&Pin| shown.is_some_and(|shown| shown.cert_digest == pin.sha256);
        let Some(pin) = self.certificates.iter().find(same) else { return Ok(false) };
        match pin.valid.contains(&(now.as_secs() as i64)) {
            true => Ok(true),
            false => Err(invalid_certificate("it is pinned by ca, and not valid at this time")),
        }
    }
}

impl Pin {
    fn new(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let valid = parsed.validity().not_before.timestamp()..=parsed.validity().not_after.timestamp();
        Some(Pin { sha256: Sha256::digest(der).into(), valid })
    }
}

fn unverified(mut peer: HttpPeer) -> HttpPeer {
    peer.options.verify_cert = false;
    peer.options.verify_hostname = false;
    peer
}
