//! A sandbox as the store keeps it, in the model's types, and its way out of a row.

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    AutoResume, HostId, Lifetime, Metadata, NetworkPolicy, OnExpiry, OwnerId, SandboxId, Shape, SnapshotId, Status,
    TemplateName,
};
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::{GuestAccess, Hands, KeptToken, SealedSecret, TrafficTokenHash};
use crate::https_ports::HttpsPorts;
use crate::request_host::RequestHost;

/// A sandbox that is about to be made.
#[derive(Debug, Clone)]
pub struct NewSandbox {
    /// Its id.
    pub id: SandboxId,
    /// Who asked for it.
    pub owner: OwnerId,
    /// Where it will run.
    pub host: HostId,
    /// What it is made from.
    pub template: TemplateName,
    /// The snapshot that it goes on from, if any; `template` is then what that one was made from.
    pub snapshot: Option<SnapshotId>,
    /// What it is made of.
    pub shape: Shape,
    /// When it expires.
    pub lifetime: Lifetime,
    /// What expiry does to it.
    pub on_expiry: OnExpiry,
    /// What a call that needs its guest does while it is paused.
    pub auto_resume: AutoResume,
    /// What callers of its ports must show, if anything.
    pub traffic_token: Option<TrafficTokenHash>,
    /// What its owner says of it.
    pub metadata: Metadata,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// The Host that servers in it see, where it is not the one that was called.
    pub request_host: Option<RequestHost>,
    /// The ports whose servers speak TLS.
    pub https_ports: HttpsPorts,
    /// Who may speak with its guest agent directly.
    pub guest_access: GuestAccess,
    /// Environment of every process in it.
    pub env: BTreeMap<String, String>,
    /// When its time is over, used or not.
    pub ends_at: Option<Timestamp>,
}

/// A sandbox as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Who it belongs to.
    pub owner: OwnerId,
    /// Where it runs.
    pub host: HostId,
    /// What it was made from.
    pub template: TemplateName,
    /// The snapshot that it went on from, if any; it may be gone.
    pub snapshot: Option<SnapshotId>,
    /// Its state.
    pub status: Status,
    /// Why it is in that state; empty where there is nothing to say.
    pub status_reason: String,
    /// Whether it is, or was before somebody asked for its start, stopped with a disk from which it can be started.
    pub keeps_disk: bool,
    /// Which change of status this is: what a conditional update names.
    pub generation: i64,
    /// What it is made of.
    pub shape: Shape,
    /// When it expires.
    pub lifetime: Lifetime,
    /// What expiry does to it.
    pub on_expiry: OnExpiry,
    /// What a call that needs its guest does while it is paused.
    pub auto_resume: AutoResume,
    /// What callers of its ports must show, if anything.
    pub traffic_token: Option<TrafficTokenHash>,
    /// What its owner says of it.
    pub metadata: Metadata,
    /// What it may reach.
    pub network: NetworkPolicy<SealedSecret>,
    /// The Host that servers in it see, where it is not the one that was called.
    pub request_host: Option<RequestHost>,
    /// The ports whose servers speak TLS.
    pub https_ports: HttpsPorts,
    /// Who may speak with its guest agent directly.
    pub guest_access: GuestAccess<KeptToken>,
    /// Environment of every process in it.
    pub env: BTreeMap<String, String>,
    /// When its time is over, used or not.
    pub ends_at: Option<Timestamp>,
    /// Its own address; empty while unknown.
    pub guest_ip: String,
    /// How its host reaches it; empty while unknown.
    pub host_ip: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it first ran.
    pub started_at: Option<Timestamp>,
    /// When it was last used.
    pub last_active_at: Option<Timestamp>,
    /// When the record last changed.
    pub last_updated: Timestamp,
    /// Whose work that is which its status says is under way.
    pub hands: Hands,
}

impl Sandbox {
    /// Whether its time is over, as far as its record tells.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        match (self.lifetime, self.last_active_at) {
            // A clock that was set back makes nothing old.
            (Lifetime::Idle(idle), Some(last)) => now >= last && now.duration_since(last).unsigned_abs() >= idle,
            _ => false,
        }
    }
}

/// A stop is a kind of pause there.
fn on_expiry(row: &AnyRow) -> Result<OnExpiry, sqlx::Error> {
    let stops = row.try_get::<i64, _>("stops_on_expiry")? != 0;
    if stops { Ok(OnExpiry::Stop) } else { parse(row, "on_expiry") }
}

impl<'r> FromRow<'r, AnyRow> for Sandbox {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: parse(row, "id")?,
            owner: parse(row, "owner_id")?,
            host: parse(row, "host_id")?,
            template: parse(row, "template")?,
            snapshot: optional(row, "snapshot_id")?,
            status: parse(row, "status")?,
            status_reason: row.try_get("status_reason")?,
            keeps_disk: row.try_get::<i64, _>("keeps_disk")? != 0,
            generation: row.try_get("generation")?,
            shape: shape(row)?,
            lifetime: lifetime(row)?,
            on_expiry: on_expiry(row)?,
            auto_resume: auto_resume(row)?,
            traffic_token: row.try_get::<Option<String>, _>("traffic_token_hash")?.map(TrafficTokenHash::recorded),
            metadata: metadata(row)?,
            network: network(row)?,
            request_host: optional(row, "request_host")?,
            https_ports: parse(row, "https_ports")?,
            guest_access: GuestAccess::recorded(row.try_get("guest_access")?)
                .map_err(|error| undecodable("guest_access", error))?,
            env: env(row)?,
            ends_at: time(row, "ends_at")?,
            guest_ip: row.try_get("guest_ip")?,
            host_ip: row.try_get("host_ip")?,
            created_at: time(row, "created_at")?.unwrap_or_default(),
            started_at: time(row, "started_at")?,
            last_active_at: time(row, "last_active_at")?,
            last_updated: time(row, "last_updated")?.unwrap_or_default(),
            hands: Hands::recorded(row.try_get("worker")?),
        })
    }
}

fn undecodable(column: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}

pub(super) fn parse<T>(row: &AnyRow, column: &str) -> Result<T, sqlx::Error>
where
    T: FromStr,
    T::Err: Into<Box<dyn Error + Send + Sync>>,
{
    row.try_get::<String, _>(column)?.parse().map_err(|error: T::Err| undecodable(column, error))
}

/// What may be absent.
pub(super) fn optional<T>(row: &AnyRow, column: &str) -> Result<Option<T>, sqlx::Error>
where
    T: FromStr,
    T::Err: Into<Box<dyn Error + Send + Sync>>,
{
    let text = row.try_get::<Option<String>, _>(column)?;
    text.map(|text| text.parse().map_err(|error: T::Err| undecodable(column, error))).transpose()
}

pub(super) fn shape(row: &AnyRow) -> Result<Shape, sqlx::Error> {
    fn quantity<T: TryFrom<i64, Error = model::InvalidShape>>(row: &AnyRow, column: &str) -> Result<T, sqlx::Error> {
        row.try_get::<i64, _>(column)?.try_into().map_err(|error| undecodable(column, error))
    }
    Ok(Shape { vcpus: quantity(row, "vcpus")?, memory: quantity(row, "memory_mb")?, disk: quantity(row, "disk_mb")? })
}

fn lifetime(row: &AnyRow) -> Result<Lifetime, sqlx::Error> {
    match row.try_get::<String, _>("lifetime")?.as_str() {
        "never" => Ok(Lifetime::Never),
        "idle" => {
            let seconds = row.try_get::<i64, _>("timeout_sec")?;
            let seconds = u64::try_from(seconds).map_err(|error| undecodable("timeout_sec", error))?;
            Ok(Lifetime::Idle(Duration::from_secs(seconds)))
        }
        other => Err(undecodable("lifetime", format!("{other:?} is no lifetime of this version"))),
    }
}

fn auto_resume(row: &AnyRow) -> Result<AutoResume, sqlx::Error> {
    Ok(if row.try_get::<i64, _>("auto_resume")? == 0 { AutoResume::Off } else { AutoResume::On })
}

fn metadata(row: &AnyRow) -> Result<Metadata, sqlx::Error> {
    let text: String = row.try_get("metadata")?;
    serde_json::from_str(&text).map(Metadata::recorded).map_err(|error| undecodable("metadata", error))
}

fn env(row: &AnyRow) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let text: String = row.try_get("env")?;
    serde_json::from_str(&text).map_err(|error| undecodable("env", error))
}

fn network(row: &AnyRow) -> Result<NetworkPolicy<SealedSecret>, sqlx::Error> {
    let text: String = row.try_get("network")?;
    serde_json::from_str(&text).map_err(|error| undecodable("network", error))
}

pub(super) fn time(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    let milliseconds = row.try_get::<Option<i64>, _>(column)?;
    milliseconds.map(Timestamp::from_millisecond).transpose().map_err(|error| undecodable(column, error))
}
