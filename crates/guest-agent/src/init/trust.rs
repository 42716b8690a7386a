//! Whom the programs of a system believe when a server shows them a certificate: beside those whom they believed before, an
//! authority that the host names. What is written stands where Debian's own tools look for it, so that they keep it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The authority alone. Debian's tools put what is here into the bundle whenever they make that anew.
const OURS: &str = "/usr/local/share/ca-certificates/sandpiper.crt";
/// All authorities, where most programs look.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// All authorities, where OpenSSL looks that was not told otherwise. Debian leaves it to whoever wants it.
const OPENSSL: &str = "/usr/lib/ssl/cert.pem";

/// What tells programs of them that have a list of their own.
const ENVIRONMENT: [(&str, &str); 3] =
    [("NODE_EXTRA_CA_CERTS", OURS), ("REQUESTS_CA_BUNDLE", BUNDLE), ("SSL_CERT_FILE", BUNDLE)];

/// The environment of programs that are to believe them; `envs` wins.
pub fn environment(envs: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours = ENVIRONMENT.map(|(name, path)| (name.to_owned(), path.to_owned()));
    BTreeMap::from(ours).into_iter().chain(envs).collect()
}

/// Lets programs believe an authority in PEM. Does nothing where they do.
pub fn believe(authority: &str) -> io::Result<()> {
    believe_below(Path::new("/"), authority)
}

fn believe_below(root: &Path, authority: &str) -> io::Result<()> {
    let [ours, bundle, openssl] = [OURS, BUNDLE, OPENSSL].map(|path| root.join(path.trim_start_matches('/')));
    if fs::read(&ours).is_ok_and(|before| before == authority.as_bytes()) {
        return Ok(());
    }
    let others = fs::read(&bundle).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    })?;
    for directory in [&ours, &bundle].iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(directory)?;
    }
    // One that another host named before is gone from what comes after the first.
    let before = fs::read(&ours).unwrap_or_default();
    let kept = others.strip_prefix(&before[..]).unwrap_or(&others);
    put(&bundle, &[authority.as_bytes(), kept].concat())?;
    if openssl.parent().is_some_and(Path::is_dir) && fs::symlink_metadata(&openssl).is_err() {
        symlink(BUNDLE, &openssl)?;
    }
    // Last, since it says that all the rest is done.
    put(&ours, authority.as_bytes())
}

/// Writes a file that everybody may read, whole or not at all.
fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("new");
    let write = || {
        let mut file = File::create(&staged)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(content)?;
        fs::rename(&staged, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&staged)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_stands_beside_the_others_once_and_another_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str| root.path().join(path.trim_start_matches('/'));
        let read = |path: &str| fs::read_to_string(file(path)).unwrap();
        fs::create_dir_all(file(BUNDLE).parent().unwrap()).unwrap();
        fs::create_dir_all(file(OPENSSL).parent().unwrap()).unwrap();
        fs::write(file(BUNDLE), "others\n").unwrap();
        for authority in ["one\n", "one\n", "two\n"] {
            believe_below(root.path(), authority).unwrap();
            assert_eq!(read(BUNDLE), format!("{authority}others\n"));
            assert_eq!(read(OURS), authority);
        }
        assert_eq!(fs::read_link(file(OPENSSL)).unwrap(), Path::new(BUNDLE));
        // As Debian's tools do.
        fs::write(file(BUNDLE), "others\nmore\ntwo\n").unwrap();
        believe_below(root.path(), "two\n").unwrap();
        assert_eq!(read(BUNDLE), "others\nmore\ntwo\n");
    }

    #[test]
    fn a_system_that_believed_nobody_believes_it_alone() {
        let root = tempfile::tempdir().unwrap();
        believe_below(root.path(), "one\n").unwrap();
        assert_eq!(fs::read_to_string(root.path().join(&BUNDLE[1..])).unwrap(), "one\n");
        assert!(!root.path().join(&OPENSSL[1..]).exists());
    }

    #[test]
    fn programs_are_told_unless_their_user_has_told_them() {
        let envs = environment([("SSL_CERT_FILE".to_owned(), "mine".to_owned())].into());
        assert_eq!((envs["SSL_CERT_FILE"].as_str(), envs["NODE_EXTRA_CA_CERTS"].as_str()), ("mine", OURS));
    }
}
