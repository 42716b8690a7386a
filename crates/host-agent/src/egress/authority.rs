//! Who vouches for the hosts whose requests get headers, so that guests let those be read: an authority of this
//! installation's, which such a guest believes, and below it one for each sandbox's process, which can vouch for the hosts of
//! its policy alone. The first never leaves the host agent.

use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::files::write_durably;

/// The file in the data directory that has its certificate and its key.
const FILE: &str = "egress-authority.json";

/// The years in which authorities are good: a guest's clock may be anywhere, and nobody could renew one in a snapshot.
const YEARS: [i32; 2] = [2020, 2120];

/// How long a certificate of a host is good.
const DAYS: i64 = 30;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its file.
    #[error("keep the authority for requests that get headers in {FILE}")]
    File(#[from] io::Error),
    /// What is in the file, or would be.
    #[error("make certificates")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate and its key, as PEM.
#[derive(Serialize, Deserialize)]
pub(super) struct Credential {
    certificate: String,
    key: String,
}

/// That of this installation.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// What is kept in a data directory; made where there is none.
    pub fn open(data_dir: &Path) -> Result<Self, AuthorityError> {
        let path = data_dir.join(FILE);
        let kept: Credential = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = root()?;
                write_durably(&path, &serde_json::to_vec(&made).expect("texts are plain data"))?;
                made
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { issuer: kept.issuer()?, certificate: kept.certificate })
    }

    /// What guests are to believe, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// One below it that can vouch for these names, and what is below them, alone.
    pub(super) fn delegate<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Credential, AuthorityError> {
        let mut params = authority("Sandpiper egress of a sandbox", 0);
        params.use_authority_key_identifier_extension = true;
        let everywhere = [CidrSubnet::V4([0; 4], [0; 4]), CidrSubnet::V6([0; 16], [0; 16])];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: names.map(|name| GeneralSubtree::DnsName(name.to_owned())).collect(),
            excluded_subtrees: everywhere.map(GeneralSubtree::IpAddress).into(),
        });
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn root() -> Result<Credential, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = authority("Sandpiper egress authority", 1).self_signed(&key)?;
    Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// With at most so many authorities below it.
fn authority(name: &str, below: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    [params.not_before, params.not_after] = YEARS.map(|year| date_time_ymd(year, 1, 1));
    params
}

impl Credential {
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)
    }
}

/// Vouches for hosts, in a sandbox's process.
pub(super) struct Signer {
    issuer: Issuer<'static, KeyPair>,
    own: CertificateDer<'static>,
}

impl Signer {
    pub fn new(credential: &Credential) -> io::Result<Self> {
        let own = CertificateDer::from_pem_slice(credential.certificate.as_bytes()).map_err(io::Error::other)?;
        Ok(Self { issuer: credential.issuer().map_err(io::Error::other)?, own })
    }

    /// How this host is spoken for, in one of these protocols or in none that has a name.
    pub fn server(&self, name: &str, protocol: Option<&[u8]>) -> io::Result<ServerConfig> {
        let (certificate, key) = self.sign(name).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(io::Error::other)?.with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate, self.own.clone()], key).map_err(io::Error::other)?;
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        Ok(config)
    }

    fn sign(&self, name: &str) -> Result<(CertificateDer<'static>, String), rcgen::Error> {
        let mut params = CertificateParams::default();
        // Another than its issuer's: OpenSSL takes a certificate of the same name for one that signs itself.
        params.distinguished_name.push(DnType::CommonName, "a host");
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let day =
            |date: Date| date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
        // Clocks differ.
        params.not_before = day(today.saturating_sub(1.day()));
        params.not_after = day(today.saturating_add(DAYS.days()));
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.der().clone(), key.serialize_pem()))
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// Whether whoever believes `authority` believes that a process with this credential vouches for `name`.
    fn believes(authority: &Authority, credential: &Credential, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let signer = Signer::new(credential).unwrap();
        let (certificate, _) = signer.sign(name).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&certificate, &[signer.own], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_process_vouches_for_the_hosts_of_its_policy_and_for_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let credential = authority.delegate(["api.example.com", "example.org"].into_iter()).unwrap();
        for name in ["api.example.com", "www.example.org", "example.org"] {
            assert!(believes(&authority, &credential, name), "{name}");
        }
        for name in ["www.example.com", "example.com", "notexample.org", "example.net"] {
            assert!(!believes(&authority, &credential, name), "{name}");
        }
        let other = Authority::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(!believes(&other, &credential, "example.org"), "another installation's");
    }

    #[test]
    fn an_installation_keeps_its_authority_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Authority::open(directory.path()).unwrap().certificate().to_owned();
        assert_eq!(Authority::open(directory.path()).unwrap().certificate(), certificate);
        let path = directory.path().join(FILE);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Authority::open(directory.path()), Err(AuthorityError::File(_))));
    }
}
