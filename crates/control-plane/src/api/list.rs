//! What a list is asked for: filters and a part of it, in the query.

use axum::extract::FromRequestParts;
use http::request::Parts;
use model::Status;
use serde_json::json;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};

use super::error::ApiError;
use super::openapi::schema;
use crate::store::{Cursor, Filter};

/// Sandboxes in one answer, where a limit is asked for.
const MAX_LIMIT: u32 = 1000;

/// Filters in one request: each costs the database a search.
const MAX_FILTERS: usize = 20;

/// The filter in a request's query. Parameters that this version does not know are ignored.
pub struct Listing(pub Filter);

impl<S: Sync> FromRequestParts<S> for Listing {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse(query: &str) -> Result<Filter, ApiError> {
    let mut filter = Filter::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "status" => filter.statuses.extend(statuses(&value)?),
            "metadata" => filter.metadata.push(pair(&value)?),
            "limit" => filter.limit = Some(limit(&value)?),
            "next_token" => filter.after = Some(cursor(&value)?),
            _ => {}
        }
    }
    if filter.statuses.len() > MAX_FILTERS || filter.metadata.len() > MAX_FILTERS {
        return Err(ApiError::invalid_request(format!("at most {MAX_FILTERS} filters of a kind are possible")));
    }
    Ok(filter)
}

/// One, or several with commas between them.
fn statuses(text: &str) -> Result<Vec<Status>, ApiError> {
    let one =
        |name: &str| name.parse().map_err(|error: model::UnknownStatus| ApiError::invalid_request(error.to_string()));
    text.split(',').map(one).collect()
}

fn pair(text: &str) -> Result<(String, String), ApiError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ApiError::invalid_request("metadata must be name=value")),
    }
}

fn limit(text: &str) -> Result<u32, ApiError> {
    match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(ApiError::invalid_request(format!("limit must be between 1 and {MAX_LIMIT}"))),
    }
}

fn cursor(text: &str) -> Result<Cursor, ApiError> {
    text.parse().map_err(|error| ApiError::invalid_request(format!("next_token is not valid: {error}")))
}

/// The same for the document.
pub struct ListParams;

impl IntoParams for ListParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, description: &str, value| {
            let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            builder.description(Some(description)).schema(Some(schema(value))).build()
        };
        let status = json!({"type": "string", "enum": Status::ALL.map(Status::as_str)});
        let pair = json!({"type": "string", "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}=[^\\u0000]{0,64}$"});
        vec![
            parameter(
                "status",
                "Only those in one of these states; also with commas in one parameter",
                json!({"type": "array", "items": status, "maxItems": MAX_FILTERS}),
            ),
            parameter(
                "metadata",
                "`name=value`: only those with all of these in their metadata",
                json!({"type": "array", "items": pair, "maxItems": MAX_FILTERS}),
            ),
            parameter(
                "limit",
                "At most so many; if there are more, the header `X-Next-Token` says where they begin",
                json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            ),
            parameter(
                "next_token",
                "The `X-Next-Token` of the part before",
                json!({"type": "string", "pattern": Cursor::PATTERN}),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_from_the_query() {
        let id = model::SandboxId::random();
        let filter = parse(&format!(
            "status=running,paused&status=error&metadata=a%3Db%3Dc&metadata=x%3D&limit=5&next_token=17-{id}&other=1"
        ))
        .unwrap();
        assert_eq!(filter.statuses, [Status::Running, Status::Paused, Status::Error]);
        assert_eq!(filter.metadata, [("a".to_owned(), "b=c".to_owned()), ("x".to_owned(), String::new())]);
        assert_eq!((filter.limit, filter.after.unwrap().to_string()), (Some(5), format!("17-{id}")));
        assert_eq!(parse("").unwrap(), Filter::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many = "status=error&".repeat(MAX_FILTERS + 1);
        for bad in [
            "status=",
            "status=starting",
            "status=running,",
            "metadata=",
            "metadata=a",
            "metadata=%3Dv",
            "metadata=a%3D%00",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=",
            "limit=-1",
            "next_token=",
            "next_token=x",
            &many,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
