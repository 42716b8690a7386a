//! Between machines: the flags of TLS, and where plain connections are enough.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use clap::Args;
use control_plane::HostAgentAddress;

use crate::console::BadConfig;

/// The files that `sandpiper ca` makes, for either role.
#[derive(Debug, Clone, Args)]
pub struct TlsArgs {
    /// Certificate of the authority that control plane and host agent both believe (PEM); without TLS the two meet only
    /// on loopback or at a unix socket
    #[arg(long, env = "SANDPIPER_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// Own certificate, issued for this role (PEM)
    #[arg(long, env = "SANDPIPER_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, env = "SANDPIPER_TLS_KEY", value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    tls_key: Option<PathBuf>,
}

/// Where a host agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostListen {
    /// At an address.
    Tcp(SocketAddr),
    /// At a socket's file.
    Unix(PathBuf),
}

impl FromStr for HostListen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl fmt::Display for HostListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The authority, the certificate and the key.
type Files<'a> = (&'a PathBuf, &'a PathBuf, &'a PathBuf);

impl TlsArgs {
    fn files(&self) -> Option<Files<'_>> {
        Some((self.tls_ca.as_ref()?, self.tls_cert.as_ref()?, self.tls_key.as_ref()?))
    }

    /// What a host agent at `listen` shows: nothing where only this machine reaches it.
    pub fn host_agent(&self, listen: &HostListen) -> anyhow::Result<Option<host_agent::service::Tls>> {
        match (listen, self.files()) {
            (HostListen::Tcp(_), Some((authority, certificate, key))) => {
                let tls = host_agent::service::Tls::load(authority, certificate, key);
                tls.map(Some).context("TLS cannot be set up").context(BadConfig)
            }
            (HostListen::Tcp(address), None) if !address.ip().is_loopback() => Err(bad(format!(
                "--listen {address}: without TLS (--tls-ca, --tls-cert, --tls-key) the host agent serves only loopback \
                 addresses"
            ))),
            (HostListen::Unix(_), Some(_)) => Err(bad("a unix socket needs no TLS: leave --tls-ca and the like out")),
            (_, None) => Ok(None),
        }
    }

    /// The host agent at `url` as the control plane reaches it.
    pub fn address(&self, url: &str) -> anyhow::Result<HostAgentAddress> {
        if let Some(path) = url.strip_prefix("unix:") {
            return match self.files() {
                Some(_) => Err(bad("a unix socket needs no TLS: leave --tls-ca and the like out")),
                None => Ok(HostAgentAddress::Unix(path.into())),
            };
        }
        let uri: http::Uri = url.parse().context("--host-agent is no address").context(BadConfig)?;
        match (uri.scheme_str(), self.files()) {
            (Some("https"), Some((authority, certificate, key))) => {
                let tls = control_plane::Tls::load(authority, certificate, key);
                Ok(HostAgentAddress::Https(uri, tls.context("TLS cannot be set up").context(BadConfig)?))
            }
            (Some("https"), None) => Err(bad("--host-agent https://… needs --tls-ca, --tls-cert and --tls-key")),
            (Some("http"), Some(_)) => {
                Err(bad("--host-agent http://… is not encrypted; with --tls-ca it is https://…"))
            }
            (Some("http"), None) if is_loopback(&uri) => Ok(HostAgentAddress::Http(uri)),
            (Some("http"), None) => {
                Err(bad(format!("--host-agent {url}: without TLS the control plane calls only loopback addresses")))
            }
            _ => Err(bad("--host-agent is http://LOOPBACK:PORT, https://HOST:PORT or unix:PATH")),
        }
    }
}

fn bad(problem: impl fmt::Display) -> anyhow::Error {
    anyhow!("{problem}").context(BadConfig)
}

fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: TlsArgs = TlsArgs { tls_ca: None, tls_cert: None, tls_key: None };

    #[test]
    fn plain_is_for_this_machine_alone() {
        for near in ["http://127.0.0.1:50051", "http://localhost:1", "http://[::1]:2", "unix:/run/x.sock"] {
            assert!(PLAIN.address(near).is_ok(), "{near}");
        }
        for far in ["http://10.0.0.1:50051", "http://host.example:1", "https://localhost:1", "ftp://localhost", "x"] {
            assert!(PLAIN.address(far).unwrap_err().is::<BadConfig>(), "{far}");
        }
        for (listen, is_fine) in [("127.0.0.1:1", true), ("unix:/run/x.sock", true), ("0.0.0.0:1", false)] {
            assert_eq!(PLAIN.host_agent(&listen.parse().unwrap()).is_ok(), is_fine, "{listen}");
        }
    }

    #[test]
    fn files_of_tls_are_used_or_refused_and_never_ignored() {
        let files =
            TlsArgs { tls_ca: Some("/no/ca".into()), tls_cert: Some("/no/c".into()), tls_key: Some("/no/k".into()) };
        for url in ["http://127.0.0.1:1", "unix:/run/x.sock", "https://host.example:1"] {
            assert!(files.address(url).unwrap_err().is::<BadConfig>(), "{url}");
        }
        for listen in ["127.0.0.1:1", "unix:/run/x.sock"] {
            assert!(files.host_agent(&listen.parse().unwrap()).unwrap_err().is::<BadConfig>(), "{listen}");
        }
    }
}
