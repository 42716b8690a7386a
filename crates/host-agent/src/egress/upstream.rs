//! The proxy of a sandbox's owner: connections that are made through it, over TLS where that is asked for. There is no other
//! way where it cannot be reached.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::{EgressProxy, Login, ProxyHost, ProxyTls, Secret};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::resolver::look_up;
use super::socks::{self, Destination, SocksError};
use crate::net::is_fenced;

/// A way through the proxy.
pub(super) struct Upstream {
    proxy: EgressProxy,
    /// What its name is asked of: the host's name servers, whichever the sandbox has.
    resolvers: Vec<Ipv4Addr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A connection to the proxy, and from its answer on to where it leads.
pub(super) type Tunnel = Either<TcpStream, TlsStream<TcpStream>>;

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// Nothing public has its name.
    #[error("the proxy's name leads nowhere that is public")]
    NoAddress,
    /// It is not there, or shows a certificate that is not believed.
    #[error("connect to the proxy")]
    Connect(#[source] io::Error),
    /// It does not connect.
    #[error(transparent)]
    Socks(#[from] SocksError),
}

impl Upstream {
    /// One that believes the authorities of its policy, or those `trusted`, which are in PEM.
    pub fn new(proxy: EgressProxy, resolvers: Vec<Ipv4Addr>, trusted: &[u8]) -> io::Result<Self> {
        let tls = match proxy.tls() {
            None => None,
            Some(tls) => {
                let believed = tls.ca_cert.as_ref().map_or(trusted, |text| text.as_bytes());
                Some((Arc::new(believing(believed)?).into(), server_name(tls, proxy.address().host())?))
            }
        };
        Ok(Self { proxy, resolvers, tls })
    }

    /// Has the proxy connect to a destination.
    pub async fn connect(&self, destination: &Destination) -> Result<Tunnel, UpstreamError> {
        let stream = self.dial().await?;
        let mut tunnel = match &self.tls {
            None => Either::Left(stream),
            Some((connector, name)) => {
                let secured = connector.connect(name.clone(), stream).await;
                Either::Right(secured.map_err(UpstreamError::Connect)?)
            }
        };
        socks::connect(&mut tunnel, self.login(), destination).await?;
        Ok(tunnel)
    }

    fn login(&self) -> Option<&Login<Secret>> {
        self.proxy.login()
    }

    /// A connection to where the proxy is now.
    async fn dial(&self) -> Result<TcpStream, UpstreamError> {
        let address = self.proxy.address();
        let mut hosts = match address.host() {
            ProxyHost::Address(address) => vec![*address],
            ProxyHost::Name(name) => {
                look_up(&self.resolvers, name).await.map(|found| found.addresses).unwrap_or_default()
            }
        };
        // The fence would drop it; so it is known at once.
        hosts.retain(|host| !is_fenced(*host));
        let mut failed = UpstreamError::NoAddress;
        for host in hosts {
            match TcpStream::connect((host, address.port())).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = UpstreamError::Connect(error),
            }
        }
        Err(failed)
    }
}

fn server_name(tls: &ProxyTls, host: &ProxyHost) -> io::Result<ServerName<'static>> {
    let name = tls.server_name.clone().unwrap_or_else(|| host.to_string());
    ServerName::try_from(name).map_err(io::Error::other)
}

/// How servers are spoken with that show certificates of these authorities.
pub(super) fn believing(pem: &[u8]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Whoever is not understood is not believed.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
}
