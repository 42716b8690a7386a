//! Tags with what they were assigned to, in pages. Each was assigned once as far as is known: of what a tag stood for
//! before nothing is kept.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde_json::{Value, json as value};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::builds::{Tagged, Template};
use super::names::{Label, new_tag, no_template, uuid};
use super::pages::{cut, invalid_token, limit, shortened};

const GROUPS: u32 = 25;
const ASSIGNMENTS_OF_A_GROUP: u32 = 6;
const ASSIGNMENTS: u32 = 50;

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    NameAsc,
    NameDesc,
    LatestAsc,
    LatestDesc,
}

const SORTS: [(&str, Sort); 4] = [
    ("name_asc", Sort::NameAsc),
    ("name_desc", Sort::NameDesc),
    ("latest_asc", Sort::LatestAsc),
    ("latest_desc", Sort::LatestDesc),
];

impl FromStr for Sort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        SORTS.iter().find(|(name, _)| *name == text).map(|(_, sort)| *sort).ok_or(())
    }
}

/// Where a tag stands in such a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    sort: Sort,
    at: i64,
    tag: String,
}

impl Place {
    fn of(tagged: &Tagged, sort: Sort) -> Self {
        Self { sort, at: tagged.assigned_at.as_millisecond(), tag: tagged.tag.to_string() }
    }
}

impl Ord for Place {
    /// Both are of one list.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_name = self.tag.cmp(&other.tag);
        match self.sort {
            Sort::NameAsc => by_name,
            Sort::NameDesc => by_name.reverse(),
            Sort::LatestAsc => self.at.cmp(&other.at).then(by_name),
            Sort::LatestDesc => self.at.cmp(&other.at).reverse().then(by_name),
        }
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = SORTS.iter().find(|(_, sort)| *sort == self.sort).map_or("", |(name, _)| *name);
        write!(f, "{sort}.{}.{}", self.at, self.tag)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(());
        Ok(Self { sort: part()?.parse()?, at: part()?.parse().map_err(|_| ())?, tag: part()?.to_owned() })
    }
}

fn assignment(template: &Template, tagged: &Tagged) -> Value {
    let label = Label { name: template.name.clone(), tag: tagged.tag.clone() };
    let (build, made_at) = (tagged.build.id(), tagged.build.made_at().to_string());
    value!({
        "assignmentId": uuid(&format!("{label} {build} {}", tagged.assigned_at)),
        "buildId": build,
        "assignedAt": tagged.assigned_at.to_string(),
        "buildCreatedAt": made_at,
        "buildFinishedAt": made_at,
    })
}

pub async fn groups(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let asked = |name: &str| in_query(&uri, name).filter(|text| !text.is_empty());
    let sort = asked("sort").unwrap_or_else(|| "name_asc".to_owned());
    let invalid_sort = |()| ApiError::invalid_request(format!("Invalid sort {:?}", shortened(&sort)));
    let sort: Sort = sort.parse().map_err(invalid_sort)?;
    limit(asked("assignmentLimit").as_deref(), ASSIGNMENTS_OF_A_GROUP)?;
    let limit = limit(asked("tagsLimit").as_deref(), GROUPS)?;
    let after: Option<Place> =
        asked("tagsCursor").map(|text| text.parse().map_err(|()| invalid_token())).transpose()?;
    if after.as_ref().is_some_and(|after| after.sort != sort) {
        return Err(invalid_token());
    }
    let search = asked("search").unwrap_or_default().to_lowercase();
    let template = api.template(&owner, &id).await?;
    let place = |tagged: &&Tagged| Place::of(tagged, sort);
    let mut tags: Vec<_> = template.tagged().filter(|tagged| tagged.tag.as_str().contains(&search)).collect();
    tags.sort_by_key(place);
    let (tags, next) = cut(tags, place, after.as_ref(), limit);
    let group = |tagged: &Tagged| value!({"tag": tagged.tag.as_str(), "assignments": [assignment(&template, tagged)], "hasMore": false});
    let tags: Vec<_> = tags.into_iter().map(group).collect();
    let next = next.map(|place| place.to_string());
    Ok(json(StatusCode::OK, &value!({"tags": tags, "nextCursor": next})))
}

pub async fn assignments(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path((id, tag)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, ApiError> {
    limit(in_query(&uri, "limit").as_deref(), ASSIGNMENTS)?;
    if in_query(&uri, "cursor").is_some_and(|cursor| !cursor.is_empty()) {
        // There is no second page.
        return Err(invalid_token());
    }
    let wanted = new_tag(&tag)?;
    let template = api.template(&owner, &id).await?;
    let tagged = template.under(&wanted).ok_or_else(|| no_template(&format!("{id}:{wanted}")))?;
    Ok(json(StatusCode::OK, &value!({"data": [assignment(&template, tagged)], "nextCursor": null})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_and_has_its_order() {
        let place = |sort: Sort, at, tag: &str| Place { sort, at, tag: tag.to_owned() };
        for (_, sort) in SORTS {
            let one = place(sort, 5, "v1.0-rc_2");
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        for bad in ["", "name_asc", "name_asc.5", "up.5.a", "name_asc.x.a"] {
            assert_eq!(bad.parse::<Place>(), Err(()), "{bad}");
        }
        assert!(place(Sort::NameAsc, 2, "a") < place(Sort::NameAsc, 1, "b"));
        assert!(place(Sort::NameDesc, 2, "b") < place(Sort::NameDesc, 1, "a"));
        assert!(place(Sort::LatestAsc, 1, "b") < place(Sort::LatestAsc, 2, "a"));
        assert!(place(Sort::LatestDesc, 2, "b") < place(Sort::LatestDesc, 1, "a"));
    }
}
