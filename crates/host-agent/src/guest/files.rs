//! Whole files in one piece, for the RPCs that carry them so. Anything large goes through the guest stream instead.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{FileError, Guest, GuestError};

/// The largest file that is read in one piece.
pub const READ_LIMIT: usize = 64 * 1024 * 1024;

/// For a file of that size on a busy host.
const DEADLINE: Duration = Duration::from_secs(120);

impl Guest {
    /// Writes a file, its parent directories too.
    pub async fn write_file(&self, path: &str, content: Bytes) -> Result<(), FileError> {
        let mut request = file_request(Method::POST, path, Body::from(content))?;
        let octets = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(header::CONTENT_TYPE, octets);
        self.exchange(request).await.map(drop)
    }

    /// Reads a file.
    pub async fn read_file(&self, path: &str) -> Result<Bytes, FileError> {
        self.exchange(file_request(Method::GET, path, Body::empty())?).await
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Bytes, FileError> {
        let exchange = async {
            let response = self.forward(request).await?;
            let status = response.status();
            let body = collect(response.into_body()).await?;
            if status == StatusCode::OK { Ok(body) } else { Err(FileError::from_answer(status, &body)) }
        };
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| GuestError::Silent)?
    }
}

async fn collect(body: Body) -> Result<Bytes, FileError> {
    match Limited::new(body, READ_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FileError::TooLarge(READ_LIMIT)),
        Err(_) => Err(GuestError::Garbled.into()),
    }
}

fn file_request(method: Method, path: &str, body: Body) -> Result<Request<Body>, FileError> {
    if path.is_empty() || path.contains('\0') {
        return Err(FileError::BadPath("a path must not be empty or hold a NUL byte".to_owned()));
    }
    let uri = format!("/files?path={}", percent_encode(path));
    let request = Request::builder().method(method).uri(uri).body(body);
    request.map_err(|_| FileError::BadPath("the path is too long".to_owned()))
}

fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => encoded.push(byte.into()),
            _ => encoded += &format!("%{byte:02X}"),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_place_in_the_query() {
        assert_eq!(percent_encode("/a b&c=d#e?ü%"), "/a%20b%26c%3Dd%23e%3F%C3%BC%25");
        assert!(file_request(Method::GET, "/a\0b", Body::empty()).is_err());
    }
}
