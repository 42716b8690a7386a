//! The templates of one data directory: which there are, and the files of the current build of each.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::TemplateName;
use tokio_util::sync::CancellationToken;

use super::announced::Announced;
use super::build::{self, Force};
use super::durable;
use super::error::{BuildError, FileError, RecipeError, TemplateError};
use super::image;
use super::initramfs::{self, Agent};
use super::kernel::Kernel;
use super::layout::{IMAGE, Layout, MANIFEST};
use super::manifest::{BuildId, FORMAT, Manifest};
use super::progress::Progress;
use super::recipe::{self, Recipe};
use super::staging::{self, Lock};
use super::tool::ToolPath;

/// A template that sandboxes can be made of. Its files are immutable; whoever opened them may go on when a newer
/// build replaces this one.
#[derive(Debug, Clone)]
pub struct Template {
    /// What the build's manifest says.
    pub manifest: Manifest,
    /// The root disk, a raw ext4 image.
    pub image: PathBuf,
    /// The kernel to boot.
    pub kernel: Kernel,
    /// The initial root to boot with, holding this binary's guest agent.
    pub initramfs: PathBuf,
}

impl Template {
    /// Names the guest agent that its guests run.
    pub fn guest_agent(&self) -> String {
        self.initramfs.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A template as a list shows it.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: TemplateName,
    /// The template, or why there is none to use.
    pub template: Result<Template, TemplateError>,
}

/// The templates of one data directory. A cheap handle.
#[derive(Debug, Clone)]
pub struct TemplateStore(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub layout: Layout,
    pub tools: ToolPath,
    agent: Agent,
    announced: Announced,
}

impl TemplateStore {
    /// Opens the store in `data_dir`, making what is missing and removing what killed builds left.
    /// Guests get `guest_agent` as their first process.
    pub fn open(data_dir: &Path, guest_agent: &'static [u8]) -> Result<Self, TemplateError> {
        Self::open_with(data_dir, guest_agent, ToolPath::system())
    }

    /// As [`open`](Self::open), looking for programs in `tools` only.
    pub fn open_with(data_dir: &Path, guest_agent: &'static [u8], tools: ToolPath) -> Result<Self, TemplateError> {
        let root = std::path::absolute(data_dir).map_err(FileError::at("finding", data_dir))?;
        let layout = Layout::new(&root);
        for directory in [layout.locks(), layout.kernels(), layout.package_cache()] {
            durable::make_directory(&directory)?;
        }
        staging::sweep(&layout)?;
        let (agent, announced) = (Agent::new(guest_agent), Announced::default());
        Ok(Self(Arc::new(Shared { layout, tools, agent, announced })))
    }

    /// The names of all templates that can be built, sorted.
    pub fn known_recipes(&self) -> Result<Vec<TemplateName>, RecipeError> {
        recipe::known(&self.0.layout.recipes())
    }

    /// The recipe of a template.
    pub fn recipe(&self, name: &TemplateName) -> Result<Recipe, RecipeError> {
        Recipe::load(name, &self.0.layout.recipes())
    }

    /// Every template that can be built or was, sorted by name.
    pub fn list(&self) -> Result<Vec<Listed>, TemplateError> {
        let mut names = self.known_recipes()?;
        names.extend(template_names(&self.0.layout.templates())?);
        names.sort();
        names.dedup();
        Ok(names.into_iter().map(|name| Listed { template: self.get(&name), name }).collect())
    }

    /// The current build of a template. Cheap: reads manifests and the image's first bytes.
    pub fn get(&self, name: &TemplateName) -> Result<Template, TemplateError> {
        let Some(build) = self.0.current_build(name)? else {
            // Tells a template that nobody described from one that only has to be built.
            self.recipe(name)?;
            return Err(TemplateError::NotBuilt { name: name.clone() });
        };
        self.0.open_build(name, &build)
    }

    /// A certain build of a template, current or not: what something that was captured needs.
    pub fn get_build(&self, name: &TemplateName, build: &BuildId) -> Result<Template, TemplateError> {
        self.0.open_build(name, build)
    }

    /// Says that these will be built: until then, who asks for one is told so.
    pub fn announce(&self, names: impl IntoIterator<Item = TemplateName>) {
        self.0.announced.add(names);
    }

    /// Says that what was announced and is not built will not be.
    pub fn give_up_announced(&self, reason: String) {
        self.0.announced.give_up(reason);
    }

    /// Those that were announced and are not built yet.
    pub fn announced(&self) -> Vec<TemplateName> {
        self.0.announced.names()
    }

    /// Refuses a template that was announced and is not built. Looks at no files.
    pub fn check_announced(&self, name: &TemplateName) -> Result<(), TemplateError> {
        self.0.announced.check(name)
    }

    /// Makes a template and makes it current. With [`Force::No`] it answers the current build where that is of the
    /// same recipe. When cancelled, and when this future is dropped, all programs are ended and all traces removed.
    pub async fn build(
        &self,
        name: &TemplateName,
        force: Force,
        progress: Arc<dyn Progress>,
        cancel: CancellationToken,
    ) -> Result<Template, BuildError> {
        // A task of its own, so that a caller who goes away cannot cut the cleaning short.
        let cancel = cancel.child_token();
        let _cancelled_with_the_caller = cancel.clone().drop_guard();
        let (store, name) = (self.clone(), name.clone());
        let task = tokio::spawn(async move {
            let built = build::build(&store, &name, force, &*progress, &cancel).await;
            if built.is_ok() {
                store.0.announced.remove(&name);
            }
            built
        });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(BuildError::Interrupted),
        }
    }

    /// Removes builds that are neither current nor in `keep`, kernels that no build needs any more, and what other
    /// guest agents booted from. Leaves alone what is being built.
    pub fn prune(&self, keep: &HashSet<BuildId>) -> Result<(), TemplateError> {
        self.0.prune(keep)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Shared {
    /// Where `current` leads. None where there is no such link.
    fn current_build(&self, name: &TemplateName) -> Result<Option<BuildId>, TemplateError> {
        let link = self.layout.current(name);
        match fs::read_link(&link) {
            Ok(target) => match target.to_str().and_then(|text| text.parse().ok()) {
                Some(build) => Ok(Some(build)),
                None => Err(damaged(name, "its link `current` leads to no build".into())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::at("reading", link)(error).into()),
        }
    }

    fn open_build(&self, name: &TemplateName, build: &BuildId) -> Result<Template, TemplateError> {
        let directory = self.layout.build(name, build);
        let manifest = read_manifest(&directory).map_err(|reason| damaged(name, reason))?;
        if (&manifest.name, &manifest.build) != (name, build) {
            return Err(damaged(name, format!("its manifest is of {} {}", manifest.name, manifest.build)));
        }
        let image = directory.join(IMAGE);
        image::check(&image).map_err(|reason| damaged(name, reason))?;
        let kernel = Kernel::open(self.layout.kernel(&manifest.kernel_digest))
            .map_err(|error| damaged(name, format!("its kernel cannot be read ({})", chain(&error))))?;
        let initramfs = initramfs::ensure(&kernel, &self.agent)?;
        Ok(Template { manifest, image, kernel, initramfs })
    }

    fn prune(&self, keep: &HashSet<BuildId>) -> Result<(), TemplateError> {
        staging::sweep(&self.layout)?;
        let Some(_kernels) = Lock::try_take(&self.kernel_lock())? else { return Ok(()) };
        let mut needed = HashSet::new();
        let mut is_certain = true;
        // Locks too: a template that is built for the first time has no directory yet.
        for directory in [self.layout.templates(), self.layout.locks()] {
            for name in template_names(&directory)? {
                match Lock::try_take(&self.template_lock(&name))? {
                    Some(_lock) => needed.extend(self.prune_template(&name, keep)?),
                    None => is_certain = false,
                }
            }
        }
        if is_certain {
            self.prune_kernels(&needed)?;
        }
        Ok(())
    }

    /// Answers the kernels of the builds that stay.
    fn prune_template(&self, name: &TemplateName, keep: &HashSet<BuildId>) -> Result<Vec<PathBuf>, TemplateError> {
        let current = self.current_build(name).ok().flatten();
        let mut kernels = Vec::new();
        if !self.layout.template(name).is_dir() {
            return Ok(kernels);
        }
        for path in durable::entries(&self.layout.template(name))? {
            let Some(build) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            if current.as_ref() == Some(&build) || keep.contains(&build) {
                kernels.extend(read_manifest(&path).map(|manifest| self.layout.kernel(&manifest.kernel_digest)));
            } else {
                durable::remove_directory(&path)?;
            }
        }
        Ok(kernels)
    }

    fn prune_kernels(&self, needed: &HashSet<PathBuf>) -> Result<(), TemplateError> {
        for path in durable::entries(&self.layout.kernels())? {
            let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
            if is_link {
                continue;
            }
            match Kernel::open(path.clone()) {
                Ok(kernel) if needed.contains(&path) => initramfs::remove_others(&kernel, &self.agent)?,
                _ => durable::remove_directory(&path)?,
            }
        }
        Ok(())
    }

    pub(super) fn template_lock(&self, name: &TemplateName) -> PathBuf {
        self.layout.locks().join(name.as_str())
    }

    /// Held while a kernel is fetched or used by a build that is not finished.
    pub(super) fn kernel_lock(&self) -> PathBuf {
        self.layout.locks().join(".kernel")
    }
}

/// The entries that are named like templates.
fn template_names(directory: &Path) -> Result<Vec<TemplateName>, FileError> {
    let paths = durable::entries(directory)?;
    Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
}

fn read_manifest(directory: &Path) -> Result<Manifest, String> {
    let manifest: Manifest = durable::read_json(&directory.join(MANIFEST))
        .map_err(|error| format!("its manifest cannot be read ({})", chain(&error)))?;
    match manifest.format {
        FORMAT => Ok(manifest),
        other => Err(format!("its manifest has format {other}, this program reads {FORMAT}")),
    }
}

fn damaged(name: &TemplateName, reason: String) -> TemplateError {
    TemplateError::Damaged { name: name.clone(), reason }
}

/// An error with its causes, for a reason that is kept as text.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
