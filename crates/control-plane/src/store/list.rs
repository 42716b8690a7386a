//! Lists of an owner's sandboxes: filtered, and in pages.

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use jiff::Timestamp;
use model::{OwnerId, SandboxId, Status, TemplateName};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::QueryAs;
use sqlx::{Any, AssertSqlSafe, FromRow};

use super::{Sandbox, Store, StoreError, failed};

/// Which sandboxes are wanted. The default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states; in any, where there is none.
    pub statuses: Vec<Status>,
    /// With all of these names and values in their metadata.
    pub metadata: Vec<(String, String)>,
    /// At most so many.
    pub limit: Option<u32>,
    /// Those that come after it.
    pub after: Option<Cursor>,
    /// The oldest first, instead of the newest.
    pub oldest_first: bool,
    /// Made then or later.
    pub since: Option<Timestamp>,
    /// Made from this template.
    pub template: Option<TemplateName>,
    /// Only those whose guest agent their owner may speak with, as far as they are there.
    pub only_open: bool,
}

/// A part of a list, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next part begins, if there is one.
    pub next: Option<Cursor>,
}

/// A place in a list. It stays the same place when sandboxes come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    created_at: i64,
    id: SandboxId,
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not from an earlier page")]
pub struct InvalidCursor;

impl Cursor {
    /// What every cursor looks like, as a regular expression.
    pub const PATTERN: &str = "^[0-9]{1,15}-sb[a-z0-9]{20}$";

    fn at(sandbox: &Sandbox) -> Self {
        Self { created_at: sandbox.created_at.as_millisecond(), id: sandbox.id.clone() }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_at, self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (time, id) = text.split_once('-').ok_or(InvalidCursor)?;
        let is_time = (1..=15).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
        match (is_time, time.parse(), id.parse()) {
            (true, Ok(created_at), Ok(id)) => Ok(Self { created_at, id }),
            _ => Err(InvalidCursor),
        }
    }
}

impl Store {
    /// How many sandboxes of an owner a list would have without pages.
    pub async fn count(&self, owner: &OwnerId, filter: &Filter) -> Result<u64, StoreError> {
        let filter = Filter { limit: None, after: None, ..filter.clone() };
        let text = format!("select cast(count(*) as bigint) from ({}) as wanted", text(&filter));
        let counted: (i64,) =
            query(text, owner, &filter).fetch_one(&self.pool).await.map_err(failed("count the owner's sandboxes"))?;
        Ok(u64::try_from(counted.0).unwrap_or_default())
    }

    /// An owner's sandboxes, the newest first.
    pub async fn list(&self, owner: &OwnerId, filter: &Filter) -> Result<Page, StoreError> {
        let listed = query(text(filter), owner, filter).fetch_all(&self.pool).await;
        let mut sandboxes: Vec<Sandbox> = listed.map_err(failed("list sandboxes"))?;
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let has_more = sandboxes.len() > limit;
        sandboxes.truncate(limit);
        let next = sandboxes.last().filter(|_| has_more).map(Cursor::at);
        Ok(Page { sandboxes, next })
    }
}

/// A query whose text is that of [`text`], or has it in the middle, with its parameters.
fn query<'q, T>(text: String, owner: &'q OwnerId, filter: &'q Filter) -> QueryAs<'q, Any, T, AnyArguments>
where
    T: for<'r> FromRow<'r, AnyRow>,
{
    // Only placeholders are put into the text, never a value.
    let mut query = sqlx::query_as(AssertSqlSafe(text)).bind(owner.as_str());
    for status in &filter.statuses {
        query = query.bind(status.as_str());
    }
    for (name, value) in &filter.metadata {
        query = query.bind(name).bind(value);
    }
    if let Some(since) = filter.since {
        query = query.bind(since.as_millisecond());
    }
    if let Some(template) = &filter.template {
        query = query.bind(template.as_str());
    }
    if let Some(after) = &filter.after {
        query = query.bind(after.created_at).bind(after.created_at).bind(after.id.as_str());
    }
    if let Some(limit) = filter.limit {
        query = query.bind(i64::from(limit) + 1);
    }
    query
}

/// The query's text. Its parameters follow in the order in which they stand here.
fn text(filter: &Filter) -> String {
    let mut used = 1;
    let mut parameter = || {
        used += 1;
        format!("${used}")
    };
    let mut text = "select * from sandboxes where owner_id = $1".to_owned();
    if !filter.statuses.is_empty() {
        let statuses: Vec<_> = filter.statuses.iter().map(|_| parameter()).collect();
        let _ = write!(text, " and status in ({})", statuses.join(", "));
    }
    for _ in &filter.metadata {
        let (name, value) = (parameter(), parameter());
        let _ = write!(
            text,
            " and exists (select 1 from sandbox_metadata where sandbox_id = sandboxes.id and name = {name} \
             and value = {value})"
        );
    }
    if filter.since.is_some() {
        let _ = write!(text, " and created_at >= {}", parameter());
    }
    if filter.template.is_some() {
        let _ = write!(text, " and template = {}", parameter());
    }
    if filter.only_open {
        text.push_str(" and guest_access is not null and (status <> 'stopped' or keeps_disk = 1)");
    }
    let (beyond, next, order) = if filter.oldest_first { (">", "<", "asc, id desc") } else { ("<", ">", "desc, id") };
    if filter.after.is_some() {
        let (time, same, id) = (parameter(), parameter(), parameter());
        let _ = write!(text, " and (created_at {beyond} {time} or (created_at = {same} and id {next} {id}))");
    }
    let _ = write!(text, " order by created_at {order}");
    if filter.limit.is_some() {
        let _ = write!(text, " limit {}", parameter());
    }
    text
}

#[cfg(test)]
mod tests {
    use model::OnExpiry;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Action, EventKind};
    use crate::store::{Change, NewSandbox};

    testing::on_every_engine!(
        filters_by_status_and_metadata_go_together,
        pages_have_everything_once_whatever_comes_and_goes,
        metadata_goes_with_its_sandbox,
    );

    async fn insert(store: &Store, owner: &str, metadata: &[(&str, &str)]) -> Sandbox {
        let pairs = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let new = NewSandbox {
            on_expiry: OnExpiry::Pause,
            metadata: pairs.collect::<std::collections::BTreeMap<_, _>>().try_into().unwrap(),
            ..testing::sandbox(owner)
        };
        let sandbox = store.insert(&new).await.unwrap();
        assert_eq!((&sandbox.metadata, sandbox.on_expiry), (&new.metadata, new.on_expiry));
        sandbox
    }

    async fn ids(store: &Store, filter: &Filter) -> Vec<SandboxId> {
        let page = store.list(&"alice".parse().unwrap(), filter).await.unwrap();
        page.sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
    }

    async fn filters_by_status_and_metadata_go_together(database: Database) {
        let store = database.open().await;
        let one = insert(&store, "alice", &[("app", "web"), ("stage", "prod")]).await;
        let two = insert(&store, "alice", &[("app", "web")]).await;
        insert(&store, "bob", &[("app", "web")]).await;
        store.update(&two, Change::running()).await.unwrap().unwrap();
        let metadata = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let web = Filter { metadata: metadata(&[("app", "web")]), ..Filter::default() };
        assert_eq!(ids(&store, &web).await.len(), 2);
        let both = Filter { metadata: metadata(&[("app", "web"), ("stage", "prod")]), ..Filter::default() };
        assert_eq!(ids(&store, &both).await, [one.id]);
        let running = Filter { statuses: vec![Status::Running, Status::Paused], ..web.clone() };
        assert_eq!(ids(&store, &running).await, [two.id]);
        let counted = async |filter: &Filter| store.count(&"alice".parse().unwrap(), filter).await.unwrap();
        assert_eq!((counted(&web).await, counted(&Filter { limit: Some(1), ..both.clone() }).await), (2, 1));
        let quoted = Filter { metadata: metadata(&[("app", "' or 1=1 --")]), ..Filter::default() };
        assert_eq!(ids(&store, &quoted).await, []);
        let none = Filter { statuses: vec![Status::Error], ..web };
        assert_eq!(ids(&store, &none).await, []);
    }

    async fn pages_have_everything_once_whatever_comes_and_goes(database: Database) {
        let store = database.open().await;
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(insert(&store, "alice", &[]).await.id);
        }
        let whole = ids(&store, &Filter::default()).await;
        let mut seen = Vec::new();
        let mut filter = Filter { limit: Some(3), ..Filter::default() };
        loop {
            let page = store.list(&"alice".parse().unwrap(), &filter).await.unwrap();
            assert!(page.sandboxes.len() <= 3);
            seen.extend(page.sandboxes.into_iter().map(|sandbox| sandbox.id));
            let Some(next) = page.next else { break };
            assert_eq!(next.to_string().parse(), Ok(next.clone()));
            // What is newer than the first page changes nothing in the next ones.
            insert(&store, "alice", &[]).await;
            filter.after = Some(next);
        }
        seen.retain(|id| whole.contains(id));
        assert_eq!(seen, whole);
        let exact = Filter { limit: Some(9), ..Filter::default() };
        assert_eq!(store.list(&"alice".parse().unwrap(), &exact).await.unwrap().next, None);
    }

    async fn metadata_goes_with_its_sandbox(database: Database) {
        let store = database.open().await;
        let sandbox = insert(&store, "alice", &[("app", "web")]).await;
        assert!(store.forget(&sandbox, Action::failed(EventKind::Create, "no room".to_owned())).await.unwrap());
        let left: i64 = sqlx::query_scalar("select cast(count(*) as bigint) from sandbox_metadata")
            .fetch_one(&store.pool)
            .await
            .unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn only_cursors_are_cursors() {
        for bad in ["", "-", "1", "1-", "-sb1", "x-sb1", "1-SB", "1-../x", "1234567890123456-sb1", "+1-sb1"] {
            assert_eq!(bad.parse::<Cursor>(), Err(InvalidCursor), "{bad:?}");
        }
    }
}
