//! Pages of lists that are short enough to be read as a whole. A page goes on after a place, not after a thing, so that
//! what has been deleted meanwhile is missed by nobody.

use std::fmt::Display;
use std::str::FromStr;

use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use serde::Serialize;

use super::super::error::ApiError;
use super::super::request::json;
use super::super::stats::in_query;

/// Where a list goes on.
pub const NEXT_TOKEN: &str = "x-next-token";

/// The largest page, and what is one where none is asked for.
pub const MOST: u32 = 100;

/// How much of a list is wanted in one page.
pub fn limit(text: Option<&str>, default: u32) -> Result<u32, ApiError> {
    match text.map(str::parse) {
        None => Ok(default),
        Some(Ok(limit @ 1..=MOST)) => Ok(limit),
        Some(_) => Err(ApiError::invalid_request(format!("Invalid limit {:?}", shortened(text.unwrap_or_default())))),
    }
}

/// What was asked for, for a message.
pub fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A place that no earlier page has named.
pub fn invalid_token() -> ApiError {
    ApiError::invalid_request("Invalid next token")
}

/// A part of a list whose items are in the order of their places, and the place of its last one, if there are more.
pub fn cut<T, P: Ord>(
    mut items: Vec<T>,
    place: impl Fn(&T) -> P,
    after: Option<&P>,
    limit: u32,
) -> (Vec<T>, Option<P>) {
    if let Some(after) = after {
        items.retain(|item| place(item) > *after);
    }
    let limit = limit as usize;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| has_more).map(place);
    (items, next)
}

/// Answers with the page of a list that a query asks for, each item in the form that is told.
pub fn answer<T, P, V>(
    uri: &Uri,
    items: Vec<T>,
    place: impl Fn(&T) -> P,
    view: impl Fn(T) -> V,
) -> Result<Response, ApiError>
where
    P: Ord + Display + FromStr,
    V: Serialize,
{
    let (page, next) = part(uri, items, place)?;
    let page: Vec<_> = page.into_iter().map(view).collect();
    Ok(going_on(json(StatusCode::OK, &page), next))
}

/// The page of a list that a query asks for, and where it goes on.
pub fn part<T, P: Ord + FromStr>(
    uri: &Uri,
    items: Vec<T>,
    place: impl Fn(&T) -> P,
) -> Result<(Vec<T>, Option<P>), ApiError> {
    let token = in_query(uri, "nextToken").filter(|token| !token.is_empty());
    let after: Option<P> = token.map(|token| token.parse().map_err(|_| invalid_token())).transpose()?;
    let limit = limit(in_query(uri, "limit").as_deref(), MOST)?;
    Ok(cut(items, place, after.as_ref(), limit))
}

/// An answer that says where its list goes on, if it does.
pub fn going_on(mut response: Response, next: Option<impl Display>) -> Response {
    if let Some(next) = next {
        let next = HeaderValue::try_from(next.to_string()).expect("a place is written in ASCII");
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_after_a_place_whether_or_not_it_is_still_there() {
        let cut = |after: Option<u32>| cut(vec![1, 3, 5, 7], |item: &u32| *item, after.as_ref(), 2);
        assert_eq!(cut(None), (vec![1, 3], Some(3)));
        assert_eq!(cut(Some(3)), (vec![5, 7], None));
        assert_eq!(cut(Some(4)), (vec![5, 7], None));
        assert_eq!(cut(Some(7)), (vec![], None));
        assert_eq!((limit(None, 7).unwrap(), limit(Some("100"), 7).unwrap()), (7, 100));
        assert!(["0", "101", "-1", "x", ""].iter().all(|text| limit(Some(text), 7).is_err()));
    }
}
