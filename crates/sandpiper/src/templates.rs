//! Building templates while somebody watches: with progress, and to be interrupted. Shared by the command that builds
//! them and the servers that need them.

use std::pin::pin;
use std::sync::Arc;

use anyhow::Context as _;
use host_agent::template::{BuildError, Force, Template, TemplateStore};
use model::TemplateName;
use tokio_util::sync::CancellationToken;

use crate::console::output;
use crate::console::progress::BuildProgress;
use crate::console::{Ended, Signals};

/// Announces those of `names` that cannot be used yet: who asks for one is told that it is being built.
pub fn announce_missing(store: &TemplateStore, names: &[TemplateName]) {
    store.announce(names.iter().filter(|name| store.get(name).is_err()).cloned());
}

/// Builds those of `names` that were announced or cannot be used. What was there is taken as it is, also when its recipe
/// is older. One that was announced is asked for in any case: another process may have built it since.
pub async fn build_missing(
    store: &TemplateStore,
    names: &[TemplateName],
    signals: &mut Signals,
) -> anyhow::Result<Ended<()>> {
    let announced = store.announced();
    for name in names {
        if store.get(name).is_ok() && !announced.contains(name) {
            continue;
        }
        if let Ended::Interrupted(interrupt) = build_one(store, name, Force::No, signals).await? {
            return Ok(Ended::Interrupted(interrupt));
        }
    }
    Ok(Ended::Done(()))
}

/// Builds one; a signal undoes what was begun.
pub async fn build_one(
    store: &TemplateStore,
    name: &TemplateName,
    force: Force,
    signals: &mut Signals,
) -> anyhow::Result<Ended<Template>> {
    let cancel = CancellationToken::new();
    let mut building = pin!(store.build(name, force, Arc::new(BuildProgress::new(name)), cancel.clone()));
    let interrupt = tokio::select! {
        built = &mut building => return Ok(Ended::Done(built.with_context(|| format!("{name} is not built"))?)),
        interrupt = signals.next() => interrupt,
    };
    cancel.cancel();
    output::note(format_args!("{name}: interrupted, cleaning up"));
    match building.await {
        // It was complete before the signal could stop it.
        Ok(_) | Err(BuildError::Interrupted) => Ok(Ended::Interrupted(interrupt)),
        Err(error) => Err(error).with_context(|| format!("{name} is not built")),
    }
}
