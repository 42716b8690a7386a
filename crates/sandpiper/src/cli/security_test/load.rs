//! Claims about what a guest takes of its host: it takes all that it can for some seconds, while commands run in its
//! neighbour one after another. Each attack ends by itself.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use client::ExecRequest;

use host_agent::cgroup::CgroupLimits;

use super::Finding;
use super::jail::{Monitor, group_members, monitors};
use super::stage::{Guest, Stage};

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Forks,
    Memory,
    Processors,
    Disk,
    Console,
}

/// How long an attack goes on.
const SECONDS: u32 = 8;

/// What a neighbour's slowest command of a hundred may take: so much more than on a quiet host, and so much on top, since
/// attacker and neighbour have the same processors.
const SLOWER: u32 = 5;
const ON_TOP: Duration = Duration::from_millis(500);

/// What may be on the host's disk beside the sandbox's own disk: its monitor's log, and the kernel's words on it.
const BESIDE_BYTES: u64 = 16 << 20;

/// What `disk-flood` has on its disk at most, written again and again.
const FLOOD_MB: u64 = 256;

/// How much more a monitor may move than its guest may ask for, in percent: what its disk's tables need, and what the kernel
/// of the guest had under way before.
const MOVED_MORE: u64 = 20;

/// What a monitor moves beside its guest's requests: its control socket and its console.
const MOVED_BESIDE: u64 = 4 << 20;

impl Check {
    /// In the guest's shell, or its Perl. What forks looks at the clock in every process.
    fn attack(self) -> [String; 3] {
        let (program, text) = match self {
            Self::Forks => (
                "perl",
                format!(
                    "my $end = time + {SECONDS}; while (time < $end) {{ fork // select(undef, undef, undef, 0.01) }}"
                ),
            ),
            Self::Memory => {
                ("perl", format!("my ($end, @all) = time + {SECONDS}; push @all, 'x' x (1 << 22) while time < $end"))
            }
            Self::Processors => (
                "perl",
                format!(
                    "my $end = time + {SECONDS}; for (1 .. 7) {{ fork || last }} 1 while time < $end; 1 while wait > 0"
                ),
            ),
            Self::Disk => (
                "sh",
                format!(
                    "timeout {SECONDS} sh -c 'while :; do \
                       dd if=/dev/zero of=/root/flood bs=1M count={FLOOD_MB} conv=notrunc oflag=direct 2> /dev/null; \
                       dd if=/root/flood of=/dev/null bs=1M iflag=direct 2> /dev/null; done'; \
                     fallocate -l 64T /root/huge || fallocate -l \"$(df -B1 --output=size / | tail -n 1)\" /root/huge || \
                     echo the disk ends; rm -f /root/flood /root/huge"
                ),
            ),
            Self::Console => (
                "sh",
                format!(
                    "timeout {SECONDS} sh -c 'yes flooding the console > /dev/console' & \
                     timeout {SECONDS} sh -c 'yes flooding the log of the kernel > /dev/kmsg'; wait; true"
                ),
            ),
        };
        let flag = if program == "perl" { "-e" } else { "-c" };
        [program.to_owned(), flag.to_owned(), text]
    }
}

/// What a sandbox has of its host: all that is in its monitor's group.
struct Taken {
    threads: u64,
    memory_bytes: u64,
    processor: Duration,
    /// What was read and written, also from what the kernel keeps.
    moved_bytes: u64,
    /// What its disk takes, and what else of it there is.
    disk_bytes: u64,
    beside_bytes: u64,
}

/// Attacks, watches and measures.
pub async fn check(check: Check, stage: &Stage, data_dir: &Path) -> anyhow::Result<Finding> {
    let directory = stage.attacker.directory(data_dir);
    let monitor = monitors(data_dir)?.into_iter().find(|monitor| monitor.directory.as_ref() == Some(&directory));
    let monitor = monitor.with_context(|| format!("there is no monitor for {}", directory.display()))?;
    let mut quiet = Vec::new();
    for _ in 0..20 {
        quiet.push(command(stage, &stage.neighbour).await?);
    }
    let (before, begun) = (Taken::by(&monitor, &directory)?, Instant::now());
    let (told, (busy, most_threads)) = tokio::join!(attack(check, stage), watch(stage, &monitor));
    let (after, elapsed) = (Taken::by(&monitor, &directory)?, begun.elapsed());

    let mut broken = Vec::new();
    let (quiet, busy) = (p99(quiet), p99(busy?));
    if busy > quiet * SLOWER + ON_TOP {
        broken.push(format!("the neighbour's slowest commands took {} ms", busy.as_millis()));
    }
    let threads = most_threads.max(after.threads);
    let share = (after.processor - before.processor).as_secs_f64() / elapsed.as_secs_f64();
    let beside = after.beside_bytes.saturating_sub(before.beside_bytes);
    let disk = after.disk_bytes.saturating_sub(before.disk_bytes);
    let moved = after.moved_bytes.saturating_sub(before.moved_bytes);
    let allowed = disk_limit(&monitor)? as f64 * elapsed.as_secs_f64();
    let shape = &stage.attacker.sandbox;
    // What its group is to hold it to, whatever that says now.
    let most = CgroupLimits { vcpus: shape.vcpus, memory_mb: shape.memory_mb, disk: None };
    let limits = [
        ("threads", threads, most.threads()),
        ("bytes of memory", after.memory_bytes, most.memory_bytes()),
        ("% of a processor", (share * 100.0) as u64, most.cpu_percent() + 10),
        ("bytes to and from its disk", moved, allowed as u64 * (100 + MOVED_MORE) / 100 + MOVED_BESIDE),
        ("bytes beside its disk", beside, BESIDE_BYTES),
        ("bytes of its disk", disk, (FLOOD_MB + 256) << 20),
    ];
    broken.extend(
        limits.iter().filter(|(_, took, most)| took > most).map(|(what, took, _)| format!("it took {took} {what}")),
    );
    if check == Check::Disk && !told?.contains("the disk ends") {
        broken.push("it made a file larger than its disk".to_owned());
    }
    stage.client.health().await.context("the server after the attack")?;
    Ok(match broken.is_empty() {
        true => Finding::Holds(format!(
            "{threads} threads, {} MiB of memory, {:.0} % of a processor, {} MiB of disk, {:.0} MiB/s, {} KiB beside; \
             neighbour's p99 {} ms, {} ms before",
            after.memory_bytes >> 20,
            share * 100.0,
            disk >> 20,
            moved as f64 / f64::from(1 << 20) / elapsed.as_secs_f64(),
            beside >> 10,
            busy.as_millis(),
            quiet.as_millis()
        )),
        false => Finding::Broken(broken.join(", ")),
    })
}

/// What it printed. That the guest can answer no more is the guest's own affair.
async fn attack(check: Check, stage: &Stage) -> anyhow::Result<String> {
    let [cmd, flag, text] = check.attack();
    let command = ExecRequest { cmd, args: vec![flag, text], timeout_sec: Some(3 * SECONDS), ..ExecRequest::default() };
    let output = stage.client.exec(&stage.attacker.sandbox.id, &command).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs commands in the neighbour for as long as an attack goes on; returns their times, and the most threads that the
/// attacker's monitor had.
async fn watch(stage: &Stage, monitor: &Monitor) -> (anyhow::Result<Vec<Duration>>, u64) {
    let (begun, mut times, mut most) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < Duration::from_secs(SECONDS.into()) {
        match command(stage, &stage.neighbour).await {
            Ok(time) => times.push(time),
            Err(error) => return (Err(error.context("a command in the neighbour failed")), most),
        }
        most = most.max(group_members(monitor).map_or(0, |members| sum(&members, threads)));
    }
    (Ok(times), most)
}

async fn command(stage: &Stage, guest: &Guest) -> anyhow::Result<Duration> {
    let command = ExecRequest { cmd: "true".to_owned(), ..ExecRequest::default() };
    let begun = Instant::now();
    let output = stage.client.exec(&guest.sandbox.id, &command).await?;
    ensure!(output.exit_code == 0, "`true` ended with {}", output.exit_code);
    Ok(begun.elapsed())
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

impl Taken {
    fn by(monitor: &Monitor, directory: &Path) -> anyhow::Result<Self> {
        let (disk_bytes, beside_bytes) = on_disk(directory)?;
        let members = group_members(monitor)?;
        // The monitor itself must be there; others come and go.
        threads(monitor)?;
        Ok(Self {
            threads: sum(&members, threads),
            memory_bytes: sum(&members, resident),
            processor: Duration::from_millis(sum(&members, processor_ms)),
            moved_bytes: sum(&members, moved),
            disk_bytes,
            beside_bytes,
        })
    }
}

/// Of all that are still there.
fn sum(members: &[Monitor], what: impl Fn(&Monitor) -> anyhow::Result<u64>) -> u64 {
    members.iter().filter_map(|member| what(member).ok()).sum()
}

fn resident(monitor: &Monitor) -> anyhow::Result<u64> {
    let kilobytes = monitor.field("VmRSS")?.first().and_then(|text| text.parse::<u64>().ok());
    Ok(kilobytes.context("VmRSS is a number")? << 10)
}

/// Bytes that it has read and written.
fn moved(monitor: &Monitor) -> anyhow::Result<u64> {
    let accounts = monitor.read("io")?;
    let field = |name: &str| accounts.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Ok(field("rchar:").context("the kernel tells no rchar")? + field("wchar:").context("the kernel tells no wchar")?)
}

/// Bytes a second that a monitor was told to hold its guest to.
fn disk_limit(monitor: &Monitor) -> anyhow::Result<u64> {
    const MEMBER: &str = "\"bps-total\":";
    let command = monitor.read("cmdline")?;
    let (_, limit) = command.split_once(MEMBER).context("the monitor was told no limit for its disk")?;
    let digits: String = limit.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().context("the disk's limit is a number")
}

fn threads(monitor: &Monitor) -> anyhow::Result<u64> {
    monitor.field("Threads")?.first().and_then(|text| text.parse().ok()).context("Threads is a number")
}

/// The kernel counts in hundredths of a second.
fn processor_ms(monitor: &Monitor) -> anyhow::Result<u64> {
    let stat = monitor.read("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = [11, 12].map(|index| fields.get(index).and_then(|text| text.parse::<u64>().ok()));
    let [Some(user), Some(system)] = ticks else { anyhow::bail!("the times of {} are no numbers", monitor.pid) };
    Ok(10 * (user + system))
}

/// What a sandbox's disk takes, and what its other files do.
fn on_disk(directory: &Path) -> anyhow::Result<(u64, u64)> {
    let (mut disk, mut beside) = (0, 0);
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry.context("list a sandbox's files")?;
        let Ok(metadata) = entry.metadata() else { continue };
        let bytes = metadata.blocks() * 512;
        match entry.path().extension().is_some_and(|extension| extension == "qcow2") {
            true => disk += bytes,
            false if metadata.is_file() => beside += bytes,
            false => {}
        }
    }
    Ok((disk, beside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_hundred_is_what_counts() {
        let of = |numbers: std::ops::Range<u64>| p99(numbers.map(Duration::from_millis).collect());
        assert_eq!(of(0..100), Duration::from_millis(99));
        assert_eq!(of(0..1000), Duration::from_millis(990));
        assert_eq!(of(3..4), Duration::from_millis(3));
    }

    #[test]
    fn a_sandbox_s_disk_is_told_from_its_other_files() {
        let directory = tempfile::tempdir().unwrap();
        for (name, kilobytes) in [("overlay.qcow2", 64), ("layer0.qcow2", 64), ("console.log", 16)] {
            fs::write(directory.path().join(name), vec![1; kilobytes << 10]).unwrap();
        }
        let (disk, beside) = on_disk(directory.path()).unwrap();
        assert!((128 << 10..256 << 10).contains(&disk), "{disk}");
        assert!((16 << 10..64 << 10).contains(&beside), "{beside}");
    }
}
