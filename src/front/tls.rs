//! TLS for clients: certificates chosen by SNI from the configuration in force, so that a reload changes them
//! for the next handshake.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::model::{Listener, Protocol, TlsVersion};
use crate::snapshot::Snapshot;

/// Looks certificates up in the current snapshot.
struct SnapshotCertificates(Arc<ArcSwap<Snapshot>>);

impl fmt::Debug for SnapshotCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotCertificates")
    }
}

impl ResolvesServerCert for SnapshotCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().config.certificates.find(hello.server_name(), hello.signature_schemes())
    }
}

/// What accepts TLS on one listener.
pub(crate) fn acceptor(snapshot: Arc<ArcSwap<Snapshot>>, listener: &Listener) -> Result<TlsAcceptor, rustls::Error> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| listener.takes_suite(*suite));
    let versions: Vec<_> = listener
        .versions
        .iter()
        .map(|version| match version {
            TlsVersion::V12 => &rustls::version::TLS12,
            TlsVersion::V13 => &rustls::version::TLS13,
        })
        .collect();
    let protocols = &listener.protocols;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SnapshotCertificates(snapshot)));
    let h2 = protocols.contains(&Protocol::H2).then_some(b"h2".to_vec());
    let h1 = protocols.contains(&Protocol::H1).then_some(b"http/1.1".to_vec());
    config.alpn_protocols = h2.into_iter().chain(h1).collect();
    // Stateless tickets with keys that rotate: resumption without memory per client.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
