//! Holding still: every process but the agent stands while the system is captured, and goes on only when the agent
//! has made the system right again. Knows nothing of why.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The control group of everything that is not the agent.
const GROUP: &str = "/sys/fs/cgroup/sandbox";
/// Where every process begins.
const ROOT_MEMBERS: &str = "/sys/fs/cgroup/cgroup.procs";
/// The parent of all kernel threads, which cannot be frozen and need not be.
const KERNEL_THREADS: u32 = 2;
/// How long processes may take to stand. One that waits for a disk that never answers never does.
const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(1);

/// Stops all processes but this one. When this returns none of them executes anything.
pub fn freeze() -> io::Result<()> {
    if !Path::new(GROUP).is_dir() {
        fs::create_dir(GROUP)?;
    }
    gather()?;
    fs::write(format!("{GROUP}/cgroup.freeze"), "1")?;
    // A process that was being made outside while the others were gathered freezes as it comes in.
    gather()?;
    let begun = Instant::now();
    while !is_frozen()? {
        if begun.elapsed() > DEADLINE {
            thaw()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a process does not stand still"));
        }
        thread::park_timeout(INTERVAL);
    }
    Ok(())
}

/// Lets them go on.
pub fn thaw() -> io::Result<()> {
    if Path::new(GROUP).is_dir() { fs::write(format!("{GROUP}/cgroup.freeze"), "0") } else { Ok(()) }
}

/// Writes all that is dirty and forgets what can be read again: what is then captured is small.
pub fn settle() -> io::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Moves all processes into the group, again and again, until no new one has appeared.
fn gather() -> io::Result<()> {
    loop {
        let members = fs::read_to_string(ROOT_MEMBERS)?;
        let ours = members.lines().filter_map(|line| line.parse().ok()).filter(|pid| is_program(*pid));
        // One that ended in the meantime cannot be moved and need not be.
        let moved = ours.filter(|pid| fs::write(format!("{GROUP}/cgroup.procs"), pid.to_string()).is_ok()).count();
        if moved == 0 {
            return Ok(());
        }
    }
}

fn is_program(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    pid != std::process::id() && parent(&stat).is_some_and(|parent| parent != KERNEL_THREADS && pid != KERNEL_THREADS)
}

/// The parent in `/proc/PID/stat`. The name before it, in brackets, may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn is_frozen() -> io::Result<bool> {
    Ok(fs::read_to_string(format!("{GROUP}/cgroup.events"))?.lines().any(|line| line == "frozen 1"))
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn a_parent_is_found_whatever_the_name() {
        assert_eq!(parent("7 (a) b (c) S 2 0 0"), Some(2));
        assert_eq!(parent("8 (sh) S 1 8 8"), Some(1));
        assert_eq!(parent(""), None);
    }
}
