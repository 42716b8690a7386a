//! Files from which programs that expect E2B learn where they are; the same is in their environment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::identity;

const DIRECTORY: &str = "/run/e2b";
const NAMES: [&str; 3] = ["E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"];

/// What the files say, by their names. A sandbox without these variables, as a copy for another surface may be, has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marks(Option<[String; NAMES.len()]>);

impl Marks {
    /// Of a sandbox that has these variables.
    pub fn of(envs: &BTreeMap<String, String>) -> Self {
        let text = |name| envs.get(name).cloned().unwrap_or_default();
        Self(envs.contains_key(NAMES[0]).then(|| NAMES.map(text)))
    }
}

/// Writes the files.
pub fn assume(marks: &Marks) -> io::Result<()> {
    put(Path::new(DIRECTORY), marks)
}

fn put(directory: &Path, marks: &Marks) -> io::Result<()> {
    let Some(texts) = &marks.0 else {
        return match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    fs::create_dir_all(directory)?;
    for (name, text) in NAMES.iter().zip(texts) {
        identity::put(&directory.join(format!(".{name}")), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_say_what_the_variables_say_and_go_with_them() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("e2b");
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        for id in ["sb1", "sb2"] {
            let envs = [("E2B_SANDBOX", "true"), ("E2B_SANDBOX_ID", id), ("E2B_TEMPLATE_ID", "base")];
            let envs = envs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            put(&directory, &Marks::of(&envs)).unwrap();
            assert_eq!([read(".E2B_SANDBOX"), read(".E2B_SANDBOX_ID"), read(".E2B_TEMPLATE_ID")], ["true", id, "base"]);
        }
        for _ in 0..2 {
            put(&directory, &Marks::default()).unwrap();
            assert!(!directory.exists());
        }
    }

    #[test]
    fn other_variables_change_no_mark() {
        let marks = |envs: &[(&str, &str)]| {
            Marks::of(&envs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(marks(&[("A", "b")]), Marks::default());
        let mine = ("E2B_SANDBOX", "true");
        assert_eq!(marks(&[mine]), marks(&[mine, ("SSL_CERT_FILE", "x")]));
        assert_ne!(marks(&[mine]), marks(&[mine, ("E2B_SANDBOX_ID", "sb1")]));
    }
}
