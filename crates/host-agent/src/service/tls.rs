//! TLS on the host agent's port: both sides show a certificate of one authority, and only a control plane's is obeyed.
//!
//! Knows nothing of requests: whoever got through the handshake may do everything.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use model::Role;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a peer may take to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Peers that may be at it at once: what is more waits in the kernel.
const HANDSHAKES: usize = 256;

/// What the host agent shows and whom it believes. Files that change are read again, so that a renewal needs no restart.
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
    identity: Identity,
}

#[derive(Debug, Clone)]
struct Identity {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
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
    #[error("the certificate is no host agent's")]
    Role(#[source] rustls::Error),
}

impl Tls {
    /// From PEM files: the authority's certificate, our own with those between it and the authority, and our key.
    pub fn load(authority: &Path, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { authority: authority.into(), certificate: certificate.into(), key: key.into() };
        let latest = Mutex::new(Latest { changed: files.changed(), identity: files.read()? });
        Ok(Self(Arc::new(Shared { files, latest })))
    }

    /// The latest that the files held. Files that make no sense together, as in the middle of a renewal, change nothing.
    fn identity(&self) -> Identity {
        let changed = self.0.files.changed();
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.changed != changed {
            match self.0.files.read() {
                Ok(identity) => {
                    tracing::info!("the certificate has changed and was read again");
                    latest.identity = identity;
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the certificate has changed and cannot be used: the last one stays in use");
                }
            }
            latest.changed = changed;
        }
        latest.identity.clone()
    }

    /// Whether our certificate is for a machine of this name or address.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let certificate = self.identity().certificate;
        let parsed = ParsedCertificate::try_from(&certificate);
        parsed.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
    }
}

impl Files {
    fn changed(&self) -> Changed {
        [&self.authority, &self.certificate, &self.key].map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.modified().ok()?))
        })
    }

    fn read(&self) -> Result<Identity, TlsError> {
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
        let own = chain.first().ok_or(pem::Error::NoItemsFound).map_err(failed(&self.certificate))?.clone();
        check_role(&own, Role::HostAgent).map_err(TlsError::Role)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(failed(&self.key))?;
        let inner = WebPkiClientVerifier::builder(roots.into()).build().map_err(TlsError::Verifier)?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_client_cert_verifier(Arc::new(OnlyControlPlanes(inner)))
            .with_single_cert(chain, key)
            .map_err(TlsError::Identity)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would not look at the certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Identity { config: Arc::new(config), certificate: own })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

fn check_role(certificate: &CertificateDer<'_>, role: Role) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(role.certificate_name()).expect("names of roles are DNS names");
    verify_server_name(&ParsedCertificate::try_from(certificate)?, &name)
}

/// What the library checks (the authority, the time, that it is a client's certificate), and then the role.
#[derive(Debug)]
struct OnlyControlPlanes(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for OnlyControlPlanes {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        check_role(end_entity, Role::ControlPlane)?;
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

type Shaken = (SocketAddr, io::Result<TlsStream<TcpStream>>);

/// Accepts those who get through the handshake. One that takes its time holds up no other.
pub(super) struct TlsListener {
    tcp: TcpListener,
    tls: Tls,
    handshakes: JoinSet<Shaken>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, tls: Tls) -> Self {
        Self { tcp, tls, handshakes: JoinSet::new() }
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                (stream, peer) = axum::serve::Listener::accept(&mut self.tcp), if self.handshakes.len() < HANDSHAKES => {
                    self.handshakes.spawn(handshake(self.tls.identity().config.into(), stream, peer));
                }
                Some(Ok((peer, shaken))) = self.handshakes.join_next() => match shaken {
                    Ok(stream) => return (stream, peer),
                    Err(error) => tracing::info!(%peer, %error, "a peer was refused"),
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) -> Shaken {
    // An answer that waits for more to send is only late.
    let _ = stream.set_nodelay(true);
    let shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    (peer, shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
}

#[cfg(test)]
mod tests;
