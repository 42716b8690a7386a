//! A domain of one's own: HTTPS for `api.DOMAIN` and `PORT-ID.DOMAIN`, with certificates of an authority that is made here
//! and believed for that domain alone.
//!
//! The authority is kept in the data directory. The server's own certificate is in memory only: each start makes one, and
//! so does a server that runs for long, before the last one ends.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use control_plane::{Domain, DomainName, Https, ServerIdentity};
use jiff::{Timestamp, ToSpan};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::certificate::{self, Made};
use crate::console::output;

/// Days that an authority is good for.
const AUTHORITY_DAYS: u32 = 3650;
/// Days that a certificate is.
const CERTIFICATE_DAYS: u32 = 90;
/// Days before its end at which a certificate is replaced.
const MARGIN_DAYS: u32 = 30;
/// How often a server looks whether that is now.
const LOOK: Duration = Duration::from_secs(3600);
/// Ports that are tried where any will do: one that is free on one address may be taken on the other.
const TRIES: u32 = 20;

/// The flags.
#[derive(Debug, Clone, Args)]
pub struct DomainArgs {
    /// Domain below which the API (api.DOMAIN) and the sandboxes' ports (PORT-ID.DOMAIN) are served over HTTPS, such as
    /// sbx.localhost; with certificates of an authority of this server's own
    #[arg(long, env = "SANDPIPER_DOMAIN", value_name = "NAME")]
    domain: Option<DomainName>,
    /// Port of that; at the same address as --listen, which on loopback means 127.0.0.1 and [::1]
    #[arg(long, env = "SANDPIPER_DOMAIN_PORT", value_name = "PORT", default_value_t = 443)]
    domain_port: u16,
}

/// A domain whose names are about to be served.
#[derive(Debug)]
pub struct OpenDomain {
    /// What it is called, and where.
    pub domain: Domain,
    /// For the control plane.
    pub https: Https,
    authority: PathBuf,
    renewing: AbortOnDropHandle<()>,
}

/// Keeps a certificate good for as long as this is there.
#[derive(Debug)]
pub struct Renewing(#[expect(dead_code, reason = "its drop is what it is for")] AbortOnDropHandle<()>);

impl DomainArgs {
    /// Binds what is to be listened at and makes the certificates; none where no domain is wanted.
    pub async fn open(&self, listen: SocketAddr, data_dir: &Path) -> anyhow::Result<Option<OpenDomain>> {
        let Some(name) = &self.domain else { return Ok(None) };
        let (listeners, port) = bind(name, listen.ip(), self.domain_port).await?;
        let directory = std::path::absolute(data_dir).context("find the data directory")?.join("domain");
        let keeper = Keeper { directory: directory.join(name.as_str()), name: name.clone() };
        let made = keeper.issue().context("no certificate can be made for the domain")?;
        let identity = ServerIdentity::new(&made.certificate, &made.key)?;
        let (authority, shown) = (keeper.path("crt"), identity.clone());
        let renewing = AbortOnDropHandle::new(tokio::spawn(keeper.keep(shown, certificate::ends(&made.certificate)?)));
        let domain = Domain { name: name.clone(), port };
        Ok(Some(OpenDomain { domain, https: Https { listeners, identity }, authority, renewing }))
    }
}

impl OpenDomain {
    /// Tells what programs need to be told.
    pub fn announce(&self) {
        let (domain, authority) = (&self.domain, self.authority.display());
        let url = format!("https://{}", domain.to_string().replacen(domain.name.as_str(), &domain.name.api(), 1));
        output::note(format_args!(
            "serving {url} and https://PORT-ID.{domain} too; for programs with E2B's SDKs:\n  \
             E2B_DOMAIN={domain}\n  SSL_CERT_FILE={authority}  (Python)\n  NODE_EXTRA_CA_CERTS={authority}  (Node.js)"
        ));
    }

    /// What the control plane takes, and what must be kept as long as it serves.
    pub fn parts(self) -> (Https, Renewing) {
        (self.https, Renewing(self.renewing))
    }
}

/// On which addresses the names are served: a name below `localhost` is both of loopback's.
fn addresses(listen: IpAddr) -> Vec<IpAddr> {
    if listen.is_loopback() { vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] } else { vec![listen] }
}

/// The same port on every address; on a machine without IPv6 there is none of that to serve.
async fn bind(name: &DomainName, listen: IpAddr, wanted: u16) -> anyhow::Result<(Vec<TcpListener>, u16)> {
    let mut tries = if wanted == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(&addresses(listen), wanted).await {
            Ok(bound) => return Ok(bound),
            Err((_, error)) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            Err((address, error)) => {
                let advice = format!(
                    "cannot listen on {address} for {name}: is another web server running? Choose another port with \
                     --domain-port; programs then have E2B_DOMAIN={name}:PORT"
                );
                return Err(anyhow::Error::new(error).context(advice));
            }
        }
    }
}

async fn bind_once(addresses: &[IpAddr], wanted: u16) -> Result<(Vec<TcpListener>, u16), (SocketAddr, std::io::Error)> {
    let (mut listeners, mut port) = (Vec::new(), wanted);
    for address in addresses {
        let address = SocketAddr::new(*address, port);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                port = listener.local_addr().map_err(|error| (address, error))?.port();
                listeners.push(listener);
            }
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && !listeners.is_empty() => {
                output::note(format_args!("this machine has no {}: not serving there", address.ip()));
            }
            Err(error) => return Err((address, error)),
        }
    }
    Ok((listeners, port))
}

/// Who issues certificates for a domain.
#[derive(Debug)]
struct Keeper {
    directory: PathBuf,
    name: DomainName,
}

impl Keeper {
    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("ca.{suffix}"))
    }

    /// A certificate by the authority that is there, or by a new one where there is none that outlives it.
    fn issue(&self) -> anyhow::Result<Made> {
        let (certificate, key) = self.authority()?;
        certificate::issue_domain(&certificate, &key, &self.name, CERTIFICATE_DAYS)
    }

    fn authority(&self) -> anyhow::Result<(String, String)> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let (certificate, key) = (self.path("crt"), self.path("key"));
        if certificate.exists() && key.exists() {
            let read =
                |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
            let (text, key) = (read(&certificate)?, read(&key)?);
            let is_good = !ends_within(certificate::ends(&text)?, Timestamp::now(), CERTIFICATE_DAYS);
            if is_good {
                return Ok((text, key));
            }
            output::note(format_args!("the authority for {} ends soon: programs must be given the new one", self.name));
        }
        let made = certificate::domain_authority(&self.name, AUTHORITY_DAYS)?;
        // The key first: a certificate without its key would be of no use.
        certificate::write(&self.directory, &key, &made.key, true)?;
        certificate::write(&self.directory, &certificate, &made.certificate, true)?;
        // Programs of every user read it, where they can reach it.
        std::fs::set_permissions(&certificate, PermissionsExt::from_mode(0o644))
            .with_context(|| format!("cannot give {} its mode", certificate.display()))?;
        Ok((made.certificate, made.key))
    }

    /// Replaces what is shown before it ends, for ever.
    async fn keep(self, shown: ServerIdentity, mut until: Timestamp) {
        loop {
            tokio::time::sleep(LOOK).await;
            if !ends_within(until, Timestamp::now(), MARGIN_DAYS) {
                continue;
            }
            match self.replace(&shown) {
                Ok(end) => {
                    until = end;
                    tracing::info!(domain = %self.name, %until, "there is a new certificate for the domain");
                }
                Err(error) => {
                    let error: &dyn std::error::Error = error.as_ref();
                    tracing::warn!(domain = %self.name, error, "the domain's certificate was not renewed");
                }
            }
        }
    }

    /// Shows a new certificate, and tells until when.
    fn replace(&self, shown: &ServerIdentity) -> anyhow::Result<Timestamp> {
        let made = self.issue()?;
        shown.replace(&made.certificate, &made.key)?;
        certificate::ends(&made.certificate)
    }
}

/// Whether less than so many days are left.
fn ends_within(until: Timestamp, now: Timestamp, days: u32) -> bool {
    now.checked_add((i64::from(days) * 24).hours()).is_ok_and(|then| until < then)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(directory: &Path) -> Keeper {
        Keeper { directory: directory.join("x"), name: "sbx.localhost".parse().unwrap() }
    }

    #[test]
    fn the_authority_stays_and_each_certificate_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        let (one, two) = (keeper.issue().unwrap(), keeper.issue().unwrap());
        assert_ne!(one.certificate, two.certificate);
        assert_eq!(keeper.authority().unwrap(), keeper.authority().unwrap());
        let mode = |suffix| std::fs::metadata(keeper.path(suffix)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("key"), mode("crt")), (0o600, 0o644));
        let until = certificate::ends(&one.certificate).unwrap();
        assert!(!ends_within(until, Timestamp::now(), 89) && ends_within(until, Timestamp::now(), 91));
    }

    #[test]
    fn an_authority_that_would_end_before_its_certificates_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path());
        keeper.issue().unwrap();
        let old = certificate::domain_authority(&keeper.name, CERTIFICATE_DAYS - 1).unwrap();
        for (suffix, text) in [("crt", &old.certificate), ("key", &old.key)] {
            certificate::write(&keeper.directory, &keeper.path(suffix), text, true).unwrap();
        }
        assert_ne!(keeper.authority().unwrap().0, old.certificate);
    }

    #[tokio::test]
    async fn both_of_loopbacks_addresses_have_the_same_port_and_a_taken_one_is_said() {
        let name: DomainName = "sbx.localhost".parse().unwrap();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (listeners, port) = bind(&name, loopback, 0).await.unwrap();
        assert_eq!(listeners[0].local_addr().unwrap(), SocketAddr::new(loopback, port));
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap().port() == port));
        let error = format!("{:#}", bind(&name, loopback, port).await.unwrap_err());
        assert!(error.contains("--domain-port") && error.contains(&port.to_string()), "{error}");
        assert_eq!(addresses(Ipv4Addr::UNSPECIFIED.into()), [IpAddr::from(Ipv4Addr::UNSPECIFIED)]);
    }
}
