//! A control plane's HTTPS listener and clients of it, which believe what its test made and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use control_plane::{Domain, Https, ServerIdentity};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What is served, and what its clients need.
pub struct Secure {
    pub address: SocketAddr,
    pub identity: ServerIdentity,
    domain: Domain,
    certificate: String,
}

/// A certificate and its key for a domain.
pub fn certificate(domain: &Domain) -> (String, String) {
    let names = [domain.name.to_string(), format!("*.{}", domain.name)];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

impl Secure {
    pub async fn open(domain: &Domain) -> (Self, Https) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (certificate, key) = certificate(domain);
        let identity = ServerIdentity::new(&certificate, &key).unwrap();
        let https = Https { listeners: vec![listener], identity: identity.clone() };
        (Self { address, identity, domain: domain.clone(), certificate }, https)
    }

    /// A connection to `label` below the domain, by a client that speaks these protocols.
    pub async fn connect(&self, label: &str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(self.host(label)).unwrap();
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A name below the domain.
    pub fn host(&self, label: &str) -> String {
        format!("{label}.{}", self.domain.name)
    }
}
