//! What a sandbox is made from: a template in a shape, or a snapshot, which has both.

use model::{
    InvalidShape, InvalidSnapshotName, InvalidTemplateName, OwnerId, Shape, ShapeRequest, SnapshotId, SnapshotName,
    SnapshotRef, TemplateName,
};

use super::Api;
use super::error::ApiError;
use super::surface::Surface;
use crate::lifecycle::{LifecycleError, SnapshotError};
use crate::store::Snapshot;

/// What a request says of it.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// A template or, for capsules, a snapshot; empty and absent mean the default.
    pub template: Option<String>,
    /// A snapshot's name or id.
    pub snapshot: Option<String>,
    /// What it shall be made of.
    pub shape: ShapeRequest,
}

/// What it comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The template, also behind a snapshot.
    pub template: TemplateName,
    /// The snapshot, if it is one.
    pub snapshot: Option<SnapshotId>,
    /// What the sandbox will be made of.
    pub shape: Shape,
}

impl Api {
    /// Finds what a sandbox of `owner` is to be made from.
    pub(super) async fn origin(&self, surface: Surface, owner: &OwnerId, wish: Wish) -> Result<Origin, ApiError> {
        let template = wish.template.as_deref().filter(|name| !name.is_empty());
        if let Some(name) = wish.snapshot.as_deref().filter(|name| !name.is_empty()) {
            let wanted: SnapshotRef = name.parse().map_err(|error: InvalidSnapshotName| invalid(&error))?;
            let snapshot = self.lifecycle.ready_snapshot(owner, &wanted).await?;
            if let Some(other) = template.filter(|name| *name != snapshot.template.as_str()) {
                return Err(conflict("template", &snapshot, snapshot.template.as_str(), other));
            }
            return of_snapshot(snapshot, wish.shape);
        }
        if let (Surface::Capsules, Some(name)) = (surface, template)
            && let Some(snapshot) = self.snapshot_named(owner, name).await?
        {
            return of_snapshot(snapshot, wish.shape);
        }
        let template = template.unwrap_or(surface.template()).parse();
        let shape = wish.shape.try_into().map_err(|error: InvalidShape| invalid(&error))?;
        Ok(Origin { template: template.map_err(|error: InvalidTemplateName| invalid(&error))?, snapshot: None, shape })
    }

    /// A snapshot that a caller calls a template, as clients of capsules do.
    async fn snapshot_named(&self, owner: &OwnerId, name: &str) -> Result<Option<Snapshot>, ApiError> {
        let Ok(wanted) = name.parse::<SnapshotRef>() else { return Ok(None) };
        match self.lifecycle.ready_snapshot(owner, &wanted).await {
            Ok(snapshot) => Ok(Some(snapshot)),
            // No template has such a name either.
            Err(LifecycleError::Snapshot(SnapshotError::NotFound)) if name.parse::<TemplateName>().is_err() => {
                Err(ApiError::not_found(format!("template {name} not found")))
            }
            Err(LifecycleError::Snapshot(SnapshotError::NotFound)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A snapshot's shape is what it is; who asks for another one is mistaken.
fn of_snapshot(snapshot: Snapshot, wish: ShapeRequest) -> Result<Origin, ApiError> {
    let shape = snapshot.shape;
    for (member, has, wanted) in [
        ("vcpus", shape.vcpus.get(), wish.vcpus),
        ("memory_mb", shape.memory.get(), wish.memory_mb),
        ("disk_mb", shape.disk.get(), wish.disk_mb),
    ] {
        if wanted != 0 && wanted != i64::from(has) {
            return Err(conflict(member, &snapshot, &has.to_string(), &wanted.to_string()));
        }
    }
    Ok(Origin { template: snapshot.template, snapshot: Some(snapshot.id), shape })
}

fn conflict(member: &str, snapshot: &Snapshot, has: &str, wanted: &str) -> ApiError {
    let wanted: String = wanted.chars().take(80).collect();
    ApiError::invalid_request(format!("{member} of snapshot {} is {has}; got {wanted}", snapshot.label()))
}

fn invalid(error: &dyn std::error::Error) -> ApiError {
    ApiError::invalid_request(error.to_string())
}

/// The pattern of what names a snapshot, or nothing at all.
pub const SNAPSHOT_PATTERN: &str = "^([a-zA-Z0-9][a-zA-Z0-9._-]{0,63})?$";

/// The pattern of what may become the name of a snapshot: nothing that has the form of an id.
pub const NAME_PATTERN: &str = "^(?!sn[a-z0-9]{20}$)([a-zA-Z0-9][a-zA-Z0-9._-]{0,63})?$";

/// A name that a new snapshot shall have; empty and absent mean none.
pub fn name_of(asked: Option<String>) -> Result<Option<SnapshotName>, ApiError> {
    let asked = asked.filter(|name| !name.is_empty());
    asked.map(|name| name.parse().map_err(|error: InvalidSnapshotName| invalid(&error))).transpose()
}
