//! Clients and servers of our own, at the two ends of a connection whose requests get headers.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::BodyExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use super::super::authority::Authority;
use super::*;

const NAME: &str = "api.example.com";

/// Two installations: the one whose process is between the ends, and one that vouches for the server.
struct World {
    ours: Authority,
    requests: Requests,
    server: Arc<ServerConfig>,
    _directories: [tempfile::TempDir; 2],
}

impl World {
    /// The server speaks these protocols and shows the certificate of a host of this name.
    fn new(shown: &str, protocols: &[&[u8]]) -> Self {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, theirs] = [0, 1].map(|index: usize| Authority::open(directories[index].path()).unwrap());
        let signer = Signer::new(&theirs.delegate([shown].into_iter()).unwrap()).unwrap();
        let mut server = signer.server(shown, None).unwrap();
        server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let text = r#"{"request_headers":{"api.example.com":{"Authorization":"Bearer secret","X-Two":"2"}}}"#;
        let policy: model::NetworkPolicy = serde_json::from_str(text).unwrap();
        let credential = ours.delegate([NAME].into_iter()).unwrap();
        let requests = Requests::new(policy.headers(), &credential, theirs.certificate().as_bytes()).unwrap();
        Self { ours, requests, server: server.into(), _directories: directories }
    }

    /// A guest's connection by TLS that offers these protocols, and what it agreed on.
    async fn connect(self, protocols: &[&[u8]]) -> (tokio_rustls::client::TlsStream<DuplexStream>, Option<Vec<u8>>) {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ours.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let (guest, between) = duplex(1 << 16);
        let (onward, server) = duplex(1 << 16);
        let acceptor = TlsAcceptor::from(self.server.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(server).await {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                echo(stream, is_http2).await;
            }
        });
        let host = self.requests.to(NAME).unwrap();
        tokio::spawn(async move { self.requests.pass_on_secured(host, between, onward).await });
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(client)).connect(name, guest).await.expect("the guest believes it");
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        (stream, agreed)
    }
}

/// A server that says what it was asked, and echoes what is said after an upgrade. It advertises HTTP/3.
async fn echo<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, is_http2: bool) {
    let answer = async |mut request: Request<Incoming>| {
        let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let all =
            |name: &str| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert!(!all("connection").contains(&"x-two"));
        let said = format!(
            "{} {:?} {:?} {}",
            parts.method,
            all("authorization"),
            all("x-two"),
            String::from_utf8_lossy(&body)
        );
        let mut response = Response::new(Body::from(said));
        response.headers_mut().insert(header::ALT_SVC, HeaderValue::from_static("h3=\":443\""));
        if let Some(upgrade) = upgrade {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.body_mut() = Body::empty();
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("echo"));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
        if parts.headers.contains_key("x-last") {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(response)
    };
    let stream = TokioIo::new(stream);
    let _ = match is_http2 {
        true => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service_fn(answer)).await,
        false => http1::Builder::new().serve_connection(stream, service_fn(answer)).with_upgrades().await,
    };
}

fn request(host: &str) -> http::request::Builder {
    Request::post("/path").header(header::HOST, host).header("Authorization", "Bearer mine")
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

const GIVEN: &str = r#"POST ["Bearer secret"] ["2"] hello"#;

#[tokio::test]
async fn each_request_of_a_connection_gets_its_headers_and_one_for_another_host_is_refused() {
    let (stream, agreed) = World::new(NAME, &[b"http/1.1"]).connect(&PROTOCOLS).await;
    assert_eq!(agreed.unwrap(), b"http/1.1", "what the server speaks");
    let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for host in [NAME, "API.example.com:443", "api.example.com."] {
        let request = request(host).header(header::CONNECTION, "x-two");
        let response = sender.send_request(request.body("hello".to_owned()).unwrap()).await.unwrap();
        assert!(!response.headers().contains_key(header::ALT_SVC));
        assert_eq!(text(response).await, GIVEN, "{host}");
        sender.ready().await.unwrap();
    }
    for other in ["other.example.com", "", "api.example.com.other.net"] {
        let response = sender.send_request(request(other).body("hello".to_owned()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::MISDIRECTED_REQUEST, "{other:?}");
        assert!(text(response).await.contains(NAME));
        sender.ready().await.unwrap();
    }
    let trace = request(NAME).method(Method::TRACE).body(String::new()).unwrap();
    let response = sender.send_request(trace).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    drop(text(response).await);
    sender.ready().await.unwrap();
    let last = request(NAME).header("x-last", "1").body("hello".to_owned()).unwrap();
    assert_eq!(text(sender.send_request(last).await.unwrap()).await, GIVEN);
    // The guest's connection ends with the server's, well or not.
    let _ = connection.await.unwrap();
}

#[tokio::test]
async fn both_sides_speak_http2_where_both_can() {
    let (stream, agreed) = World::new(NAME, &PROTOCOLS).connect(&PROTOCOLS).await;
    assert_eq!(agreed.unwrap(), HTTP2);
    let (sender, connection) = client2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = async |host: &str| {
        let request = Request::post(format!("https://{host}/path")).header("Authorization", "Bearer mine");
        sender.clone().send_request(request.body("hello".to_owned()).unwrap()).await.unwrap()
    };
    let (one, two) = tokio::join!(ask(NAME), ask(NAME));
    assert_eq!((text(one).await.as_str(), text(two).await.as_str()), (GIVEN, GIVEN));
    assert_eq!(ask("other.example.com").await.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_connection_can_become_something_else() {
    let (stream, _) = World::new(NAME, &[]).connect(&[]).await;
    let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let upgrade = request(NAME).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "echo");
    let mut response = sender.send_request(upgrade.body(String::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut upgraded = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    upgraded.write_all(b"after").await.unwrap();
    let mut heard = [0; 5];
    upgraded.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"after");
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_told_nothing_and_the_guest_hears_why() {
    let (stream, _) = World::new("other.example.com", &[b"http/1.1"]).connect(&PROTOCOLS).await;
    let (mut sender, connection) = client1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request(NAME).body(String::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let problem = text(response).await;
    assert!(problem.contains(NAME) && problem.contains("certificate"), "{problem}");
}

#[tokio::test]
async fn what_comes_without_tls_goes_on_without_it() {
    let World { requests, _directories, .. } = World::new(NAME, &[]);
    let (guest, between) = duplex(1 << 16);
    let (onward, server) = duplex(1 << 16);
    tokio::spawn(echo(server, false));
    let host = requests.to(NAME).unwrap();
    let passed = tokio::spawn(async move { requests.pass_on_plain(host, between, onward).await });
    let (mut sender, connection) = client1::handshake(TokioIo::new(guest)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request(NAME).body("hello".to_owned()).unwrap()).await.unwrap();
    assert_eq!(text(response).await, GIVEN);
    drop(sender);
    passed.await.unwrap().unwrap();
}

#[test]
fn requests_to_other_hosts_get_nothing_and_no_value_is_shown() {
    let World { requests, .. } = World::new(NAME, &[]);
    assert!(requests.to("example.com").is_none() && requests.to("www.api.example.com").is_none());
    let shown = format!("{:?}", requests.to(NAME).unwrap());
    assert!(shown.contains("authorization") && !shown.contains("secret"), "{shown}");
}
