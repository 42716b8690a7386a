//! The headers that a sandbox's requests get on their way, as a request has them, whichever surface it comes by.

use std::collections::BTreeMap;

use model::{HeaderWords, InvalidHeaders, Secret};

use super::error::ApiError;
use super::request::Given;

/// Values by domain and name.
pub type Request = HeaderWords<Given>;

/// What was asked for, once it is sure that it can be sent.
pub fn words(wanted: Request) -> Result<HeaderWords, ApiError> {
    let host = |(domain, headers): (String, BTreeMap<String, Given>)| {
        let checked = headers.into_iter().map(|(name, value)| {
            let value = Secret::header_value(&name, value.0)?;
            Ok((name, value))
        });
        Ok((domain, checked.collect::<Result<_, _>>()?))
    };
    let words = wanted.into_iter().map(host).collect::<Result<_, _>>();
    words.map_err(|error: InvalidHeaders| {
        ApiError::invalid_request(format!("the headers of requests are not valid: {error}"))
    })
}
