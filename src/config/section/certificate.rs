//! `[[certificate]]`: a chain and its key, read, matched with each other, and the names they serve.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::host::{HostMap, HostPattern};
use crate::config::read::Table;
use crate::config::regular;

/// A certificate that is ready to serve.
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// The DNS names of the leaf, as patterns.
    pub names: Vec<HostPattern>,
}

/// The certificates of a node by name; the first configured one serves clients that name none of them.
#[derive(Debug, Default)]
pub struct CertificateStore {
    by_name: HostMap<usize>,
    keys: Vec<Arc<CertifiedKey>>,
}

impl CertificateStore {
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let mut store = CertificateStore::default();
        for certificate in certificates {
            for name in certificate.names {
                store.by_name.insert(name, store.keys.len());
            }
            store.keys.push(certificate.key);
        }
        store
    }

    /// The certificate for a client's SNI (RFC 6066 section 3).
    pub fn find(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let index = server_name.and_then(|name| self.by_name.find(&name.to_ascii_lowercase())).unwrap_or(0);
        self.keys.get(index).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Changes when any certificate does.
impl Hash for CertificateStore {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.keys.iter().flat_map(|key| &key.cert).for_each(|der| der.as_ref().hash(state));
    }
}

/// Reads the PEM files that a section names. What is wrong with either is said of that.
pub(crate) fn read(mut table: Table) -> Option<Certificate> {
    let errors = table.errors;
    let (cert, key) = (table.require("cert"), table.require("key"));
    table.finish();
    let read = cert.and_then(|at| {
        let path = errors.file_named(&at);
        let chain = errors.accept(at.place, read_chain(&path))?;
        let names = dns_names(&chain[0]).map_err(|error| format!("{}: {error}", path.display()));
        Some((path, chain, errors.accept(at.place, names)?))
    });
    let key = key?;
    let key_path = errors.file_named(&key);
    let signer = errors.accept(key.place, read_key(&key_path));
    let ((path, chain, names), signer) = (read?, signer?);
    let certified = CertifiedKey::new(chain, signer);
    let matches = certified
        .keys_match()
        .map_err(|_| format!("the private key in {} does not belong to {}", key_path.display(), path.display()));
    errors.accept(key.place, matches)?;
    Some(Certificate { key: Arc::new(certified), names })
}

fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, String> {
    let bytes = regular::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let private = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| format!("no usable private key in {}: {error}", path.display()))?;
    rustls::crypto::ring::sign::any_supported_type(&private)
        .map_err(|error| format!("the private key in {} cannot be used: {error}", path.display()))
}

/// Reads one or more PEM certificates; never gives an empty chain.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = regular::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("no usable certificate in {}: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("no certificate in {}", path.display()));
    }
    for certificate in &chain {
        X509Certificate::from_der(certificate)
            .map_err(|error| format!("a certificate in {} cannot be read: {error}", path.display()))?;
    }
    Ok(chain)
}

/// The DNS names of a certificate's subjectAltName; the common name has not counted since RFC 6125.
fn dns_names(leaf: &CertificateDer<'_>) -> Result<Vec<HostPattern>, String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("not a valid certificate: {error}"))?;
    let names = parsed.subject_alternative_name().map_err(|error| format!("not a valid certificate: {error}"))?;
    let general = names.map_or(&[][..], |extension| &extension.value.general_names);
    let patterns = general.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    });
    Ok(patterns.collect())
}
