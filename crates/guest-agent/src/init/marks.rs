//! Files from which programs that expect E2B learn where they are; the same is in their environment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::identity;

const DIRECTORY: &str = "/run/e2b";
const NAMES: [&str; 3] = ["E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"];

/// Writes the files of a sandbox that has these variables. One that has none of them, as a copy for another surface may,
/// has no such files.
pub fn assume(envs: &BTreeMap<String, String>) -> io::Result<()> {
    put(Path::new(DIRECTORY), envs)
}

fn put(directory: &Path, envs: &BTreeMap<String, String>) -> io::Result<()> {
    if !envs.contains_key(NAMES[0]) {
        return match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    fs::create_dir_all(directory)?;
    for name in NAMES {
        let value = envs.get(name).map_or("", String::as_str);
        identity::put(&directory.join(format!(".{name}")), value)?;
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
            put(&directory, &envs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).unwrap();
            assert_eq!([read(".E2B_SANDBOX"), read(".E2B_SANDBOX_ID"), read(".E2B_TEMPLATE_ID")], ["true", id, "base"]);
        }
        for _ in 0..2 {
            put(&directory, &BTreeMap::new()).unwrap();
            assert!(!directory.exists());
        }
    }
}
