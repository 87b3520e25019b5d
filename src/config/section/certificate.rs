//! `[[certificate]]`: a chain and its key, read, matched with each other, and the names they serve.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use smallvec::{SmallVec, smallvec};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::Timestamp;
use crate::config::diagnose::{At, Diagnostics, Place};
use crate::config::host::{HostMap, HostPattern};
use crate::config::read::Table;
use crate::config::regular;

/// A certificate that is ready to serve.
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// The DNS names of the leaf, as patterns.
    pub names: Vec<HostPattern>,
    pub validity: Validity,
    /// Of its section.
    place: Place,
}

/// From when to when a certificate is valid, in seconds since the epoch; and the file that it is in.
#[derive(Debug, Clone)]
pub struct Validity {
    pub file: PathBuf,
    pub not_before: i64,
    pub not_after: i64,
}

/// The certificates of a node by name; those of the first configured one's first name serve clients that name none of them.
#[derive(Debug, Default)]
pub struct CertificateStore {
    by_name: HostMap<usize>,
    /// What serves one name: of each kind of key one certificate.
    choices: Vec<Choice>,
    keys: Vec<Arc<CertifiedKey>>,
    validities: Vec<Validity>,
}

/// Certificates for the same name, by their places in the configuration: the quickest kind of key first.
type Choice = SmallVec<[usize; 2]>;

/// What comes first where a client takes several.
fn rank(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

impl CertificateStore {
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let mut store = CertificateStore::default();
        let mut choice_of: HashMap<HostPattern, usize> = HashMap::new();
        for certificate in certificates {
            let place = store.keys.len();
            store.keys.push(certificate.key);
            store.validities.push(certificate.validity);
            if certificate.names.is_empty() {
                store.choices.push(smallvec![place]);
            }
            for name in certificate.names {
                match choice_of.get(&name) {
                    Some(choice) => store.choices[*choice].push(place),
                    None => {
                        store.by_name.insert(name.clone(), store.choices.len());
                        choice_of.insert(name, store.choices.len());
                        store.choices.push(smallvec![place]);
                    }
                }
            }
        }
        let CertificateStore { choices, keys, .. } = &mut store;
        choices.iter_mut().for_each(|choice| choice.sort_by_key(|place| rank(&keys[*place])));
        store
    }

    /// How long each is valid.
    pub fn validities(&self) -> &[Validity] {
        &self.validities
    }

    /// The certificate for a client's SNI (RFC 6066 section 3), of a kind that it can verify. If it can none, it is to say so.
    pub fn find(&self, server_name: Option<&str>, verifies: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let choice = server_name.and_then(|name| self.by_name.find(&name.to_ascii_lowercase())).unwrap_or(0);
        let keys = || self.choices.get(choice).into_iter().flatten().map(|place| &self.keys[*place]);
        keys().find(|key| key.key.choose_scheme(verifies).is_some()).or_else(|| keys().next()).cloned()
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
    let place = cert.as_ref().map_or(table.place, |at: &At<String>| at.place);
    table.finish();
    let read = cert.and_then(|at| {
        let path = errors.file_named(&at);
        let chain = errors.accept(at.place, read_chain(&path))?;
        let read = names_and_validity(&chain[0], &path).map_err(|error| format!("{}: {error}", path.display()));
        Some((path, chain, errors.accept(at.place, read)?))
    });
    let key = key?;
    let private = read_key(&key, errors);
    let ((path, chain, (names, validity)), (key_path, private)) = (read?, private?);
    let certified = pair(chain, &path, &private, &key_path);
    let key = Arc::new(errors.accept(key.place, certified)?);
    Some(Certificate { key, names, validity, place })
}

/// The certificate that the node shows to origins, and its key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    /// DER.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The same from the files that a pool names.
pub(super) fn of_client(cert: &At<String>, key: &At<String>, errors: &Diagnostics) -> Option<ClientCertificate> {
    let path = errors.file_named(cert);
    let chain = errors.accept(cert.place, read_chain(&path));
    let (key_path, private) = read_key(key, errors)?;
    let chain = chain?;
    errors.accept(key.place, pair(chain.clone(), &path, &private, &key_path))?;
    Some(ClientCertificate { chain, key: private.secret_der().to_vec() })
}

/// A certificate and the key that belongs to it.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    path: &Path,
    private: &PrivateKeyDer<'_>,
    key_path: &Path,
) -> Result<CertifiedKey, String> {
    let certified = CertifiedKey::new(chain, signer(private, key_path)?);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(format!("the private key in {} does not belong to {}", key_path.display(), path.display())),
    }
}

/// A private key from a file, and where that is.
fn read_key(key: &At<String>, errors: &Diagnostics) -> Option<(PathBuf, PrivateKeyDer<'static>)> {
    let path = errors.file_named(key);
    errors.keep_private(&path);
    let private = match read_private(&path) {
        Err(why) if why.contains("Permission denied") => {
            let hint = "keys that only root may read come by the group ssl-cert, or by LoadCredential= of the service: docs/operations.md";
            errors.error_with_hint(key.place, why, hint);
            None
        }
        read => errors.accept(key.place, read),
    };
    Some((path, private?))
}

/// Days before its end that a certificate is pointed out.
const SOON: i64 = 7;

/// Points out certificates that clients refuse, or that no site needs.
pub(crate) fn check(certificates: &[Certificate], hosts: &HostMap<usize>, now: Timestamp, errors: &Diagnostics) {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let date = |seconds: i64| Timestamp::from_secs(seconds.try_into().unwrap_or_default()).http_date();
    for Certificate { validity, names, place, .. } in certificates {
        let (file, renewed) = (validity.file.display(), "put a renewed one in its place: it is taken over as it comes");
        let days = (validity.not_after - now) / 86_400;
        if now > validity.not_after {
            errors.warn(*place, format!("the certificate in {file} expired on {}", date(validity.not_after)), renewed);
        } else if now < validity.not_before {
            let message = format!("the certificate in {file} is not valid before {}", date(validity.not_before));
            errors.warn(*place, message, "clients refuse it until then; is the clock right?");
        } else if days < SOON {
            errors.warn(*place, format!("the certificate in {file} expires on {}", date(validity.not_after)), renewed);
        }
        if let Some(first) = names.first().filter(|_| !names.iter().any(|name| is_of_a_site(name, hosts))) {
            let message = format!("no site has a host of the certificate in {file}, such as {first}");
            errors.warn(*place, message, "add the host to a site, or take the certificate away");
        }
    }
}

/// Points out names that several certificates of one kind are for: nobody could say which is served.
pub(crate) fn check_overlaps(certificates: &[Certificate], errors: &Diagnostics) {
    let mut seen: HashMap<(&HostPattern, u8), &Certificate> = HashMap::new();
    for certificate in certificates {
        for name in &certificate.names {
            let Some(before) = seen.insert((name, rank(&certificate.key)), certificate) else { continue };
            if std::ptr::eq(before, certificate) {
                continue; // it names it twice
            }
            let [one, other] = [before, certificate].map(|certificate| certificate.validity.file.display().to_string());
            let message = format!("{one} and {other} are both for {name}, with keys of one kind");
            let hint = "take one away; two serve one name if one has an ECDSA key and the other an RSA key";
            errors.error_with_hint(certificate.place, message, hint);
            break;
        }
    }
}

fn is_of_a_site(name: &HostPattern, hosts: &HostMap<usize>) -> bool {
    let is_below = |host: &HostPattern| match (host, name) {
        (HostPattern::Exact(host), HostPattern::Below(name)) => {
            host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))
        }
        _ => false,
    };
    hosts.of_pattern(name).is_some() || hosts.patterns().any(|(host, _)| is_below(&host))
}

fn read_private(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = regular::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| memchr::memmem::find(&bytes, mark).is_some()) {
        let mend = format!("openssl pkey -in {} -out KEY writes it without", path.display());
        return Err(format!("the private key in {} has a passphrase, which nobody could type: {mend}", path.display()));
    }
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| format!("no usable private key in {}: {error}", path.display()))
}

fn signer(private: &PrivateKeyDer<'_>, path: &Path) -> Result<Arc<dyn SigningKey>, String> {
    rustls::crypto::ring::sign::any_supported_type(private)
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

/// The DNS names of a certificate's subjectAltName (the common name has not counted since RFC 6125), and how long it is valid.
fn names_and_validity(leaf: &CertificateDer<'_>, file: &Path) -> Result<(Vec<HostPattern>, Validity), String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| format!("not a valid certificate: {error}"))?;
    let names = parsed.subject_alternative_name().map_err(|error| format!("not a valid certificate: {error}"))?;
    let general = names.map_or(&[][..], |extension| &extension.value.general_names);
    let patterns = general.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    });
    let (not_before, not_after) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Ok((patterns.collect(), Validity { file: file.to_owned(), not_before, not_after }))
}
