//! What a sandbox calls itself and whom it asks for addresses.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

const HOSTS: &str = "/etc/hosts";
/// What stands there where nothing did.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// The address under which a host that has no fixed one finds itself.
const OWN_ADDRESS: &str = "127.0.1.1";
const NAME_LIMIT: usize = 64;

/// What the host says about it; what is left out stays as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    hostname: Option<String>,
    nameservers: Vec<IpAddr>,
}

/// A name that no host can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "hostname must have 1 to {NAME_LIMIT} letters, digits, dashes or dots, and begin and end with a letter or digit"
)]
pub struct BadHostname;

impl Identity {
    /// Checks the name: it becomes part of files that programs parse.
    pub fn new(hostname: Option<String>, nameservers: Vec<IpAddr>) -> Result<Self, BadHostname> {
        match &hostname {
            Some(name) if !is_hostname(name) => Err(BadHostname),
            _ => Ok(Self { hostname, nameservers }),
        }
    }
}

fn is_hostname(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= NAME_LIMIT && name.bytes().all(inner) && outer(name.bytes().next()) && outer(name.bytes().last())
}

/// Tells the kernel and the files in which programs look.
pub fn assume(identity: &Identity) -> io::Result<()> {
    if let Some(name) = &identity.hostname {
        rustix::system::sethostname(name.as_bytes())?;
        put(Path::new("/etc/hostname"), &format!("{name}\n"))?;
        let hosts = fs::read_to_string(HOSTS).unwrap_or_else(|_| LOOPBACK.to_owned());
        put(Path::new(HOSTS), &with_own_name(&hosts, name))?;
    }
    if !identity.nameservers.is_empty() {
        let lines: String = identity.nameservers.iter().map(|address| format!("nameserver {address}\n")).collect();
        replace_link(Path::new("/etc/resolv.conf"), &lines)?;
    }
    Ok(())
}

/// Writes a file. What it says already is not written again, and a text of the same length takes its place without the
/// file being cut: that asks far less of the file system, and a system that goes on does it with a cold processor.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    match fs::read(path) {
        Ok(now) if now == text.as_bytes() => Ok(()),
        Ok(now) if now.len() == text.len() => File::options().write(true).open(path)?.write_all_at(text.as_bytes(), 0),
        _ => fs::write(path, text),
    }
}

/// The file with our line instead of an older one; what the sandbox's user added stays.
fn with_own_name(hosts: &str, name: &str) -> String {
    let others = hosts.lines().filter(|line| line.split_whitespace().next() != Some(OWN_ADDRESS));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{OWN_ADDRESS}\t{name}\n"));
    text
}

/// Many images have a link there, to what a service would write that does not run here.
fn replace_link(path: &Path, text: &str) -> io::Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    put(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_name_goes_and_the_user_s_lines_stay() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 mine\n";
        assert_eq!(with_own_name(hosts, "new"), "127.0.0.1 localhost\n10.0.0.1 mine\n127.0.1.1\tnew\n");
    }

    #[test]
    fn a_file_says_what_was_put_into_it_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for text in ["one\n", "one\n", "two\n", "longer\n", "", "x"] {
            put(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn only_host_names_are_host_names() {
        for good in ["a", "sb-1a2b", "a.example"] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a\nb", "ä", &"a".repeat(65)] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }
}
