//! A private PostgreSQL on a unix socket in a directory of its own, or on loopback with TLS. Whatever PostgreSQL the machine itself runs is
//! neither used nor disturbed.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where Debian has the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Stops the cluster and removes its directory once nobody holds the other end of its standard input: a process can
/// let go of that in every way in which it may end.
const KEEPER: &str = r#"cat >/dev/null; "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2""#;

/// Speed, because nothing here has to survive a power failure.
const SETTINGS: &str = "listen_addresses = ''\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
    shared_buffers = 16MB\nmax_connections = 200\n";

/// A running cluster. Dropping it, or the end of the process, stops and removes it.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    directory: PathBuf,
    account: Account,
    keeper: Child,
    databases: AtomicU32,
}

/// Whom the programs run as: PostgreSQL refuses to be root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Postgres {
    /// The cluster that the tests of one process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::launch)
    }

    /// A cluster for one test alone, which may stop it.
    pub fn launch() -> Self {
        Self::launch_with(|_, _| String::new())
    }

    pub(crate) fn launch_with(configure: impl FnOnce(&Path, Account) -> String) -> Self {
        let account = Account::unprivileged();
        let directory = tempfile::Builder::new().prefix("sandpiper-pg-").tempdir().unwrap().keep();
        chown(&directory, Some(account.uid), Some(account.gid)).unwrap();
        let programs = programs();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&programs, &directory])
            .uid(account.uid)
            .gid(account.gid)
            // A signal for the tests must not end it before it has cleaned up.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let cluster = Self { programs, directory, account, keeper, databases: AtomicU32::new(0) };
        let data = cluster.data();
        cluster
            .run("initdb", &["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale", "C", "--no-sync", "-D", &data]);
        let config = cluster.directory.join("data/postgresql.conf");
        let socket = format!("unix_socket_directories = '{}'\n", cluster.directory.display());
        let more = configure(&cluster.directory, account);
        fs::write(config, [SETTINGS, &socket, &more].concat()).unwrap();
        cluster.start();
        cluster
    }

    /// Starts it, and returns when it answers.
    pub fn start(&self) {
        let log = self.directory.join("log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"]);
    }

    /// Stops it: connections are cut, data stays.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "fast", "-w", "stop"]);
    }

    /// The URL of a new, empty database. Its password is not asked for, and must appear nowhere.
    pub fn database(&self) -> String {
        let name = self.new_database();
        format!("postgres://postgres:{}@localhost/{name}?host={}", Self::PASSWORD, self.directory.display())
    }

    pub(crate) fn new_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let sockets = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name());
        let port = sockets.filter_map(|name| name.to_str()?.strip_prefix(".s.PGSQL.")?.parse::<u16>().ok()).next();
        let port = port.expect("it listens").to_string();
        self.run("createdb", &["-h", self.directory.to_str().unwrap(), "-p", &port, "-U", "postgres", &name]);
        name
    }

    /// The password in every URL.
    pub const PASSWORD: &'static str = "never-to-be-seen";

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn data(&self) -> String {
        self.directory.join("data").to_str().unwrap().to_owned()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new(self.programs.join(program))
            .args(arguments)
            .uid(self.account.uid)
            .gid(self.account.gid)
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Account {
    fn unprivileged() -> Self {
        let own = fs::metadata("/proc/self").unwrap();
        if own.uid() != 0 {
            return Self { uid: own.uid(), gid: own.gid() };
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let line = accounts.lines().find(|line| line.starts_with("postgres:"));
        let fields: Vec<_> = line.expect("`scripts/setup.sh test` installs PostgreSQL").split(':').collect();
        Self { uid: fields[2].parse().unwrap(), gid: fields[3].parse().unwrap() }
    }
}

/// The newest version's programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir(VERSIONS).expect("`scripts/setup.sh test` installs PostgreSQL");
    let numbers = versions.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let complete = |version: &u32| Path::new(VERSIONS).join(version.to_string()).join("bin/initdb").exists();
    let newest = numbers.filter(complete).max().expect("`scripts/setup.sh test` installs PostgreSQL");
    Path::new(VERSIONS).join(newest.to_string()).join("bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_cluster() {
        let cluster = Postgres::launch();
        let directory = cluster.directory.clone();
        assert_ne!(cluster.database(), cluster.database());
        assert!(directory.join("data/postmaster.pid").exists());
        drop(cluster);
        assert!(!directory.exists());
    }
}
