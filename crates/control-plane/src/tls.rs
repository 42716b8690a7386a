//! How a control plane shows a host agent on another machine who it is, and knows that it speaks to one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use model::Role;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What a control plane shows to host agents, and whom it believes. Files that change are read again, so that a renewal
/// needs no restart.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: Files,
    latest: Mutex<Latest>,
}

#[derive(Debug)]
struct Latest {
    changed: Changed,
    config: Arc<ClientConfig>,
}

/// Which files they are and when each was last written: what has a new name in a directory is another file.
type Changed = [Option<(u64, SystemTime)>; 3];

#[derive(Debug)]
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// Files that TLS cannot be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// There is no such file, or it holds no such thing.
    #[error("cannot read {} as PEM", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The authority's certificate is none.
    #[error("{} holds no certificate of an authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// No peer can be checked with this authority.
    #[error("no certificate can be checked with the authority's")]
    Verifier(#[source] VerifierBuilderError),
    /// The certificate and the key do not belong together.
    #[error("the certificate cannot be used with the key")]
    Identity(#[source] rustls::Error),
    /// The certificate is another role's.
    #[error("the certificate is no control plane's")]
    Role(#[source] rustls::Error),
}

impl Tls {
    /// From PEM files: the authority's certificate, our own with those between it and the authority, and our key.
    pub fn load(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { authority: authority.into(), certificate: certificate.into(), key: key.into() };
        let latest = Mutex::new(Latest { changed: files.changed(), config: files.read()? });
        Ok(Self(Arc::new(Shared { files, latest })))
    }

    /// For a connection that speaks `protocol` alone.
    pub(crate) fn speaking(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config());
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// The latest that the files held. Files that make no sense together, as in the middle of a renewal, change nothing.
    fn config(&self) -> Arc<ClientConfig> {
        let changed = self.0.files.changed();
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.changed != changed {
            match self.0.files.read() {
                Ok(config) => {
                    tracing::info!("the certificate has changed and was read again");
                    latest.config = config;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the certificate has changed and cannot be used: the last one stays in use");
                }
            }
            latest.changed = changed;
        }
        latest.config.clone()
    }
}

impl Files {
    fn changed(&self) -> Changed {
        [&self.authority, &self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.modified().ok()?))
        })
    }

    fn read(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| TlsError::Read { path, source }
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.authority).map_err(failed(&self.authority))? {
            let refused = |source| TlsError::Authority { path: self.authority.clone(), source };
            roots.add(root).map_err(refused)?;
        }
        let chain = certificates(&self.certificate).map_err(failed(&self.certificate))?;
        let own = chain.first().ok_or(pem::Error::NoItemsFound).map_err(failed(&self.certificate))?;
        check_role(own, Role::ControlPlane).map_err(TlsError::Role)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(failed(&self.key))?;
        let inner = WebPkiServerVerifier::builder(roots.into()).build().map_err(TlsError::Verifier)?;
        let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OnlyHostAgents(inner)))
            .with_client_auth_cert(chain, key)
            .map_err(TlsError::Identity)?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

fn check_role(certificate: &CertificateDer<'_>, role: Role) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(role.certificate_name()).expect("names of roles are DNS names");
    verify_server_name(&ParsedCertificate::try_from(certificate)?, &name)
}

/// What the library checks (the authority, the time, the name that was dialled), and then the role.
#[derive(Debug)]
struct OnlyHostAgents(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OnlyHostAgents {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        check_role(end_entity, Role::HostAgent)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
