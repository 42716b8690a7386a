//! gzip on the way: content that clients send packed is unpacked, and content that they want packed is packed. Which of both
//! is the case the headers say.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::error::HttpError;

/// Pieces that wait for whoever takes them.
const QUEUE: usize = 4;
/// How long the rest of a refused upload is read, so that the client gets to read the answer.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How content travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Identity,
    /// Packed.
    Gzip,
}

impl Coding {
    /// That of a request's body.
    pub fn sent(headers: &HeaderMap) -> Result<Self, HttpError> {
        let named = headers.get(header::CONTENT_ENCODING).map_or(Ok(""), |value| value.to_str());
        match named.unwrap_or("?").to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" => Ok(Self::Gzip),
            _ => Err(HttpError::bad_request("unsupported content encoding: identity and gzip are accepted")),
        }
    }

    /// That in which a client wants an answer. Packed only for those who ask for gzip and nothing else: a list of all that
    /// they can unpack is what libraries send by themselves, and packing costs an emulated processor more than sending.
    /// A part of a file is never packed.
    pub fn wanted(headers: &HeaderMap) -> Result<Self, HttpError> {
        let is_part = headers.contains_key(header::RANGE);
        let accepted = accepted(headers);
        let weight = |name: &str| accepted.iter().find(|(other, _)| other == name).map(|(_, is_wanted)| *is_wanted);
        let identity = weight("identity").or_else(|| weight("*")).unwrap_or(true);
        let gzip = weight("gzip").or_else(|| weight("*").filter(|_| !identity)).unwrap_or(false) && !is_part;
        let is_alone = accepted.iter().all(|(name, is_wanted)| !is_wanted || ["gzip", "identity"].contains(&&**name));
        match (gzip, identity) {
            (true, false) => Ok(Self::Gzip),
            (true, true) if is_alone => Ok(Self::Gzip),
            (_, true) => Ok(Self::Identity),
            (false, false) => {
                let message = "no acceptable encoding: identity and gzip are offered";
                Err(HttpError::new(StatusCode::NOT_ACCEPTABLE, message))
            }
        }
    }
}

/// What a client can take, each with whether it wants it at all.
fn accepted(headers: &HeaderMap) -> Vec<(String, bool)> {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let items = values.flat_map(|value| value.split(',')).filter(|item| !item.trim().is_empty());
    items
        .map(|item| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let is_zero = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
            (name.trim().to_ascii_lowercase(), !is_zero)
        })
        .collect()
}

/// What a packed body is when it is unpacked. Damage is an error in the middle of it.
pub fn unpacked(body: Body) -> Body {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut pieces = body.into_data_stream();
        let mut unpack = || {
            let mut unpacked = MultiGzDecoder::new(Pieces(sender.clone()));
            while let Some(piece) = runtime.block_on(pieces.next()) {
                unpacked.write_all(&piece.map_err(io::Error::other)?)?;
            }
            unpacked.try_finish()
        };
        if let Err(error) = unpack() {
            let rest = async { while pieces.next().await.is_some_and(|piece| piece.is_ok()) {} };
            let _ = runtime.block_on(async { tokio::time::timeout(DRAIN, rest).await });
            // Nobody listens any more where that was the error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// What is left of a file, packed. An error of the disk breaks it off.
pub fn packed(mut file: File) -> Body {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut packed = GzEncoder::new(Pieces(sender.clone()), Compression::fast());
        if let Err(error) = io::copy(&mut file, &mut packed).and_then(|_| packed.try_finish()) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// Where pieces of a body are written to, from a thread that may block.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_answer_is_packed_for_who_wants_just_that() {
        let check = |value: &str, expect: Option<Coding>| {
            let mut headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(Coding::wanted(&headers).ok(), expect, "{value}");
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-1"));
            assert_ne!(Coding::wanted(&headers).ok(), Some(Coding::Gzip), "{value}");
        };
        for gzip in ["gzip", "GZIP;q=0.5", "gzip, identity", "gzip, *;q=0", "br, gzip, identity;q=0", "*, identity;q=0"]
        {
            check(gzip, Some(Coding::Gzip));
        }
        for identity in ["", "identity", "gzip, deflate, br", "gzip;q=0", "br", "*", "identity;q=0.5, *;q=0"] {
            check(identity, Some(Coding::Identity));
        }
        for nothing in ["identity;q=0", "*;q=0", "br, *;q=0", "gzip;q=0, identity;q=0"] {
            check(nothing, None);
        }
        assert_eq!(Coding::wanted(&HeaderMap::new()).ok(), Some(Coding::Identity));
    }
}
