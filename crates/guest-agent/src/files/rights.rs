//! Lets one thread act on files with the rights of a user, so that the kernel decides what is allowed.
//!
//! Asking for permission first and acting afterwards would be a race with links that the user plants; a helper process
//! would cost a fork for each call. So the thread that does the work takes on the user's effective ids and groups (per
//! thread, by direct system calls) and gives them back afterwards. Its real and saved ids stay the agent's, so that the
//! user can neither signal nor trace it. Links, `..` and `/proc/self/root` need no care: whatever they lead to, the
//! user's rights are asked there.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::users::User;

/// The agent is root; so is every request as root, which then needs no change.
const AGENT: (Uid, Gid) = (Uid::ROOT, Gid::ROOT);

/// Runs `work` with the rights of `user`. For a thread that may block.
pub fn with_rights_of<T>(user: &User, work: impl FnOnce() -> T) -> Result<T, Errno> {
    if user.uid == AGENT.0 {
        return Ok(work());
    }
    let restore = Restore;
    set_thread_groups(&user.groups)?;
    set_thread_res_gid(None, user.gid, None)?;
    set_thread_res_uid(None, user.uid, None)?;
    let result = work();
    drop(restore);
    Ok(result)
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        let restored = set_thread_res_uid(None, AGENT.0, None)
            .and_then(|()| set_thread_res_gid(None, AGENT.1, None))
            .and_then(|()| set_thread_groups(&[AGENT.1]));
        if restored.is_err() {
            // A thread with somebody else's rights must not serve the next request.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_user_meets_the_user_s_limits_and_the_agent_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let (uid, gid) = (Uid::from_raw(65_000), Gid::from_raw(65_000));
        let user = User { name: "u".into(), uid, gid, groups: vec![gid], home: "/".into() };
        let denied = with_rights_of(&user, || std::fs::read(&secret)).unwrap();
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(std::fs::read(&secret).unwrap(), b"x");
    }
}
