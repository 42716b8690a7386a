//! Lists of sandboxes: by state, metadata, template and time, in pages.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use jiff::Timestamp;
use model::{OwnerId, Status};
use url::form_urlencoded;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::names::Reference;
use super::pages::{MOST, NEXT_TOKEN, invalid_token, limit, shortened};
use super::view::{Listed, RUNNING, statuses};
use crate::store::{Cursor, Filter};

/// How many run of what is asked for, in all pages.
const TOTAL_RUNNING: &str = "x-total-running";

/// What a query asks for; none where nothing can match.
fn filter(uri: &Uri) -> Result<Option<Filter>, ApiError> {
    let mut filter = Filter { only_open: true, limit: Some(MOST), ..Filter::default() };
    let mut states: Vec<Status> = Vec::new();
    let mut token = None;
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "state" => {
                for state in value.split(',').filter(|state| !state.is_empty()) {
                    let known = statuses(state).ok_or_else(|| invalid("state", state))?;
                    states.extend(known);
                }
            }
            "metadata" => filter.metadata.extend(pairs(&value)),
            "order" => filter.oldest_first = oldest_first(&value)?,
            "limit" => filter.limit = Some(limit(Some(&value), MOST)?),
            "startedAfter" => {
                let after = value.parse().map_err(|_| invalid("startedAfter", &value))?;
                filter.since = Some(since(after));
            }
            "template" if value.contains(':') => return Err(invalid("template", &value)),
            "template" => match Reference::read(&value).and_then(|template| template.name.to_string().parse().ok()) {
                Some(template) => filter.template = Some(template),
                None => return Ok(None),
            },
            "nextToken" if !value.is_empty() => token = Some(value.into_owned()),
            _ => {}
        }
    }
    filter.after = token.map(|token| cursor(&token, filter.oldest_first)).transpose()?;
    filter.statuses = if states.is_empty() { all() } else { states };
    Ok(Some(filter))
}

/// The earliest time that is not before this one. Times are recorded to the millisecond and compared to the microsecond.
fn since(after: Timestamp) -> Timestamp {
    let up = Timestamp::from_microsecond(after.as_microsecond().saturating_add(999));
    up.ok().and_then(|up| Timestamp::from_millisecond(up.as_millisecond()).ok()).unwrap_or(after)
}

fn all() -> Vec<Status> {
    ["running", "paused"].into_iter().filter_map(statuses).flatten().copied().collect()
}

fn invalid(what: &str, value: &str) -> ApiError {
    ApiError::invalid_request(format!("Invalid {what} {:?}", shortened(value)))
}

fn oldest_first(text: &str) -> Result<bool, ApiError> {
    match text {
        "asc" => Ok(true),
        "desc" => Ok(false),
        other => Err(invalid("order", other)),
    }
}

/// A page goes on only in the order in which it began, so a token says which that was.
fn cursor(token: &str, oldest_first: bool) -> Result<Cursor, ApiError> {
    let rest = token.strip_prefix(prefix(oldest_first)).and_then(|rest| rest.parse().ok());
    rest.ok_or_else(invalid_token)
}

fn prefix(oldest_first: bool) -> &'static str {
    if oldest_first { "asc." } else { "desc." }
}

/// Names and values that clients encode once more than the query does, and once more again.
fn pairs(value: &str) -> Vec<(String, String)> {
    let decode = |text: &str| -> String {
        form_urlencoded::parse(format!("x={}", text.replace('&', "%26").replace('=', "%3D")).as_bytes())
            .map(|(_, value)| value.into_owned())
            .collect()
    };
    let whole = decode(value);
    let pairs = whole.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
}

pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: Uri) -> Result<Response, ApiError> {
    match filter(&uri)? {
        Some(filter) => page(&api, &owner, &filter).await,
        None => Ok(json(StatusCode::OK, &[(); 0])),
    }
}

/// What older clients ask for: everything that runs.
pub async fn running(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: Uri) -> Result<Response, ApiError> {
    let Some(filter) = filter(&uri)? else { return Ok(json(StatusCode::OK, &[(); 0])) };
    let statuses = statuses(RUNNING).unwrap_or_default().to_vec();
    page(&api, &owner, &Filter { statuses, limit: None, after: None, ..filter }).await
}

async fn page(api: &Api, owner: &OwnerId, filter: &Filter) -> Result<Response, ApiError> {
    let page = api.store.list(owner, filter).await?;
    let sandboxes: Vec<_> = page.sandboxes.iter().map(Listed::from).collect();
    let mut response = json(StatusCode::OK, &sandboxes);
    if filter.statuses.contains(&Status::Running) {
        let running = Filter { statuses: statuses(RUNNING).unwrap_or_default().to_vec(), ..filter.clone() };
        let total = api.store.count(owner, &running).await?;
        response.headers_mut().insert(TOTAL_RUNNING, total.into());
    }
    if let Some(next) = page.next {
        let token = format!("{}{next}", prefix(filter.oldest_first));
        response.headers_mut().insert(NEXT_TOKEN, HeaderValue::try_from(token).expect("it is digits and letters"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Option<Filter>, ApiError> {
        filter(&format!("/v2/sandboxes?{query}").parse().unwrap())
    }

    #[test]
    fn metadata_is_read_as_either_client_encodes_it() {
        let expect = [("a b".to_owned(), "c/d".to_owned())];
        for query in ["metadata=a%252520b%3Dc%252Fd", "metadata=a%252520b%3Dc%25252Fd"] {
            assert_eq!(of(query).unwrap().unwrap().metadata, expect, "{query}");
        }
        let two = of("metadata=a%3D1%26b%3D2").unwrap().unwrap().metadata;
        assert_eq!(two, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn states_are_asked_for_together_or_not_at_all() {
        for query in ["state=running%2Cpaused", "state=running,paused", "state=paused&state=running", ""] {
            let mut asked = of(query).unwrap().unwrap().statuses;
            asked.sort_by_key(|status| status.as_str());
            let mut expect = all();
            expect.sort_by_key(|status| status.as_str());
            assert_eq!(asked, expect, "{query}");
        }
        assert_eq!(of("state=running").unwrap().unwrap().statuses, statuses("running").unwrap());
    }

    #[test]
    fn a_time_is_inclusive_to_the_microsecond() {
        let since = |time: &str| of(&format!("startedAfter={time}")).unwrap().unwrap().since.unwrap().to_string();
        assert_eq!(since("2026-01-01T00:00:00.123Z"), "2026-01-01T00:00:00.123Z");
        assert_eq!(since("2026-01-01T00:00:00.1230009Z"), "2026-01-01T00:00:00.123Z");
        assert_eq!(since("2026-01-01T00:00:00.123001Z"), "2026-01-01T00:00:00.124Z");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_what_nobody_has_is_not_found() {
        let bad = ["state=x", "order=up", "limit=0", "limit=101", "limit=x", "startedAfter=x", "template=base:v1"];
        for query in bad {
            assert!(of(query).is_err(), "{query}");
        }
        assert_eq!(of("template=other/x").unwrap(), None);
    }

    #[test]
    fn a_token_is_good_for_its_own_order_only() {
        let at = "17-sb01234567890123456789";
        assert!(of(&format!("nextToken=desc.{at}")).unwrap().unwrap().after.is_some());
        let wrong = of(&format!("order=asc&nextToken=desc.{at}")).unwrap_err().into_message();
        assert_eq!(wrong, "Invalid next token");
        assert!(of("nextToken=x").is_err() && of("nextToken=").unwrap().unwrap().after.is_none());
    }
}
