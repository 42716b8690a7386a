//! The key that tokens are sealed with in the records: 32 random bytes in a file of their own, which is no part of the
//! database. Knows nothing of what is sealed with it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

use crate::store::hex;

const BYTES: usize = 32;

/// What makes a key's id another thing than its hash.
const ID_OF: &[u8] = b"sandpiper token key ";

/// Bytes of a key's id: enough to tell a handful of keys apart.
const ID_BYTES: usize = 8;

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct TokenKey {
    id: Arc<str>,
    key: Arc<RandomizedNonceKey>,
}

/// A file that is no key.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// There is none, and this is not the place for a new one.
    #[error(
        "there is no token key at {}; every control plane on one database has the same. To make the first: \
         (umask 077; head -c {BYTES} /dev/urandom > FILE)", .0.display()
    )]
    Missing(PathBuf),
    /// It cannot be read or made.
    #[error("{step} the token key {}", path.display())]
    File {
        /// What was done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not 32 bytes long.
    #[error("{} is no token key: it has {found} bytes, and not {BYTES}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// How long it is.
        found: usize,
    },
    /// Others than its owner may read it.
    #[error("the token key {} can be read by others than its owner: chmod 600 it", .0.display())]
    Open(PathBuf),
}

/// What was sealed by another key, for another purpose, or not at all.
#[derive(Debug, thiserror::Error)]
#[error("it was not sealed for this, with this key")]
pub struct NotSealed;

impl TokenKey {
    /// A new one, which nobody else will ever have.
    pub fn random() -> Self {
        Self::new(&fresh())
    }

    /// The one in a file, which must be there.
    pub fn load(path: &Path) -> Result<Self, TokenKeyError> {
        match read(path)? {
            Some(bytes) => Ok(Self::new(&bytes)),
            None => Err(TokenKeyError::Missing(path.to_owned())),
        }
    }

    /// The one in a file, which is made if it is missing.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenKeyError> {
        if let Some(bytes) = read(path)? {
            return Ok(Self::new(&bytes));
        }
        make(path).map_err(|source| TokenKeyError::File { step: "make", path: path.to_owned(), source })?;
        // Of two that make it at once one has won.
        Self::load(path)
    }

    pub(crate) fn new(bytes: &[u8; BYTES]) -> Self {
        let id = hex(&Sha256::digest([ID_OF, bytes].concat())[..ID_BYTES]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("the key is as long as the cipher's");
        Self { id: id.into(), key: Arc::new(key) }
    }

    /// By which it is told from other keys. Says nothing of the key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a text for one purpose: only for that it is opened again.
    pub(crate) fn seal(&self, text: &str, purpose: &str) -> String {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut sealed);
        let nonce = nonce.expect("a text is shorter than what the cipher takes");
        STANDARD_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens what [`seal`](Self::seal) has sealed for the same purpose.
    pub(crate) fn open(&self, sealed: &str, purpose: &str) -> Result<String, NotSealed> {
        let mut bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| NotSealed)?;
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(NotSealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NotSealed)?;
        let text = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), rest).map_err(|_| NotSealed)?;
        String::from_utf8(text.to_vec()).map_err(|_| NotSealed)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.id)
    }
}

fn fresh() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    bytes
}

/// None where there is no file.
fn read(path: &Path) -> Result<Option<[u8; BYTES]>, TokenKeyError> {
    let failed = |source| TokenKeyError::File { step: "read", path: path.to_owned(), source };
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed)?,
    };
    if fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
        return Err(TokenKeyError::Open(path.to_owned()));
    }
    let found = bytes.len();
    let bytes = bytes.try_into().map_err(|_| TokenKeyError::Length { path: path.to_owned(), found })?;
    Ok(Some(bytes))
}

/// Whole or not at all: under another name first, which never replaces what is there.
fn make(path: &Path) -> io::Result<()> {
    let staging = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&staging);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staging)?;
    file.write_all(&fresh())?;
    file.sync_all()?;
    let linked = fs::hard_link(&staging, path);
    let _ = fs::remove_file(&staging);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => fs::File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_sealed_is_opened_for_the_same_purpose_with_the_same_key_alone() {
        let (key, other) = (TokenKey::new(&[1; BYTES]), TokenKey::new(&[2; BYTES]));
        let sealed = key.seal("secret", "sb1");
        assert_eq!(key.open(&sealed, "sb1").unwrap(), "secret");
        assert_ne!(sealed, key.seal("secret", "sb1"), "never the same twice");
        assert!(!sealed.contains("secret"));
        assert!(key.open(&sealed, "sb2").is_err() && other.open(&sealed, "sb1").is_err());
        let mut changed = sealed.into_bytes();
        let last = changed.len() - 2;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        assert!(key.open(std::str::from_utf8(&changed).unwrap(), "sb1").is_err());
        for nothing in ["", "AAAA", "-", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(key.open(nothing, "sb1").is_err(), "{nothing}");
        }
    }

    #[test]
    fn keys_are_told_apart_and_never_shown() {
        let (key, other) = (TokenKey::new(&[1; BYTES]), TokenKey::new(&[2; BYTES]));
        assert_ne!(key.id(), other.id());
        assert_eq!(key.id(), TokenKey::new(&[1; BYTES]).id());
        assert_eq!(format!("{key:?}"), format!("TokenKey({})", key.id()));
    }

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.key");
        assert!(matches!(TokenKey::load(&path), Err(TokenKeyError::Missing(_))));
        let made = TokenKey::load_or_make(&path).unwrap();
        assert_eq!(TokenKey::load_or_make(&path).unwrap().id(), made.id());
        assert_eq!(TokenKey::load(&path).unwrap().id(), made.id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(TokenKey::load_or_make(&path), Err(TokenKeyError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(matches!(TokenKey::load_or_make(&path), Err(TokenKeyError::Length { found: 5, .. })));
        let nowhere = directory.path().join("no/such/token.key");
        assert!(matches!(TokenKey::load_or_make(&nowhere), Err(TokenKeyError::File { step: "make", .. })));
    }

    #[test]
    fn of_many_that_make_a_key_at_once_all_have_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.key");
        // Processes have names of their own for what they stage; here one is left by a process that ended.
        fs::write(path.with_extension(format!("new-{}", std::process::id())), "half").unwrap();
        let made = TokenKey::load_or_make(&path).unwrap();
        assert!(make(&path).is_ok(), "one that lost");
        assert_eq!(TokenKey::load(&path).unwrap().id(), made.id());
    }
}
