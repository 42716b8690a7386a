//! `GET /files`: the content of one file, streamed.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Agent;
use super::error::HttpError;
use super::file_query::FileQuery;
use super::packing::{Coding, packed};
use crate::auth::Operation;
use crate::files::{self, Readable, path};

const CHUNK: u64 = 64 * 1024;
/// Chunks that wait for the client.
const QUEUE: usize = 4;

/// Answers with the content of a file, or of a part of it.
pub async fn download(State(agent): State<Arc<Agent>>, uri: Uri, headers: HeaderMap) -> Result<Response, HttpError> {
    let (query, settings) = FileQuery::authorise(&agent, &uri, &headers, Operation::Read)?;
    let coding = Coding::wanted(&headers)?;
    let open = move || -> Result<_, HttpError> {
        let user = query.user(&settings)?;
        let requested = query.path.as_deref().unwrap_or_default();
        let path = path::resolve(requested, &user.home, settings.default_workdir.as_deref());
        let path = path.map_err(|error| HttpError::bad_request(error.to_string()))?;
        Ok((files::open(&user, &path)?, path))
    };
    let opened = tokio::task::spawn_blocking(open).await.map_err(|error| HttpError::internal(&error))?;
    let (readable, path) = opened?;
    Ok(respond(readable, path::base_name(&path), &headers, coding))
}

fn respond(mut readable: Readable, name: &str, headers: &HeaderMap, coding: Coding) -> Response {
    let modified = readable.modified.map(httpdate::fmt_http_date);
    let mut fields = vec![
        (header::CONTENT_TYPE, content_type(name).to_owned()),
        (header::CONTENT_DISPOSITION, disposition(name)),
        (header::VARY, "Accept-Encoding".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    fields.extend(modified.map(|date| (header::LAST_MODIFIED, date)));
    match readable.modified.and_then(|modified| unmet(headers, modified)) {
        Some(StatusCode::NOT_MODIFIED) => return with_headers(StatusCode::NOT_MODIFIED.into_response(), fields),
        Some(status) => return HttpError::new(status, "the file is another one by now").into_response(),
        None => {}
    }
    if coding == Coding::Gzip {
        fields.push((header::CONTENT_ENCODING, "gzip".to_owned()));
        return with_headers(packed(readable.file).into_response(), fields);
    }
    let size = readable.size;
    match wanted(headers, &readable) {
        // Made up while it is read, or really empty: read to the end to know.
        Wanted::All if size == 0 => with_headers(stream(readable, None).into_response(), fields),
        Wanted::All => {
            fields.push((header::CONTENT_LENGTH, size.to_string()));
            with_headers(stream(readable, Some(size)).into_response(), fields)
        }
        Wanted::Part { start, length } => {
            if let Err(error) = readable.file.seek(SeekFrom::Start(start)) {
                return HttpError::internal(&error).into_response();
            }
            fields.push((header::CONTENT_LENGTH, length.to_string()));
            fields.push((header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1)));
            let body = stream(readable, Some(length));
            with_headers((StatusCode::PARTIAL_CONTENT, body).into_response(), fields)
        }
        Wanted::Nothing => {
            let error = HttpError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range is outside of the file");
            with_headers(error.into_response(), vec![(header::CONTENT_RANGE, format!("bytes */{size}"))])
        }
    }
}

fn with_headers(mut response: Response, fields: Vec<(HeaderName, String)>) -> Response {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Sends `length` bytes, or all that there is. A file that turns out shorter breaks the answer off.
fn stream(readable: Readable, length: Option<u64>) -> Body {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut left = length;
        while left != Some(0) {
            let chunk = read(&readable.file, left.unwrap_or(CHUNK).min(CHUNK));
            let read = chunk.as_ref().map_or(0, Bytes::len);
            let message = match (&chunk, left) {
                (Ok(_), None) if read == 0 => return,
                (Ok(_), Some(_)) if read == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => chunk,
            };
            let failed = message.is_err();
            // Nobody listens any more, or nothing more can be said.
            if sender.blocking_send(message).is_err() || failed {
                return;
            }
            left = left.map(|left| left - read as u64);
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

fn read(file: &std::fs::File, limit: u64) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(limit.try_into().unwrap_or_default());
    file.take(limit).read_to_end(&mut buffer)?;
    Ok(buffer.into())
}

/// What a request wants of a file.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part { start: u64, length: u64 },
    Nothing,
}

fn wanted(headers: &HeaderMap, readable: &Readable) -> Wanted {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let unchanged = match text(header::IF_RANGE).map(httpdate::parse_http_date) {
        None => true,
        Some(Ok(date)) => readable.modified.is_some_and(|modified| whole_seconds(modified) == whole_seconds(date)),
        Some(Err(_)) => false,
    };
    match text(header::RANGE) {
        Some(range) if unchanged && readable.size > 0 => parse_range(range, readable.size),
        _ => Wanted::All,
    }
}

/// One range of bytes; anything else, several ranges included, means the whole file, as HTTP allows.
fn parse_range(range: &str, size: u64) -> Wanted {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Wanted::All;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if end >= start => (start, end.min(size - 1)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size - 1),
        (Err(_), Ok(0)) if first.is_empty() => return Wanted::Nothing,
        (Err(_), Ok(tail)) if first.is_empty() => (size - tail.min(size), size - 1),
        _ => return Wanted::All,
    };
    if start >= size { Wanted::Nothing } else { Wanted::Part { start, length: end - start + 1 } }
}

/// What to answer where a condition of the request does not hold. Of two that mean the same the exact one counts, though
/// nothing here has a tag.
fn unmet(headers: &HeaderMap, modified: SystemTime) -> Option<StatusCode> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_newer_than = |name| {
        let known = text(name).and_then(|date| httpdate::parse_http_date(date).ok());
        known.map(|known| whole_seconds(modified) > whole_seconds(known))
    };
    let is_another = match text(header::IF_MATCH) {
        Some(tags) => tags.trim() != "*",
        None => is_newer_than(header::IF_UNMODIFIED_SINCE) == Some(true),
    };
    let is_known = match text(header::IF_NONE_MATCH) {
        Some(tags) => tags.trim() == "*",
        None => is_newer_than(header::IF_MODIFIED_SINCE) == Some(false),
    };
    let unmet = [(is_another, StatusCode::PRECONDITION_FAILED), (is_known, StatusCode::NOT_MODIFIED)];
    unmet.into_iter().find(|(is_unmet, _)| *is_unmet).map(|(_, status)| status)
}

fn whole_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "avif" => "image/avif",
        "css" => "text/css; charset=utf-8",
        "gif" => "image/gif",
        "htm" | "html" => "text/html; charset=utf-8",
        "jpeg" | "jpg" => "image/jpeg",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        "webp" => "image/webp",
        "xml" => "text/xml; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn disposition(name: &str) -> String {
    if name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return format!("inline; filename=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    format!("inline; filename*=utf-8''{}", name.bytes().map(encode).collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        let check = |range: &str, expect| assert_eq!(parse_range(range, 10), expect, "{range}");
        check("bytes=0-3", Wanted::Part { start: 0, length: 4 });
        check("bytes=5-", Wanted::Part { start: 5, length: 5 });
        check("bytes=-3", Wanted::Part { start: 7, length: 3 });
        check("bytes=-30", Wanted::Part { start: 0, length: 10 });
        check("bytes=8-99", Wanted::Part { start: 8, length: 2 });
        check("bytes=10-", Wanted::Nothing);
        check("bytes=-0", Wanted::Nothing);
        for whole in ["bytes=3-1", "bytes=0-1,3-4", "lines=0-1", "bytes=", "bytes=-", "", "bytes=a-b"] {
            check(whole, Wanted::All);
        }
    }

    #[test]
    fn the_type_is_that_of_the_extension() {
        let types = ["a.tar.PNG", "a.json", "png", ".html", "a.unknown", ""].map(content_type);
        let (octets, html) = ("application/octet-stream", "text/html; charset=utf-8");
        assert_eq!(types, ["image/png", "application/json", octets, html, octets, octets]);
    }

    #[test]
    fn names_survive_the_header() {
        assert_eq!(disposition("a \"b\".txt"), r#"inline; filename="a \"b\".txt""#);
        assert_eq!(disposition("ä\n"), "inline; filename*=utf-8''%C3%A4%0A");
    }

    proptest! {
        #[test]
        fn a_range_is_always_inside_of_the_file(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in 1u64..) {
            if let Wanted::Part { start, length } = parse_range(&range, size) {
                prop_assert!(length > 0 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn any_range_is_survived(range in ".{0,40}", size in 1u64..100) {
            let _ = parse_range(&range, size);
        }
    }
}
