//! How a build tells where it is. Knows nothing of terminals: the CLI draws bars, the server logs.

use std::fmt;

/// A part of a build, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Another build of the same template is at work.
    Waiting,
    /// The guest kernel, which all templates of a suite share.
    Kernel,
    /// Downloading, unpacking and configuring Debian packages.
    Packages,
    /// Writing the root disk's image.
    FileSystem,
    /// Making it durable and current.
    Finishing,
}

impl Step {
    /// A few words for a person.
    pub fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another build",
            Self::Kernel => "kernel",
            Self::Packages => "packages",
            Self::FileSystem => "file system",
            Self::Finishing => "finishing",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Where a build reports to. Called from the build's task: answer quickly.
pub trait Progress: Send + Sync {
    /// A step begins; the one before it is done.
    fn step(&self, step: Step);

    /// How much of the step is done, from 0 to 1; never falls within a step. Some steps never say.
    fn fraction(&self, _fraction: f32) {}

    /// What a tool says meanwhile, one line.
    fn detail(&self, _line: &str) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _step: Step) {}
}

/// Logs each step, and what tools say at debug level.
#[derive(Debug, Clone)]
pub struct Traced {
    /// What is being built, for the log's reader.
    pub template: String,
}

impl Progress for Traced {
    fn step(&self, step: Step) {
        tracing::info!(template = %self.template, %step, "building template");
    }

    fn detail(&self, line: &str) {
        tracing::debug!(template = %self.template, "{line}");
    }
}
