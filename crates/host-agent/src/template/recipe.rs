//! Recipes: what a template is made of, as data. Built-in ones are embedded in the binary; an operator adds others as
//! files. Knows nothing of how a recipe is cooked.

use std::collections::BTreeMap;
use std::path::Path;

use model::{DiskMb, TemplateName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::{FileError, RecipeError};

const BUILT_IN: [(&str, &str); 5] = [
    ("base", include_str!("../../../../templates/base.toml")),
    ("code-runner-beta", include_str!("../../../../templates/code-runner-beta.toml")),
    ("minimal", include_str!("../../../../templates/minimal.toml")),
    ("minimal-ubuntu", include_str!("../../../../templates/minimal-ubuntu.toml")),
    ("python311", include_str!("../../../../templates/python311.toml")),
];

/// A Debian release that templates can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// Debian 12.
    Bookworm,
}

impl Suite {
    /// Debian's code name.
    pub fn codename(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
        }
    }
}

/// What a template is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// One line for people.
    pub description: String,
    /// The release that the packages come from.
    pub suite: Suite,
    /// Debian packages, besides those that every Debian system has.
    pub packages: Vec<String>,
    /// What a command gets that asks for nothing.
    #[serde(default)]
    pub defaults: Defaults,
    /// The size of the root disk. The image is sparse.
    #[serde(default)]
    pub disk_mb: DiskMb,
    /// Users to make, besides root.
    #[serde(default)]
    pub users: Vec<User>,
    /// Files of its image that no package brings, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Directories of its image that all users may write, with those in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<String>,
    /// What runs in every sandbox of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The template whose image this one shares: everything above is its own but the description, the defaults and the
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<TemplateName>,
}

/// A recipe that has no image of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    description: String,
    base: TemplateName,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    start: Option<Start>,
}

/// What is started in a sandbox when it boots, as its default user; in one that is restored it runs already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// A command for a shell. It goes on as long as the sandbox does.
    pub command: String,
    /// A command for a shell that succeeds once the sandbox may be used. It is tried until it does.
    pub ready: String,
}

/// What a command in a sandbox gets that asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Who it runs as.
    pub user: String,
    /// Where it starts.
    pub workdir: String,
    /// Variables that it finds, besides the usual ones.
    pub env: BTreeMap<String, String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { user: "root".into(), workdir: "/root".into(), env: BTreeMap::new() }
    }
}

/// A user of the guest, with a home directory and bash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's and group's number.
    pub uid: u32,
    /// Whether the user may become root without a password.
    #[serde(default)]
    pub sudo: Privilege,
}

/// What a user may do through sudo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    /// Nothing.
    #[default]
    None,
    /// Everything, without a password.
    All,
}

impl Recipe {
    /// Reads the recipe of `name`: an operator's file in `directory` first, then the built-in ones.
    pub fn load(name: &TemplateName, directory: &Path) -> Result<Self, RecipeError> {
        let text = text_of(name, directory)?;
        match toml::from_str::<toml::Table>(&text) {
            Ok(table) if table.contains_key("base") => Self::of_variant(name, syntax(name, &text)?, directory),
            _ => Self::parse(name, &text),
        }
    }

    fn of_variant(name: &TemplateName, variant: Variant, directory: &Path) -> Result<Self, RecipeError> {
        let Variant { description, base, defaults, start } = variant;
        let text = text_of(&base, directory)?;
        // A base is a recipe of its own: one with a base itself fails to be read as such.
        let recipe = Self::parse(&base, &text)?;
        Self { description, defaults, start, base: Some(base), ..recipe }.checked(name)
    }

    fn parse(name: &TemplateName, text: &str) -> Result<Self, RecipeError> {
        syntax::<Self>(name, text)?.checked(name)
    }

    fn checked(self, name: &TemplateName) -> Result<Self, RecipeError> {
        self.check().map_err(|(member, value, rule)| RecipeError::Invalid {
            name: name.clone(),
            member,
            value: value.chars().take(80).collect(),
            rule,
        })?;
        Ok(self)
    }

    /// Everything here ends up in a command line or in a file of the guest.
    fn check(&self) -> Result<(), (&'static str, &str, &'static str)> {
        for package in &self.packages {
            ensure(is_package(package), "package", package, "must be the name of a Debian package")?;
        }
        for user in &self.users {
            ensure(is_user(&user.name), "user", &user.name, "must be 1 to 32 of a-z, 0-9, '_' and '-'")?;
        }
        let user = &self.defaults.user;
        let exists = user == "root" || self.users.iter().any(|known| known.name == *user);
        ensure(exists, "default user", user, "must be root or one of the recipe's users")?;
        let workdir = &self.defaults.workdir;
        ensure(workdir.starts_with('/') && !workdir.contains('\0'), "workdir", workdir, "must be an absolute path")?;
        for (member, path) in
            self.files.keys().map(|path| ("file", path)).chain(self.writable.iter().map(|path| ("writable", path)))
        {
            ensure(is_path(path), member, path, "must be an absolute path without '.' and '..'")?;
        }
        if let Some(Start { command, ready }) = &self.start {
            for command in [command, ready] {
                ensure(!command.contains('\0'), "start", command, "must not hold a null character")?;
            }
        }
        for (variable, value) in &self.defaults.env {
            ensure(is_variable(variable), "variable", variable, "must be letters, digits and '_'")?;
            ensure(!value.contains('\0'), "variable", variable, "must not hold a null character")?;
        }
        Ok(())
    }

    /// Changes whenever a build of this recipe would differ.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a recipe is plain data"))
    }
}

fn syntax<T: DeserializeOwned>(name: &TemplateName, text: &str) -> Result<T, RecipeError> {
    toml::from_str(text).map_err(|error| RecipeError::Syntax { name: name.clone(), source: Box::new(error) })
}

/// An operator's file first, then what is built in.
fn text_of(name: &TemplateName, directory: &Path) -> Result<String, RecipeError> {
    let path = directory.join(format!("{name}.toml"));
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(FileError::at("reading", path)(error).into()),
    }
    match BUILT_IN.iter().find(|(built_in, _)| *built_in == name.as_str()) {
        Some((_, text)) => Ok((*text).to_owned()),
        None => Err(RecipeError::Unknown { name: name.clone(), known: known(directory)? }),
    }
}

/// The names of all recipes, sorted.
pub fn known(directory: &Path) -> Result<Vec<TemplateName>, RecipeError> {
    let built_in = BUILT_IN.iter().map(|(name, _)| name.to_string());
    let mut names: Vec<TemplateName> =
        built_in.chain(file_stems(directory)?).filter_map(|name| name.parse().ok()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn file_stems(directory: &Path) -> Result<Vec<String>, FileError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::at("reading", directory)(error)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect())
}

fn ensure<'a>(
    holds: bool,
    member: &'static str,
    value: &'a str,
    rule: &'static str,
) -> Result<(), (&'static str, &'a str, &'static str)> {
    if holds { Ok(()) } else { Err((member, value, rule)) }
}

fn is_package(text: &str) -> bool {
    let lower_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() >= 2
        && lower_alphanumeric(text.as_bytes()[0])
        && text.bytes().all(|byte| lower_alphanumeric(byte) || b"+.-".contains(&byte))
        && !text.ends_with('-')
}

fn is_user(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

fn is_path(text: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    text.strip_prefix('/').is_some_and(|path| path.split('/').all(is_name))
}

fn is_variable(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TemplateName {
        text.parse().unwrap()
    }

    fn built_in(text: &str) -> Recipe {
        Recipe::load(&name(text), Path::new("/nonexistent")).unwrap()
    }

    #[test]
    fn every_built_in_recipe_has_what_all_templates_promise() {
        for (template, _) in BUILT_IN {
            let recipe = built_in(template);
            for package in ["bash", "coreutils", "procps", "iproute2", "ca-certificates"] {
                assert!(recipe.packages.iter().any(|has| has == package), "{template} lacks {package}");
            }
            let (user, workdir) = match template {
                "base" => ("user", "/home/user"),
                "minimal-ubuntu" | "code-runner-beta" => ("wrenn-user", "/home/wrenn-user"),
                _ => ("root", "/root"),
            };
            assert_eq!((recipe.defaults.user.as_str(), recipe.defaults.workdir.as_str()), (user, workdir));
            assert_eq!(recipe.disk_mb, DiskMb::DEFAULT);
        }
    }

    #[test]
    fn minimal_has_git_and_sudo_and_python311_has_both_names_of_python() {
        let has = |template: &str, package: &str| built_in(template).packages.iter().any(|one| one == package);
        assert!(has("minimal", "git") && has("minimal", "sudo"));
        assert!(has("python311", "python3") && has("python311", "python-is-python3"));
    }

    #[test]
    fn an_unknown_template_is_told_which_are_known() {
        let error = Recipe::load(&name("nope"), Path::new("/nonexistent")).unwrap_err().to_string();
        assert_eq!(
            error,
            "template nope is unknown; known are base, code-runner-beta, minimal, minimal-ubuntu, python311"
        );
    }

    #[test]
    fn an_operators_file_adds_a_recipe_and_goes_before_a_built_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let text = "description = 'mine'\nsuite = 'bookworm'\npackages = ['bash']\n";
        for file in ["mine.toml", "minimal.toml", "Not a name.toml", "notes.txt"] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        assert_eq!(
            known(directory.path()).unwrap(),
            [
                name("base"),
                name("code-runner-beta"),
                name("mine"),
                name("minimal"),
                name("minimal-ubuntu"),
                name("python311")
            ]
        );
        assert_eq!(Recipe::load(&name("minimal"), directory.path()).unwrap().description, "mine");
    }

    #[test]
    fn recipes_that_could_reach_outside_are_refused() {
        let parse = |rest: &str| {
            let text = format!("description = ''\nsuite = 'bookworm'\n{rest}");
            Recipe::parse(&name("t"), &text).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(parse("packages = ['libstdc++6', 'g++', 'python3.11']"), Ok(()));
        for bad in [
            "packages = ['--aptopt=x']",
            "packages = ['a,b']",
            "packages = ['/tmp/x.deb']",
            "packages = ['bash-']",
            "packages = ['?essential']",
            "packages = []\n[defaults]\nuser = 'nobody-made-me'",
            "packages = []\n[defaults]\nworkdir = 'relative'",
            "packages = []\n[defaults]\nenv = { 'A=B' = '' }",
            "packages = []\n[[users]]\nname = 'x; rm -rf /'\nuid = 1000",
            "packages = []\n[[users]]\nname = '-x'\nuid = 1000",
            "packages = []\n[files]\n'etc/x' = ''",
            "packages = []\n[files]\n'/etc/../x' = ''",
            "packages = []\n[files]\n'/etc//x' = ''",
            "packages = []\nwritable = ['code']",
            "packages = []\nwritable = ['/']",
            "packages = []\nwritable = ['/usr/../..']",
            "packages = []\n[start]\ncommand = 'x'",
            "packages = []\n[start]\ncommand = \"x\\u0000\"\nready = ''",
            "packages = []\ndisk_mb = -1",
            "packages = []\nunknown = 1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variant_has_its_base_s_image_and_defaults_of_its_own() {
        let (base, variant) = (built_in("minimal"), built_in("minimal-ubuntu"));
        assert_eq!(variant.base, Some(name("minimal")));
        assert_eq!((&variant.packages, &variant.users), (&base.packages, &base.users));
        assert_ne!(variant.digest(), base.digest());

        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        write("minimal.toml", "description = 'mine'\nsuite = 'bookworm'\npackages = ['bash']\n");
        let error = Recipe::load(&name("minimal-ubuntu"), directory.path()).unwrap_err();
        assert!(matches!(error, RecipeError::Invalid { member: "default user", .. }), "no such user: {error}");
        for bad in ["base = 'minimal-ubuntu'", "base = 'nope'", "base = 'minimal'\npackages = []", "base = '../x'"] {
            write("mine.toml", &format!("description = ''\n{bad}\n"));
            assert!(Recipe::load(&name("mine"), directory.path()).is_err(), "{bad}");
        }
        write("mine.toml", "description = ''\nbase = 'minimal'\n[defaults]\nworkdir = '/srv'\n");
        let recipe = Recipe::load(&name("mine"), directory.path()).unwrap();
        assert_eq!((recipe.packages, recipe.defaults.workdir.as_str()), (vec!["bash".to_owned()], "/srv"));
    }

    #[test]
    fn a_changed_recipe_has_another_digest() {
        let recipe = built_in("minimal");
        let mut changed = recipe.clone();
        changed.packages.push("curl".into());
        assert_eq!(recipe.digest(), built_in("minimal").digest());
        assert_ne!(recipe.digest(), changed.digest());
    }
}
