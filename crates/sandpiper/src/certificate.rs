//! What stands in the certificates: who, for which role or domain, until when; and how they are kept.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use control_plane::DomainName;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use model::{Role, is_dns_label};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

/// A certificate and its key, as PEM.
pub struct Made {
    pub certificate: String,
    pub key: String,
    /// The day on which it expires.
    pub until: Date,
}

/// A machine's name in the domain name system, or its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Address(IpAddr),
    Dns(String),
}

/// A text that names no machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidName {
    /// It is neither an address nor a DNS name.
    NoName,
    /// It names a role.
    Role,
}

impl std::error::Error for InvalidName {}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("neither a DNS name nor an IP address"),
            Self::Role => write!(f, "names below {} are for roles", Role::DOMAIN),
        }
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.to_ascii_lowercase();
        if name.len() > 253 || !name.split('.').all(is_dns_label) {
            return Err(InvalidName::NoName);
        }
        if name.ends_with(Role::DOMAIN) {
            return Err(InvalidName::Role);
        }
        Ok(Self::Dns(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Dns(name) => name.fmt(f),
        }
    }
}

/// An authority for roles, which signs itself.
pub fn authority(days: u32) -> anyhow::Result<Made> {
    self_signed("Sandpiper authority".to_owned(), None, days)
}

/// An authority that is believed for names of one domain alone, so that whoever trusts it gives nothing else away.
pub fn domain_authority(domain: &DomainName, days: u32) -> anyhow::Result<Made> {
    let permitted_subtrees = vec![GeneralSubtree::DnsName(domain.to_string())];
    let constraints = NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() };
    self_signed(format!("Sandpiper authority for {domain}"), Some(constraints), days)
}

fn self_signed(name: String, constraints: Option<NameConstraints>, days: u32) -> anyhow::Result<Made> {
    let mut params = CertificateParams::default();
    // It signs certificates and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints;
    params.distinguished_name.push(DnType::CommonName, name);
    let until = set_validity(&mut params, days)?;
    let key = KeyPair::generate()?;
    Ok(Made { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem(), until })
}

/// A certificate for `role` at `names`, of which there is at least one, signed by the authority in these PEM texts.
pub fn issue(authority: &str, authority_key: &str, role: Role, names: &[Name], days: u32) -> anyhow::Result<Made> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{} {}", role.as_str(), names[0]));
    params.subject_alt_names = names.iter().map(san).collect::<Result<_, _>>()?;
    params.subject_alt_names.push(SanType::DnsName(role.certificate_name().try_into()?));
    // A host agent only ever answers, a control plane only ever calls.
    params.extended_key_usages = vec![match role {
        Role::HostAgent => ExtendedKeyUsagePurpose::ServerAuth,
        Role::ControlPlane => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    sign(params, authority, authority_key, days)
}

/// A server's certificate for a domain and every name right below it, signed by the authority in these PEM texts.
pub fn issue_domain(authority: &str, authority_key: &str, domain: &DomainName, days: u32) -> anyhow::Result<Made> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, domain.to_string());
    for name in [domain.to_string(), format!("*.{domain}")] {
        params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(params, authority, authority_key, days)
}

fn sign(mut params: CertificateParams, authority: &str, authority_key: &str, days: u32) -> anyhow::Result<Made> {
    let authority_key = KeyPair::from_pem(authority_key).context("the authority's key cannot be used")?;
    let issuer =
        Issuer::from_ca_cert_pem(authority, authority_key).context("the authority's certificate cannot be used")?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let until = set_validity(&mut params, days)?;
    let key = KeyPair::generate()?;
    Ok(Made { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem(), until })
}

/// Until when a certificate in a PEM text is good.
pub fn ends(certificate: &str) -> anyhow::Result<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).context("the text is no PEM")?;
    let parsed = pem.parse_x509().context("the text is no certificate")?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).context("its end is not a time")
}

/// Writes a file for its owner alone, which is there entirely or not.
pub fn write(directory: &Path, path: &Path, text: &str, replace: bool) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    let kept = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    kept.map(drop).map_err(|error| error.error).with_context(failed)
}

fn san(name: &Name) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        Name::Address(address) => SanType::IpAddress(*address),
        Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
    })
}

/// From yesterday, because clocks differ, for that many days.
fn set_validity(params: &mut CertificateParams, days: u32) -> anyhow::Result<Date> {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let until = today.checked_add(i64::from(days).days()).context("that is too far away")?;
    let midnight =
        |date: Date| date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    params.not_before = midnight(today.yesterday()?);
    params.not_after = midnight(until);
    Ok(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_or_addresses_and_never_roles() {
        for (text, expected) in [
            ("Host-1.example", Ok("host-1.example")),
            ("192.0.2.7", Ok("192.0.2.7")),
            ("2001:db8::1", Ok("2001:db8::1")),
            ("", Err(InvalidName::NoName)),
            ("../x", Err(InvalidName::NoName)),
            ("-x", Err(InvalidName::NoName)),
            ("a..b", Err(InvalidName::NoName)),
            ("control-plane.role.sandpiper.internal", Err(InvalidName::Role)),
        ] {
            let name = text.parse::<Name>().map(|name| name.to_string());
            assert_eq!(name.as_deref().map_err(|error| *error), expected, "{text:?}");
        }
    }
}
