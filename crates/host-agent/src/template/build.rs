//! Makes a template, from its recipe to the moment it is current. All work happens in a staging directory; what is
//! finished is renamed into place.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use model::TemplateName;
use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use super::durable;
use super::error::{BuildError, FileError, TemplateError};
use super::image::{self, ImageFacts};
use super::kernel::{self, Kernel};
use super::layout::{IMAGE, Layout, MANIFEST};
use super::manifest::{BuildId, FORMAT, Manifest};
use super::progress::{Progress, Step};
use super::recipe::Recipe;
use super::rootfs;
use super::share;
use super::sources::{self, Sources};
use super::staging::{self, Lock, Staging};
use super::store::{Template, TemplateStore};
use super::tool::{NEEDED, Runner};

/// What a build takes at its peak: packages, the tree and the image made from it.
const NEEDED_MIB: u64 = 2560;

/// Whether to build what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only where the current build is missing, damaged or of another recipe.
    No,
    /// In any case, with the packages and the kernel as they are now.
    Yes,
}

pub(super) async fn build(
    store: &TemplateStore,
    name: &TemplateName,
    force: Force,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Template, BuildError> {
    let recipe = store.recipe(name)?;
    let Some(base) = &recipe.base else { return build_image(store, name, &recipe, force, progress, cancel).await };
    let base = build_image(store, base, &store.recipe(base)?, force, progress, cancel).await?;
    share::build(store, name, &recipe, &base, progress, cancel).await
}

/// Builds a template that has an image of its own.
async fn build_image(
    store: &TemplateStore,
    name: &TemplateName,
    recipe: &Recipe,
    force: Force,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Template, BuildError> {
    let shared = store.shared();
    let lock = shared.template_lock(name);
    let _lock = Lock::take(&lock, cancel, || progress.step(Step::Waiting)).await?;
    if let (Force::No, Some(template)) = (force, usable(store, name, recipe)?) {
        return Ok(template);
    }
    for tool in NEEDED {
        shared.tools.find(tool)?;
    }
    staging::sweep(&shared.layout)?;
    check_space(&shared.layout)?;
    let staging = Staging::create(&shared.layout)?;
    let job = Job { store, name, recipe, force, progress, cancel, staging: &staging };
    let result = job.run().await;
    // Thousands of files, off the threads that serve others. A killed build's programs may have ended meanwhile.
    let layout = shared.layout.clone();
    blocking(move || {
        drop(staging);
        staging::sweep(&layout)
    })
    .await?;
    result
}

/// The current build, where it is what a build would make.
pub(super) fn usable(
    store: &TemplateStore,
    name: &TemplateName,
    recipe: &Recipe,
) -> Result<Option<Template>, TemplateError> {
    match store.get(name) {
        Ok(template) => Ok((template.manifest.recipe_digest == recipe.digest()).then_some(template)),
        Err(TemplateError::NotBuilt { .. } | TemplateError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_space(layout: &Layout) -> Result<(), BuildError> {
    let path = layout.root().to_owned();
    let status = rustix::fs::statvfs(&path).map_err(|error| FileError::at("measuring", &path)(error.into()))?;
    match (status.f_bavail * status.f_frsize) >> 20 {
        available_mib if available_mib < NEEDED_MIB => {
            Err(BuildError::NoSpace { path, needed_mib: NEEDED_MIB, available_mib })
        }
        _ => Ok(()),
    }
}

/// One build at work.
struct Job<'a> {
    store: &'a TemplateStore,
    name: &'a TemplateName,
    recipe: &'a Recipe,
    force: Force,
    progress: &'a dyn Progress,
    cancel: &'a CancellationToken,
    staging: &'a Staging,
}

impl Job<'_> {
    async fn run(&self) -> Result<Template, BuildError> {
        let shared = self.store.shared();
        let runner = Runner { path: &shared.tools, cancel: self.cancel, lock: self.staging.lock() };
        self.progress.step(Step::Kernel);
        let suite = self.recipe.suite;
        let cache = shared.layout.package_cache();
        let sources = sources::collect(&runner, suite, &cache, self.staging.path()).await?;
        let kernel = self.kernel(&runner, &sources).await?;

        self.progress.step(Step::Packages);
        let tree = self.staging.path().join("tree");
        rootfs::install(&runner, self.recipe, &sources, &cache, &tree, self.progress).await?;

        self.progress.step(Step::FileSystem);
        let finished = self.staging.path().join("build");
        durable::make_directory(&finished)?;
        let image = finished.join(IMAGE);
        image::make(&runner, &tree, &image, self.recipe.disk_mb, &self.recipe.digest()).await?;
        // The tree goes first, so that making the image durable does not write the tree to the disk as well.
        let facts = blocking(move || durable::remove_directory(&tree).and_then(|()| image::seal(&image))).await?;

        self.progress.step(Step::Finishing);
        if self.cancel.is_cancelled() {
            return Err(BuildError::Interrupted);
        }
        publish(self.store, self.name, self.recipe, &finished, facts, kernel.digest())
    }

    /// The suite's kernel. Several builds may want it at once and only one should fetch it.
    async fn kernel(&self, runner: &Runner<'_>, sources: &Sources) -> Result<Kernel, BuildError> {
        let layout = &self.store.shared().layout;
        let suite = self.recipe.suite;
        let _lock = Lock::take(&self.store.shared().kernel_lock(), self.cancel, || {}).await?;
        let stored = fs::read_link(layout.kernel_of(suite)).ok();
        let stored = stored.and_then(|target| Kernel::open(layout.kernels().join(target)).ok());
        match (self.force, stored) {
            (Force::No, Some(kernel)) => Ok(kernel),
            _ => kernel::fetch(runner, suite, sources, layout, self.staging.path(), self.progress).await,
        }
    }
}

/// Writes the manifest beside an image and makes the build current.
pub(super) fn publish(
    store: &TemplateStore,
    name: &TemplateName,
    recipe: &Recipe,
    finished: &Path,
    image: ImageFacts,
    kernel: &Digest,
) -> Result<Template, BuildError> {
    let layout = &store.shared().layout;
    let build = BuildId::random();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let manifest = Manifest {
        format: FORMAT,
        name: name.clone(),
        build: build.clone(),
        description: recipe.description.clone(),
        recipe_digest: recipe.digest(),
        created_ms: created.as_millis() as u64,
        image,
        disk_mb: recipe.disk_mb,
        kernel_digest: kernel.clone(),
        defaults: recipe.defaults.clone(),
        start: recipe.start.clone(),
    };
    durable::write_json(&finished.join(MANIFEST), &manifest)?;
    durable::make_directory(&layout.template(name))?;
    durable::publish(finished, &layout.build(name, &build))?;
    durable::point(&layout.current(name), build.as_str())?;
    Ok(store.get(name)?)
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
