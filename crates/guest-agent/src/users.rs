//! Who a request acts as, from the sandbox's own `/etc/passwd` and `/etc/group`. Knows nothing of NSS: a static
//! program has none, and sandboxes have no directory services.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::process::{Gid, Uid};

/// Larger account files than this are cut; no real one comes near.
const FILE_LIMIT: u64 = 1 << 20;

/// An account of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric user id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// Supplementary groups, the primary one included.
    pub groups: Vec<Gid>,
    /// Home directory.
    pub home: String,
}

/// Why no account was found.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No line of passwd has that name.
    #[error("invalid username: '{0}'")]
    Unknown(String),
    /// An account file could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The account called `name`.
pub fn lookup(name: &str) -> Result<User, LookupError> {
    let passwd = read("/etc/passwd")?;
    let mut user = find_user(&passwd, name).ok_or_else(|| LookupError::Unknown(name.to_owned()))?;
    user.groups.extend(groups_of(&read("/etc/group")?, name, user.gid));
    Ok(user)
}

/// Names for numeric ids, read once for a whole listing.
pub struct Names {
    passwd: String,
    group: String,
}

impl Names {
    /// Reads both account files; one that cannot be read names nobody.
    pub fn read() -> Self {
        Self { passwd: read("/etc/passwd").unwrap_or_default(), group: read("/etc/group").unwrap_or_default() }
    }

    /// The user's name, or the number when it has none.
    pub fn user(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    /// The group's name, or the number when it has none.
    pub fn group(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }
}

fn read(path: &'static str) -> Result<String, LookupError> {
    // Room for a usual file, which is then read at once: this is part of every command's start.
    let mut bytes = Vec::with_capacity(8192);
    match File::open(Path::new(path)).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes)) {
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(LookupError::Read { path, source }),
    }
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if name.is_empty() || fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = Gid::from_raw(valid(fields.next()?.parse().ok()?)?);
        let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
        Some(User {
            name: name.to_owned(),
            uid: Uid::from_raw(valid(uid)?),
            gid,
            groups: vec![gid],
            home: home.to_owned(),
        })
    })
}

/// The kernel takes an id of all ones as "leave it as it is", which must never be what an account says.
fn valid(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

fn groups_of(group: &str, name: &str, primary: Gid) -> Vec<Gid> {
    group
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let gid = Gid::from_raw(valid(fields.next()?.parse().ok()?)?);
            let member = fields.next()?.split(',').any(|member| member == name);
            (member && gid != primary).then_some(gid)
        })
        .collect()
}

fn name_of(file: &str, id: u32) -> String {
    let number = id.to_string();
    file.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
        .unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1001::/home/user:/bin/bash\n\
        bad:x:4294967295:0::/:\nnohome:x:7:7:::\nshort:x:1\n";
    const GROUP: &str = "root:x:0:\nuser:x:1001:\nsudo:x:27:user,other\nusers:x:100:other,user\nown:x:1001:user\n";

    #[test]
    fn a_user_has_its_ids_and_home() {
        let user = find_user(PASSWD, "user").unwrap();
        assert_eq!((user.uid.as_raw(), user.gid.as_raw(), user.home.as_str()), (1000, 1001, "/home/user"));
    }

    #[test]
    fn nonsense_lines_name_nobody() {
        for name in ["bad", "short", "", "nobody", "root:x"] {
            assert_eq!(find_user(PASSWD, name), None, "{name}");
        }
        assert_eq!(find_user(PASSWD, "nohome").unwrap().home, "/");
    }

    #[test]
    fn supplementary_groups_are_those_that_list_the_user() {
        let groups: Vec<u32> = groups_of(GROUP, "user", Gid::from_raw(1001)).into_iter().map(Gid::as_raw).collect();
        assert_eq!(groups, [27, 100]);
    }

    #[test]
    fn ids_without_a_name_stay_numbers() {
        let names = Names { passwd: PASSWD.into(), group: GROUP.into() };
        assert_eq!((names.user(1000).as_str(), names.user(5).as_str()), ("user", "5"));
        assert_eq!((names.group(27).as_str(), names.group(5).as_str()), ("sudo", "5"));
    }
}
