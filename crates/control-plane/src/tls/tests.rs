//! Whom a control plane believes to be a host agent, on real connections.

use std::io;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "the test's authority");
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with these names and its key, as PEM.
fn issue(by: &Authority, names: &[&str], use_as: ExtendedKeyUsagePurpose, until: i32) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![use_as];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

/// As a renewal does it: a clock may be too coarse to tell two writes to one file apart.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn load(directory: &TempDir, authority: &Authority, role: Role) -> Result<Tls, TlsError> {
    let names = ["plane.example", role.certificate_name()];
    let (certificate, key) = issue(authority, &names, ExtendedKeyUsagePurpose::ClientAuth, 2999);
    let path = |name| directory.path().join(name);
    for (name, text) in [("ca", authority.pem()), ("certificate", certificate), ("key", key)] {
        replace(&path(name), &text);
    }
    Tls::load(&path("ca"), &path("certificate"), &path("key"))
}

/// Dials a server with this certificate as `localhost`, and returns how the handshake went for a control plane.
async fn dial(trusted: &Authority, identity: (String, String)) -> io::Result<Vec<u8>> {
    let tls = load(&tempfile::tempdir().unwrap(), trusted, Role::ControlPlane).unwrap();
    dial_with(&tls, trusted, identity).await
}

async fn dial_with(tls: &Tls, trusted: &Authority, (certificate, key): (String, String)) -> io::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .map(|stream| stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    });
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(tls.speaking(b"h2")).connect(name, stream).await?;
    assert!(serving.await.unwrap().unwrap(), "the server takes the certificate, and the protocol is agreed on");
    Ok(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec())
}

const HOST_AGENT: &str = "host-agent.role.sandpiper.internal";

#[tokio::test]
async fn a_host_agent_of_the_same_authority_is_believed() {
    let authority = authority();
    let identity = issue(&authority, &["localhost", HOST_AGENT], ExtendedKeyUsagePurpose::ServerAuth, 2999);
    assert_eq!(dial(&authority, identity).await.unwrap(), b"h2");
}

#[tokio::test]
async fn nobody_else_is() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (own, other) = (authority(), authority());
    for (what, by, names, use_as, until) in [
        ("another authority's", &other, &["localhost", HOST_AGENT][..], ServerAuth, 2999),
        ("expired", &own, &["localhost", HOST_AGENT], ServerAuth, 2021),
        ("another machine's", &own, &["elsewhere.example", HOST_AGENT], ServerAuth, 2999),
        ("a server's that is no host agent", &own, &["localhost"], ServerAuth, 2999),
        ("a control plane's", &own, &["localhost", Role::ControlPlane.certificate_name()], ServerAuth, 2999),
        ("a client's", &own, &["localhost", HOST_AGENT], ClientAuth, 2999),
    ] {
        let error = dial(&own, issue(by, names, use_as, until)).await.expect_err(what);
        assert!(error.to_string().contains("invalid peer certificate"), "{what}: {error}");
    }
}

#[tokio::test]
async fn renewed_files_are_used_without_a_restart() {
    let (files, first, next) = (tempfile::tempdir().unwrap(), authority(), authority());
    let tls = load(&files, &first, Role::ControlPlane).unwrap();
    load(&files, &next, Role::ControlPlane).unwrap();
    for (authority, is_believed) in [(&next, true), (&first, false)] {
        let identity = issue(authority, &["localhost", HOST_AGENT], ExtendedKeyUsagePurpose::ServerAuth, 2999);
        assert_eq!(dial_with(&tls, authority, identity).await.is_ok(), is_believed);
    }
}

#[test]
fn a_certificate_of_another_role_is_refused_at_the_start() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), authority());
    assert!(load(&directory, &authority, Role::ControlPlane).is_ok());
    assert!(matches!(load(&directory, &authority, Role::HostAgent), Err(TlsError::Role(_))));
}
