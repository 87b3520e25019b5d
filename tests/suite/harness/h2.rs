//! An HTTP/2 client over TLS, and the certificate it trusts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::PATIENCE;
use super::client::Response;

/// The host that tests ask for.
pub const HOST: &str = "shop.example";

/// Writes a self-signed certificate for some names.
pub fn certificate(directory: &Path, name: &str, hosts: &[&str]) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), made.cert.pem()).unwrap();
    std::fs::write(directory.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
}

/// TLS for HTTP/2, trusting one certificate.
pub fn tls(trust: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trust).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A connection for [`HOST`], trusting one certificate.
pub async fn connect(address: SocketAddr, trust: &Path) -> h2::client::SendRequest<Bytes> {
    connect_with(address, trust, |_| {}).await
}

/// The same, with settings.
pub async fn connect_with(
    address: SocketAddr,
    trust: &Path,
    set: impl FnOnce(&mut h2::client::Builder),
) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls(trust)).connect(name, stream).await.unwrap();
    let mut builder = h2::client::Builder::new();
    set(&mut builder);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await; // ends with the test
    });
    client
}

/// One request on a connection of its own, and its response as if it had come by HTTP/1.
pub fn request(
    address: SocketAddr,
    trust: &Path,
    (method, path): (&str, &str),
    fields: &[&str],
    body: &str,
) -> Response {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exchange = async {
        let mut client = connect(address, trust).await.ready().await.unwrap();
        let fields =
            fields.iter().map(|field| field.split_once(':').unwrap()).map(|(name, value)| (name, value.trim()));
        let authority =
            fields.clone().find(|(name, _)| name.eq_ignore_ascii_case("host")).map_or(HOST, |(_, host)| host);
        let mut request = http::Request::builder().method(method).uri(format!("https://{authority}{path}"));
        for (name, value) in fields.filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
            request = request.header(name, value);
        }
        let (response, mut stream) = client.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
        }
        let (head, mut rest) = match response.await {
            Ok(response) => response.into_parts(),
            // The stream was reset before its head had been sent.
            Err(_) => return Response { status: 0, head: String::new(), body: Vec::new(), complete: false },
        };
        let mut text = format!("HTTP/2 {}\r\n", head.status.as_u16());
        for (name, value) in &head.headers {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        let mut response = Response { status: head.status.as_u16(), head: text, body: Vec::new(), complete: true };
        while let Some(data) = rest.data().await {
            let Ok(data) = data else {
                response.complete = false;
                break;
            };
            rest.flow_control().release_capacity(data.len()).unwrap();
            response.body.extend_from_slice(&data);
        }
        response
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await }).expect("an answer in time")
}
