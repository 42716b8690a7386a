//! TLS on the public side: what the server shows of itself, which may be replaced while it serves. Clients show nothing;
//! who they are is the API's to ask.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// A certificate and its key. Connections that begin after a replacement are shown the new one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerIdentity(Arc<Mutex<Arc<CertifiedKey>>>);

/// Texts that no server can be known by.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is none in the text.
    #[error("there is no certificate or no key in the PEM text")]
    Read(#[source] pem::Error),
    /// The two do not belong together.
    #[error("the certificate cannot be used with the key")]
    Pair(#[source] rustls::Error),
}

impl ServerIdentity {
    /// From PEM texts.
    pub fn new(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(Mutex::new(certified(certificate, key)?))))
    }

    /// Shows another certificate from now on. What cannot be used changes nothing.
    pub fn replace(&self, certificate: &str, key: &str) -> Result<(), IdentityError> {
        let new = certified(certificate, key)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What speaks TLS for a listener, and offers HTTP/2 and HTTP/1.1 in it.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

impl ResolvesServerCert for ServerIdentity {
    /// The same for every name: whom a request is for is in the request.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn certified(certificate: &str, key: &str) -> Result<Arc<CertifiedKey>, IdentityError> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(IdentityError::Read)?;
    let provider = CryptoProvider::get_default().expect("the program has named its provider");
    let pair = CertifiedKey::from_der(chain.map_err(IdentityError::Read)?, key, provider);
    pair.map(Arc::new).map_err(IdentityError::Pair)
}
