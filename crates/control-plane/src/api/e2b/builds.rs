//! What a name stands for: a template of the server or snapshots of the caller's, each under a tag.
//!
//! A template of the server has one build at a time, which all its tags stand for. A snapshot's name has a build for each
//! snapshot.

use jiff::Timestamp;
use model::{OwnerId, Shape, SnapshotId, SnapshotRef, SnapshotStatus, Tag};

use super::super::Api;
use super::super::error::ApiError;
use super::names::{Reference, no_template, uuid};
use crate::store::{Meant, Snapshot, Tagging, TemplateBuild};

/// What sandboxes can be made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Build {
    /// What a template of the server is at this time.
    OfServer(TemplateBuild),
    /// A snapshot.
    Captured(Box<Snapshot>),
}

/// A build under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// The tag.
    pub tag: Tag,
    /// What it stands for.
    pub build: Build,
    /// Since when.
    pub assigned_at: Timestamp,
}

/// All that has one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The name or id.
    pub name: SnapshotRef,
    /// What it stands for by itself, or else what was tagged last.
    first: Tagged,
    /// The others, what was tagged last first.
    others: Vec<Tagged>,
}

impl Build {
    /// Its id, which no other build has.
    pub fn id(&self) -> String {
        match self {
            Self::OfServer(build) => uuid(&format!("{} {}", build.template, build.id)),
            Self::Captured(snapshot) => uuid(snapshot.id.as_str()),
        }
    }

    /// What sandboxes made from it are made of, unless they are asked for in another shape.
    pub fn shape(&self) -> Shape {
        match self {
            Self::OfServer(_) => Shape::default(),
            Self::Captured(snapshot) => snapshot.shape,
        }
    }

    /// When it was made.
    pub fn made_at(&self) -> Timestamp {
        match self {
            Self::OfServer(build) => build.made_at,
            Self::Captured(snapshot) => snapshot.created_at,
        }
    }

    /// What a tag is given for it.
    pub fn meant(self) -> Meant {
        match self {
            Self::OfServer(_) => Meant::Template,
            Self::Captured(snapshot) => Meant::Snapshot(snapshot),
        }
    }

    fn under(self, tag: Tag) -> Tagged {
        Tagged { tag, assigned_at: self.made_at(), build: self }
    }
}

impl Template {
    /// One of the server's, under the tag that it has by itself. None where nothing can be called so.
    pub fn of_server(build: TemplateBuild) -> Option<Self> {
        let name = build.template.parse().ok()?;
        Some(Self { name, first: Build::OfServer(build).under(Tag::Default), others: Vec::new() })
    }

    /// Everything under its tags.
    pub fn tagged(&self) -> impl Iterator<Item = &Tagged> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// What has this tag.
    pub fn under(&self, tag: &Tag) -> Option<&Tagged> {
        self.tagged().find(|tagged| tagged.tag == *tag)
    }

    /// The build that speaks for it.
    pub fn build(&self) -> &Build {
        &self.first.build
    }

    /// Its builds, each once, by their ids.
    pub fn builds(&self) -> Vec<&Build> {
        let mut builds: Vec<&Build> = Vec::new();
        for Tagged { build, .. } in self.tagged() {
            if !builds.contains(&build) {
                builds.push(build);
            }
        }
        builds.sort_by_key(|build| build.id());
        builds
    }
}

impl Api {
    /// The host's templates as they are at this time, by name.
    pub(super) async fn template_builds(&self) -> Result<Vec<TemplateBuild>, ApiError> {
        let mut builds = self.host.describe().await?.template_builds;
        builds.sort_by(|one, other| one.template.cmp(&other.template));
        Ok(builds)
    }

    /// What is called so, where anything is; with a tag, where something has it.
    pub(super) async fn template(&self, owner: &OwnerId, text: &str) -> Result<Template, ApiError> {
        let Reference { name, tag } = Reference::read(text).ok_or_else(|| no_template(text))?;
        let template = self.template_called(owner, name).await?;
        let template = template.filter(|template| tag.is_none_or(|tag| template.under(&tag).is_some()));
        template.ok_or_else(|| no_template(text))
    }

    async fn template_called(&self, owner: &OwnerId, name: SnapshotRef) -> Result<Option<Template>, ApiError> {
        let own = self.store.get_snapshot(owner, &name).await?;
        let own = own.filter(|snapshot| snapshot.status == SnapshotStatus::Ready).map(Box::new).map(Build::Captured);
        let of_server = self.template_builds().await?.into_iter().find(|build| build.template == name.to_string());
        let of_server = of_server.map(Build::OfServer);
        let given = self.store.taggings(owner, Some(&name)).await?.into_iter().rev();
        let given = given.filter_map(|tagging: Tagging| {
            let build = match &tagging.meant {
                Meant::Template => of_server.clone(),
                meant @ Meant::Snapshot(_) => meant.ready().cloned().map(Box::new).map(Build::Captured),
            };
            Some(Tagged { tag: Tag::Given(tagging.tag), build: build?, assigned_at: tagging.assigned_at })
        });
        let by_itself = own.or(of_server.clone()).map(|build| build.under(Tag::Default));
        let mut all = by_itself.into_iter().chain(given);
        Ok(all.next().map(|first| Template { name, first, others: all.collect() }))
    }

    /// What the text stands for, as a name or an id that needs no tag.
    pub(super) async fn untagged(&self, owner: &OwnerId, text: &str) -> Result<SnapshotRef, ApiError> {
        let Reference { name, tag } = Reference::read(text).ok_or_else(|| no_template(text))?;
        let Some(Tag::Given(tag)) = tag else { return Ok(name) };
        let given = self.store.taggings(owner, Some(&name)).await?;
        let tagging = given.into_iter().find(|tagging| tagging.tag == tag).ok_or_else(|| no_template(text))?;
        Ok(match tagging.meant {
            Meant::Template => name,
            Meant::Snapshot(snapshot) => SnapshotRef::Id(snapshot.id),
        })
    }

    /// A caller's snapshots that are called so: without a tag, all that have the name.
    pub(super) async fn snapshots_called(
        &self,
        owner: &OwnerId,
        wanted: &Reference,
    ) -> Result<Vec<Snapshot>, ApiError> {
        let is_wanted = |tag: &Tag| wanted.tag.as_ref().is_none_or(|wanted| wanted == tag);
        let mut found = std::collections::BTreeMap::<SnapshotId, Snapshot>::new();
        if is_wanted(&Tag::Default)
            && let Some(snapshot) = self.store.get_snapshot(owner, &wanted.name).await?
        {
            found.insert(snapshot.id.clone(), snapshot);
        }
        for Tagging { tag, meant, .. } in self.store.taggings(owner, Some(&wanted.name)).await? {
            if let (true, Meant::Snapshot(snapshot)) = (is_wanted(&Tag::Given(tag)), meant) {
                found.insert(snapshot.id.clone(), *snapshot);
            }
        }
        Ok(found.into_values().collect())
    }
}
