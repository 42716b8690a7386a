//! What can go wrong with templates, one enum per operation. Knows nothing of status codes: the service maps these.

use std::io;
use std::path::PathBuf;

use model::TemplateName;

use super::progress::Step;
use super::tool::Tool;

/// A file or directory that could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    /// For `map_err`: names what was done to which path.
    pub(super) fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { action, path, source }
    }
}

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Nobody described a template of this name.
    #[error("template {name} is unknown; known are {}", names(known))]
    Unknown {
        /// The name asked for.
        name: TemplateName,
        /// The names that would have been right.
        known: Vec<TemplateName>,
    },
    /// Not TOML, or not the members that a recipe has.
    #[error("the recipe of template {name} cannot be read")]
    Syntax {
        /// Whose recipe.
        name: TemplateName,
        /// What the parser says, with its line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A member holds what would be dangerous or meaningless.
    #[error("the recipe of template {name} has {member} {value:?}: {rule}")]
    Invalid {
        /// Whose recipe.
        name: TemplateName,
        /// Which member.
        member: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        rule: &'static str,
    },
    /// The recipe's file or directory cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It has no recipe, or one that cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// It has a recipe, and nobody built it here.
    #[error("template {name} is not built: `sandpiper template build {name}` does that")]
    NotBuilt {
        /// The template.
        name: TemplateName,
    },
    /// It is on its way.
    #[error("template {name} is being built")]
    Building {
        /// The template.
        name: TemplateName,
    },
    /// It was on its way, and will not come.
    #[error("template {name} was not built: {reason}")]
    GivenUp {
        /// The template.
        name: TemplateName,
        /// Why.
        reason: String,
    },
    /// Its files are not what a build leaves.
    #[error("template {name} is damaged, {reason}: `sandpiper template build {name}` makes it anew")]
    Damaged {
        /// The template.
        name: TemplateName,
        /// Which file is wrong, and how.
        reason: String,
    },
    /// A file or directory could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a template was not built. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It has no recipe, or one that cannot be used.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A program that builds need is not installed.
    #[error("{} is not installed: `make setup` installs what is needed (Debian package {})", tool.name(), tool.package())]
    MissingTool {
        /// The program.
        tool: Tool,
    },
    /// There is too little room to begin.
    #[error("building a template needs {needed_mib} MiB free in {}, which has {available_mib}", path.display())]
    NoSpace {
        /// The data directory.
        path: PathBuf,
        /// What a build takes at its peak.
        needed_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// The disk filled up on the way.
    #[error("the disk is full: {during}")]
    DiskFull {
        /// What could not be written.
        during: String,
    },
    /// A program could not be started.
    #[error("starting {}", tool.name())]
    Start {
        /// The program.
        tool: Tool,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program ended badly.
    #[error("{} failed ({status}); its last lines:\n{tail}", tool.name())]
    Failed {
        /// The program.
        tool: Tool,
        /// How it ended.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// The packages do not hold what they should.
    #[error("{step}: {reason}")]
    Unexpected {
        /// The step at hand.
        step: Step,
        /// What is missing.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("the build was interrupted")]
    Interrupted,
    /// A file or directory could not be handled.
    #[error(transparent)]
    File(FileError),
    /// What was built could not be read back.
    #[error(transparent)]
    Result(#[from] TemplateError),
}

impl BuildError {
    /// Whether there was too little room, before or during the build.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::DiskFull { .. })
    }
}

impl From<FileError> for BuildError {
    fn from(error: FileError) -> Self {
        match error.source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull { during: error.to_string() },
            _ => Self::File(error),
        }
    }
}

fn names(names: &[TemplateName]) -> String {
    names.iter().map(TemplateName::as_str).collect::<Vec<_>>().join(", ")
}
