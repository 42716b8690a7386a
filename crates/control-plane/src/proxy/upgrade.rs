//! Connections that become something else than HTTP, such as WebSockets. What is then said is not looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio_util::sync::CancellationToken;

use super::headers;

/// Room for what is under way in each direction.
const BUFFER: usize = 32 << 10;

/// What a request wants its connection to become, and the connection once it may.
pub struct Wish {
    protocol: HeaderValue,
    form: Form,
    client: OnUpgrade,
}

/// How it is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `Upgrade`, in HTTP/1.1.
    Upgrade,
    /// An extended `CONNECT`, in HTTP/2.
    Connect,
}

impl Wish {
    /// What a request wishes, if anything.
    pub fn of<B>(request: &mut Request<B>) -> Option<Self> {
        let (protocol, form) = match request.extensions().get::<Protocol>() {
            Some(protocol) if request.method() == Method::CONNECT => {
                (HeaderValue::from_str(protocol.as_str()).ok()?, Form::Connect)
            }
            _ => (wanted(request.headers())?, Form::Upgrade),
        };
        Some(Self { protocol, form, client: hyper::upgrade::on(request) })
    }

    /// Makes the request say to the guest what it wishes, which speaks HTTP/1.1.
    pub fn say<B>(&self, request: &mut Request<B>) {
        headers::ask_to_become(request.headers_mut(), self.protocol.clone());
        if self.form == Form::Connect {
            *request.method_mut() = Method::GET;
            let mut key = [0; 16];
            getrandom::fill(&mut key).expect("the kernel has randomness");
            let key = HeaderValue::try_from(STANDARD.encode(key)).expect("base64 is text");
            headers::add_websocket_key(request.headers_mut(), key);
        }
    }

    /// Makes the guest's consent an answer to the client.
    pub fn answer(&self, status: &mut StatusCode, headers: &mut HeaderMap) {
        match self.form {
            Form::Upgrade => headers::ask_to_become(headers, self.protocol.clone()),
            Form::Connect => {
                *status = StatusCode::OK;
                headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
    }

    /// Passes bytes both ways until either side ends, or the server does. Holds what is `held` as long.
    pub fn join(self, guest: OnUpgrade, end: CancellationToken, held: impl Send + 'static) {
        tokio::spawn(async move {
            let joined = async {
                let (client, guest) = tokio::try_join!(self.client, guest)?;
                let (mut client, mut guest) = (TokioIo::new(client), TokioIo::new(guest));
                // However it ends, both sides are closed.
                let _ = copy_bidirectional_with_sizes(&mut client, &mut guest, BUFFER, BUFFER).await;
                Ok::<_, hyper::Error>(())
            };
            tokio::select! {
                _ = joined => {}
                () = end.cancelled() => {}
            }
            drop(held);
        });
    }
}

/// The protocol that a header of HTTP/1.1 asks for.
fn wanted(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let is_asked = named.any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    headers.get(UPGRADE).filter(|_| is_asked).cloned()
}
