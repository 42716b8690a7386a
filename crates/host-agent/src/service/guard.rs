//! Keeps web pages away from the port: a page can make a browser send requests to loopback, but it cannot choose the
//! Host header (a name that was rebound to loopback stays in it), nor hide that a browser sends them. No page is ever
//! served from here, so none may call.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, header};

use super::tls::Tls;

/// The names under which this port may be called.
#[derive(Debug)]
pub(super) struct KnownHosts {
    listen: IpAddr,
    tls: Option<Tls>,
}

impl KnownHosts {
    /// Loopback's names, the listen address, and those in the certificate. A port on all addresses is called by any.
    pub(super) fn new(listen: SocketAddr, tls: Option<Tls>) -> Self {
        Self { listen: listen.ip(), tls }
    }

    fn know(&self, authority: &Authority) -> bool {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let is_own = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address == self.listen || self.listen.is_unspecified(),
            Err(_) => host == "localhost",
        };
        is_own || self.tls.as_ref().is_some_and(|tls| tls.is_for(&host))
    }
}

/// The middleware.
pub(super) async fn refuse_pages(State(hosts): State<Arc<KnownHosts>>, request: Request, next: Next) -> Response {
    match check(&hosts, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, body)) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
    }
}

/// The status and an error as Connect words it.
type Refused = (StatusCode, &'static str);

const MISDIRECTED: Refused = (
    StatusCode::MISDIRECTED_REQUEST,
    r#"{"code":"permission_denied","message":"the host agent is not known by the name in the Host header"}"#,
);
const PAGE: Refused = (
    StatusCode::FORBIDDEN,
    r#"{"code":"permission_denied","message":"the host agent answers no requests of web pages"}"#,
);

fn check(hosts: &KnownHosts, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    let called: Authority = uri.authority().cloned().or(header).ok_or(MISDIRECTED)?;
    if !hosts.know(&called) {
        return Err(MISDIRECTED);
    }
    // Browsers leave Origin out of some requests, and say in all of them where they come from.
    let is_of_a_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if is_of_a_page { Err(PAGE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(listen: &str, headers: &[(&'static str, &str)]) -> u16 {
        let hosts = KnownHosts::new(listen.parse().unwrap(), None);
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check(&hosts, &Uri::from_static("/hostagent.v1.HostAgentService/Exec"), &headers)
            .map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_names_of_this_machine_are_known() {
        for host in ["localhost", "LOCALHOST:50051", "127.0.0.1:1", "[::1]:50051"] {
            assert_eq!(answer("127.0.0.1:50051", &[("host", host)]), 200, "{host}");
        }
        for host in ["rebound.example", "localhost.rebound.example", "10.0.0.1:50051", "", "a b"] {
            assert_eq!(answer("127.0.0.1:50051", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(answer("127.0.0.1:50051", &[]), 421);
        assert_eq!(answer("10.0.0.1:50051", &[("host", "10.0.0.1:50051")]), 200);
        assert_eq!(answer("0.0.0.0:50051", &[("host", "192.0.2.7")]), 200);
    }

    #[test]
    fn no_page_may_call() {
        for header in [("origin", "http://localhost:50051"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(answer("127.0.0.1:50051", &[("host", "localhost:50051"), header]), 403, "{header:?}");
        }
    }
}
