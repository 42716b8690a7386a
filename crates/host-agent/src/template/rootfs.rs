//! A template's root file system as a directory: installed by mmdebstrap, then given the few files that packages
//! leave to the administrator.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::bootstrap::{Depth, Plan, bootstrap};
use super::error::{BuildError, FileError};
use super::progress::Progress;
use super::recipe::{Privilege, Recipe, User};
use super::sources::{Sources, without_credentials};
use super::tool::Runner;

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// What today's clients of git expect to be there after `git init`.
const GIT_CONFIG: &str = "[init]\n\tdefaultBranch = main\n";

/// Installs the recipe's packages into `tree`.
pub(super) async fn install(
    runner: &Runner<'_>,
    recipe: &Recipe,
    sources: &Sources,
    cache: &Path,
    tree: &Path,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let plan = Plan {
        suite: recipe.suite,
        depth: Depth::Installed,
        packages: &recipe.packages,
        at_the_end: recipe.users.iter().map(add_user).collect(),
    };
    bootstrap(runner, plan, sources, cache, tree, progress).await?;
    Ok(settle(tree, recipe, sources)?)
}

/// Safe in a shell: the recipe was checked to hold nothing but a name's characters.
fn add_user(user: &User) -> String {
    let User { name, uid, .. } = user;
    format!(r#"chroot "$1" useradd --create-home --user-group --shell /bin/bash --uid {uid} {name}"#)
}

fn settle(tree: &Path, recipe: &Recipe, sources: &Sources) -> Result<(), FileError> {
    replace(tree, "etc/hostname", 0o644, "sandbox\n")?;
    replace(tree, "etc/hosts", 0o644, HOSTS)?;
    // Plain and empty: the guest agent writes the sandbox's own.
    replace(tree, "etc/resolv.conf", 0o644, "")?;
    replace(tree, "etc/machine-id", 0o444, "")?;
    if !sources.lines.is_empty() {
        let lines: String = sources.lines.iter().map(|line| format!("{}\n", without_credentials(line))).collect();
        replace(tree, "etc/apt/sources.list", 0o644, &lines)?;
    }
    if recipe.packages.iter().any(|package| package == "git") {
        replace(tree, "etc/gitconfig", 0o644, GIT_CONFIG)?;
    }
    for (path, text) in &recipe.files {
        let file = path.trim_start_matches('/');
        make_directories(tree, Path::new(file).parent().unwrap_or(Path::new("")))?;
        replace(tree, file, 0o644, text)?;
    }
    for path in &recipe.writable {
        let directory = Path::new(path.trim_start_matches('/'));
        make_directories(tree, directory)?;
        open_to_all(&tree.join(directory))?;
    }
    for user in recipe.users.iter().filter(|user| user.sudo == Privilege::All) {
        fs::create_dir_all(tree.join("etc/sudoers.d")).map_err(FileError::at("making", tree.join("etc/sudoers.d")))?;
        replace(
            tree,
            &format!("etc/sudoers.d/{}", user.name),
            0o440,
            &format!("{} ALL=(ALL) NOPASSWD:ALL\n", user.name),
        )?;
    }
    for log in ["var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log"] {
        remove(&tree.join(log))?;
    }
    Ok(())
}

/// A directory and those above it. One that is a link may lead out of the tree, so it is an error.
fn make_directories(tree: &Path, wanted: &Path) -> Result<(), FileError> {
    let mut directory = tree.to_owned();
    for part in wanted.components() {
        directory.push(part);
        match fs::symlink_metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(FileError::at("making", &directory)(io::ErrorKind::NotADirectory.into())),
            Err(_) => {
                fs::DirBuilder::new().mode(0o755).create(&directory).map_err(FileError::at("making", &directory))?
            }
        }
    }
    Ok(())
}

/// Lets everybody write a directory and those in it. Links are left alone.
fn open_to_all(directory: &Path) -> Result<(), FileError> {
    let permissions = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory, permissions).map_err(FileError::at("opening to all", directory))?;
    for entry in fs::read_dir(directory).map_err(FileError::at("reading", directory))? {
        let entry = entry.map_err(FileError::at("reading", directory))?;
        if entry.file_type().map_err(FileError::at("reading", entry.path()))?.is_dir() {
            open_to_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Never follows a link that a package left there: it would lead out of the tree.
fn replace(tree: &Path, file: &str, mode: u32, text: &str) -> Result<(), FileError> {
    let path = tree.join(file);
    remove(&path)?;
    let write = |path: &Path| {
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
    };
    write(&path).map_err(FileError::at("writing", &path))
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FileError::at("removing", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_out_of_the_tree_is_replaced_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, tree) = (directory.path().join("outside"), directory.path().join("tree"));
        fs::write(&outside, "mine").unwrap();
        fs::create_dir_all(tree.join("etc")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("etc/resolv.conf")).unwrap();
        replace(&tree, "etc/resolv.conf", 0o644, "").unwrap();
        assert_eq!(fs::read_to_string(outside).unwrap(), "mine");
        assert!(fs::symlink_metadata(tree.join("etc/resolv.conf")).unwrap().is_file());
    }

    #[test]
    fn a_file_below_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        std::os::unix::fs::symlink(directory.path(), tree.join("opt")).unwrap();
        assert!(make_directories(&tree, Path::new("opt/x")).is_err());
        assert!(!directory.path().join("x").exists());
        make_directories(&tree, Path::new("srv/x")).unwrap();
        assert!(tree.join("srv/x").is_dir());
    }

    #[test]
    fn directories_are_opened_to_all_with_those_in_them_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let (outside, tree) = (directory.path().join("outside"), directory.path().join("tree"));
        for made in [&outside, &tree.join("usr/local/bin"), &tree.join("usr/bin"), &tree.join("etc/apt")] {
            fs::create_dir_all(made).unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("usr/local/link")).unwrap();
        let text = "description=''\nsuite='bookworm'\npackages=[]\nwritable=['/usr/local', '/code']";
        let sources = Sources { lines: Vec::new(), settings: "/s".into(), keyring: "/k".into() };
        settle(&tree, &toml::from_str(text).unwrap(), &sources).unwrap();
        let is_open = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o777;
        for open in ["usr/local", "usr/local/bin", "code"] {
            assert!(is_open(&tree.join(open)), "{open}");
        }
        for closed in [&tree.join("usr"), &tree.join("usr/bin"), &outside] {
            assert!(!is_open(closed), "{}", closed.display());
        }
    }

    #[test]
    fn a_tree_gets_its_hosts_its_mirrors_and_no_passwords() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path();
        fs::create_dir_all(tree.join("etc/apt")).unwrap();
        let text = "description=''\nsuite='bookworm'\npackages=[]\nusers=[{name='dev', uid=1000, sudo='all'}]\n\
                    files={'/etc/own/file'='text'}";
        let recipe: Recipe = toml::from_str(text).unwrap();
        let lines = vec!["deb https://me:secret@mirror.test/debian bookworm main".to_owned()];
        settle(tree, &recipe, &Sources { lines, settings: "/s".into(), keyring: "/k".into() }).unwrap();
        let read = |file: &str| fs::read_to_string(tree.join(file)).unwrap();
        assert!(read("etc/hosts").contains("127.0.0.1\tlocalhost"));
        assert_eq!(read("etc/apt/sources.list"), "deb https://mirror.test/debian bookworm main\n");
        assert_eq!(read("etc/own/file"), "text");
        assert_eq!(read("etc/sudoers.d/dev"), "dev ALL=(ALL) NOPASSWD:ALL\n");
        assert_eq!((read("etc/machine-id"), read("etc/resolv.conf")), (String::new(), String::new()));
    }
}
