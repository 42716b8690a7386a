//! Makes a template that shares the image of another: a build like every other, whose image is a second name of the
//! same file. No part of the store tells the two apart, and the image is there as long as one of them is.

use std::fs;

use model::TemplateName;
use tokio_util::sync::CancellationToken;

use super::build::{publish, usable};
use super::durable;
use super::error::{BuildError, FileError};
use super::layout::IMAGE;
use super::progress::{Progress, Step};
use super::recipe::Recipe;
use super::staging::{Lock, Staging};
use super::store::{Template, TemplateStore};

/// Answers the current build where it is of this recipe and has the image that `base` has now.
pub(super) async fn build(
    store: &TemplateStore,
    name: &TemplateName,
    recipe: &Recipe,
    base: &Template,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Template, BuildError> {
    let shared = store.shared();
    let lock = shared.template_lock(name);
    let _lock = Lock::take(&lock, cancel, || progress.step(Step::Waiting)).await?;
    let of_base = |template: &Template| {
        (&template.manifest.image, &template.manifest.kernel_digest)
            == (&base.manifest.image, &base.manifest.kernel_digest)
    };
    if let Some(template) = usable(store, name, recipe)?.filter(of_base) {
        return Ok(template);
    }
    progress.step(Step::Finishing);
    let staging = Staging::create(&shared.layout)?;
    let finished = staging.path().join("build");
    durable::make_directory(&finished)?;
    let image = finished.join(IMAGE);
    fs::hard_link(&base.image, &image).map_err(FileError::at("sharing", &base.image))?;
    publish(store, name, recipe, &finished, base.manifest.image.clone(), &base.manifest.kernel_digest)
}
