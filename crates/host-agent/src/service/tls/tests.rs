//! Who gets through to the port and who does not, on real connections.

use axum::Router;
use axum::routing::get;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "the test's authority");
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// What a certificate is made of, besides its role.
#[derive(Clone)]
struct Wish {
    role: Role,
    use_as: ExtendedKeyUsagePurpose,
    until: i32,
}

const CONTROL_PLANE: Wish = Wish { role: Role::ControlPlane, use_as: ExtendedKeyUsagePurpose::ClientAuth, until: 2999 };
const HOST_AGENT: Wish = Wish { role: Role::HostAgent, use_as: ExtendedKeyUsagePurpose::ServerAuth, until: 2999 };

fn issue(by: &Authority, wish: Wish) -> (String, String) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), wish.role.certificate_name().to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![wish.use_as];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(wish.until, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, by).unwrap().pem(), key.serialize_pem())
}

fn identity(by: &Authority, wish: Wish) -> Identity {
    let (certificate, key) = issue(by, wish);
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
}

/// As a renewal does it: a clock may be too coarse to tell two writes to one file apart.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn load(directory: &TempDir, authority: &Authority, wish: Wish) -> Result<Tls, TlsError> {
    let (certificate, key) = issue(authority, wish);
    let path = |name| directory.path().join(name);
    for (name, text) in [("ca", authority.pem()), ("certificate", certificate), ("key", key)] {
        replace(&path(name), &text);
    }
    Tls::load(&path("ca"), &path("certificate"), &path("key"))
}

struct Port {
    address: SocketAddr,
    authority: Authority,
    files: TempDir,
    _stop: DropGuard,
}

async fn port() -> Port {
    let authority = authority();
    let files = tempfile::tempdir().unwrap();
    let tls = load(&files, &authority, HOST_AGENT).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serve = axum::serve(TlsListener::new(tcp, tls), Router::new().route("/", get(async || "obeyed")))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::spawn(async move { serve.await });
    Port { address, authority, files, _stop: stop.drop_guard() }
}

impl Port {
    /// A request with this certificate, by somebody who believes this authority.
    async fn ask(&self, believes: &Authority, identity: Option<Identity>) -> io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(believes.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn refuses(&self, identity: Option<Identity>, why: &str) {
        let error = self.ask(&self.authority, identity).await.expect_err(why);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

#[tokio::test]
async fn a_control_plane_is_obeyed() {
    let port = port().await;
    let answer = port.ask(&port.authority, Some(identity(&port.authority, CONTROL_PLANE))).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("obeyed"), "{answer}");
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused() {
    port().await.refuses(None, "CertificateRequired").await;
}

#[tokio::test]
async fn a_control_plane_of_another_authority_is_refused_and_refuses_us() {
    let port = port().await;
    let other = authority();
    // The library names the authorities that it accepts: a client that has no certificate of theirs shows none.
    let error = port.ask(&port.authority, Some(identity(&other, CONTROL_PLANE))).await.unwrap_err();
    assert!(["DecryptError", "UnknownCA"].iter().any(|why| error.to_string().contains(why)), "{error}");
    let error = port.ask(&other, Some(identity(&port.authority, CONTROL_PLANE))).await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_refused() {
    let port = port().await;
    let expired = identity(&port.authority, Wish { until: 2021, ..CONTROL_PLANE });
    port.refuses(Some(expired), "CertificateExpired").await;
}

#[tokio::test]
async fn a_host_agent_cannot_act_as_a_control_plane() {
    let port = port().await;
    // Its certificate is a server's; and where an authority of one's own makes them for both uses, its role is wrong.
    let both = Wish { use_as: ExtendedKeyUsagePurpose::ClientAuth, ..HOST_AGENT };
    for wish in [HOST_AGENT, both] {
        let error = port.ask(&port.authority, Some(identity(&port.authority, wish))).await.unwrap_err();
        assert!(error.to_string().contains("received fatal alert"), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_holds_up_no_other() {
    let port = port().await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    port.ask(&port.authority, Some(identity(&port.authority, CONTROL_PLANE))).await.unwrap();
}

#[tokio::test]
async fn renewed_files_are_used_without_a_restart_and_broken_ones_are_not() {
    let port = port().await;
    let obeys = async |whom: &Authority| port.ask(whom, Some(identity(whom, CONTROL_PLANE))).await.is_ok();
    assert!(obeys(&port.authority).await);
    replace(&port.files.path().join("key"), "in the middle of a renewal");
    assert!(obeys(&port.authority).await);
    let next = authority();
    load(&port.files, &next, HOST_AGENT).unwrap();
    assert!(obeys(&next).await && !obeys(&port.authority).await);
}

#[test]
fn files_that_are_no_host_agents_are_refused_at_the_start() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), authority());
    let tls = load(&directory, &authority, HOST_AGENT).unwrap();
    assert!(tls.is_for("localhost") && tls.is_for("127.0.0.1") && !tls.is_for("elsewhere.example"));
    assert!(matches!(load(&directory, &authority, CONTROL_PLANE), Err(TlsError::Role(_))));
    let path = |name| directory.path().join(name);
    load(&directory, &authority, HOST_AGENT).unwrap();
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(path("key"), other_key).unwrap();
    let loaded = Tls::load(&path("ca"), &path("certificate"), &path("key"));
    assert!(matches!(loaded, Err(TlsError::Identity(_))));
    let loaded = Tls::load(&path("none"), &path("certificate"), &path("key"));
    assert!(loaded.unwrap_err().to_string().contains("none"));
    std::fs::write(path("ca"), "").unwrap();
    let loaded = Tls::load(&path("ca"), &path("certificate"), &path("key"));
    assert!(matches!(loaded, Err(TlsError::Verifier(_))));
}
