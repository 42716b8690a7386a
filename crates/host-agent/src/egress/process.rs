//! Starting and ending the process, from the host agent's side.

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use model::NetworkPolicy;
use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant};
use vmm::{LaunchError, VmmProcess};

use super::{AuthorityError, Task, Told};
use crate::cgroup::{Cgroup, CgroupLimits};
use crate::host::Host;
use crate::jail::{self, Jail, ResourceLimits};
use crate::net::{EgressSocketError, EgressSockets, GuestNetwork, name_servers};

/// The file in a sandbox's directory that says which process it is.
const IDENTITY_FILE: &str = "egress.json";

/// The file in a sandbox's directory that has the digest of what that process was told, which may be a secret.
const TASK_FILE: &str = "egress.task.json";

/// The file in a sandbox's directory in which it counts what it refused.
const REFUSED_FILE: &str = "egress.refused";

/// Where systems keep the authorities that they believe, in PEM.
const TRUSTED_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What it may take: a processor, and 256 MiB.
const LIMITS: CgroupLimits = CgroupLimits { vcpus: 1, memory_mb: 0, disk: None };

/// Why a sandbox has no way to names. It reaches nothing by name then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// Its sockets.
    #[error(transparent)]
    Sockets(#[from] EgressSocketError),
    /// A file or directory of it.
    #[error("make {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What it would vouch for hosts with.
    #[error("let the resolver and proxy vouch for hosts")]
    Authority(#[from] AuthorityError),
    /// What it is told.
    #[error("write down what the resolver and proxy does")]
    Tell(#[source] io::Error),
    /// Its process.
    #[error("start the resolver and proxy")]
    Launch(#[from] LaunchError),
}

/// The process of one sandbox.
#[derive(Debug)]
pub struct Egress {
    process: VmmProcess,
    cgroup: Cgroup,
    refused: PathBuf,
    /// When it was started, or taken hold of, or was last tried to be started again.
    since: Instant,
}

/// How long after its start another one is started in its place at the earliest: one that ends at once costs little.
const RENEWAL: Duration = Duration::from_secs(1);

impl Egress {
    /// Starts it in a sandbox's namespace, for the names of `policy`.
    pub async fn start(
        host: &Host,
        network: &dyn GuestNetwork,
        policy: &NetworkPolicy,
        directory: &Path,
    ) -> Result<Self, EgressError> {
        let task = task_of(network, policy);
        // Before the process is started: one that was told something else is never taken for this one, because it is ended
        // before that.
        let path = directory.join(TASK_FILE);
        fs::write(&path, task.digest()).map_err(file_error(&path))?;
        let EgressSockets { namespace, questions, question_streams, connections, tunnels } =
            network.egress_sockets().await?;
        let root = empty_root(&host.data_dir)?;
        let refused = directory.join(REFUSED_FILE);
        let counter = make_counter(&refused)?;
        let cgroup = host.cgroups.of_egress(network.slot(), LIMITS);
        let jail = Jail {
            uid: host.egress_uid_of(network.slot()),
            identity_file: directory.join(IDENTITY_FILE),
            cgroup: cgroup.clone(),
            limits: ResourceLimits { threads: LIMITS.threads(), file_bytes: 4096 },
            landlock: host.landlock(),
        };
        let (ports, trusted) = (task.ports(), trusted()?.into());
        let told = tell(host, task)?;
        let descriptors = vec![told, questions, question_streams, connections, tunnels, trusted, counter.into()];
        match jail.launch_egress(ports, root, namespace, descriptors).await {
            Ok(process) => Ok(Self { process, cgroup, refused, since: Instant::now() }),
            Err(error) => {
                // Nothing runs in it, and nobody else will look for it.
                if let Err(left) = cgroup.remove().await {
                    tracing::warn!(error = %left, "a control group is left of a resolver and proxy that did not start");
                }
                Err(error.into())
            }
        }
    }

    /// Takes hold of the one that an earlier host agent started, if it still runs and was told what `policy` says.
    pub fn find(host: &Host, network: &dyn GuestNetwork, policy: &NetworkPolicy, directory: &Path) -> Option<Self> {
        let process = recorded(directory)?;
        let is_as_told =
            fs::read_to_string(directory.join(TASK_FILE)).is_ok_and(|told| told == task_of(network, policy).digest());
        let cgroup = host.cgroups.of_egress(network.slot(), LIMITS);
        let (refused, since) = (directory.join(REFUSED_FILE), Instant::now());
        is_as_told.then(|| Self { process, cgroup, refused, since })
    }

    /// Resolves when it has ended by itself and another one may be started. May be asked again and again.
    pub fn lost(&self) -> impl Future<Output = ()> + use<> {
        let (process, renewal) = (self.process.clone(), self.since + RENEWAL);
        async move {
            process.ended().await;
            tokio::time::sleep_until(renewal).await;
        }
    }

    /// Another one is about to be started; if that fails, it is tried again after a while.
    pub fn is_renewed(&mut self) {
        self.since = Instant::now();
    }

    /// How often it refused a name, or a connection that asked for the wrong one.
    pub fn refused(&self) -> u64 {
        let count = fs::read(&self.refused).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        count.map_or(0, u64::from_le_bytes)
    }

    /// Ends it, with the connections that go through it. May be repeated.
    pub async fn end(&self) -> io::Result<()> {
        self.process.kill().await;
        self.cgroup.remove().await
    }
}

/// The process that a sandbox's directory names, if it still runs.
pub(crate) fn recorded(directory: &Path) -> Option<VmmProcess> {
    VmmProcess::open(jail::recorded(&directory.join(IDENTITY_FILE))?).ok()
}

/// What a process is told that does what `policy` says.
fn task_of(network: &dyn GuestNetwork, policy: &NetworkPolicy) -> Task {
    let host_resolvers = network.resolvers();
    Task { policy: policy.clone(), resolvers: name_servers(policy, &host_resolvers), host_resolvers }
}

/// The task and what it takes, which is secret and long, as a file that is only in memory.
fn tell(host: &Host, task: Task) -> Result<OwnedFd, EgressError> {
    let headers = task.policy.headers();
    let credential = match headers.is_empty() {
        true => None,
        false => Some(host.authority.delegate(headers.domains().map(|domain| domain.root()))?),
    };
    let text = serde_json::to_vec(&Told { task, credential }).expect("what it is told is plain data");
    let write = || {
        let mut file = fs::File::from(rustix::fs::memfd_create("egress", MemfdFlags::CLOEXEC)?);
        file.write_all(&text)?;
        file.rewind()?;
        Ok(file.into())
    };
    write().map_err(EgressError::Tell)
}

impl Task {
    fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("a task is plain data");
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The authorities that this machine believes: nobody, where it does not say.
fn trusted() -> Result<fs::File, EgressError> {
    let written = TRUSTED_FILES.iter().find_map(|path| fs::File::open(path).ok());
    let nobody = Path::new("/dev/null");
    written.map_or_else(|| fs::File::open(nobody).map_err(file_error(nobody)), Ok)
}

/// A file system with nothing in it but a place for devices.
fn empty_root(data_dir: &Path) -> Result<PathBuf, EgressError> {
    let root = data_dir.join("egress");
    let devices = root.join("dev");
    fs::create_dir_all(&devices).map_err(file_error(&devices))?;
    Ok(root)
}

/// Each process begins to count anew.
fn make_counter(path: &Path) -> Result<fs::File, EgressError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(file_error(path))?;
    file.write_all_at(&0_u64.to_le_bytes(), 0).map_err(file_error(path))?;
    Ok(file)
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> EgressError {
    let path = path.to_owned();
    move |source| EgressError::File { path, source }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_that_ended_is_missed_after_its_time_however_often_somebody_asks_anew() {
        #[allow(clippy::zombie_processes, reason = "VmmProcess reaps it")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = vmm::ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        let process = VmmProcess::open(identity).unwrap();
        let cgroup = crate::cgroup::Cgroups::none().of_egress(crate::net::Slot::new(1).unwrap(), LIMITS);
        let egress = Egress { process, cgroup, refused: PathBuf::new(), since: Instant::now() };
        assert!(timeout(RENEWAL, egress.lost()).await.is_err(), "it runs");
        egress.end().await.unwrap();
        let egress = Egress { since: Instant::now(), ..egress };
        let began = Instant::now();
        // Each command that its sandbox gets does this.
        let asked = async { while timeout(RENEWAL / 10, egress.lost()).await.is_err() {} };
        timeout(RENEWAL * 10, asked).await.expect("it is missed");
        assert!(began.elapsed() >= RENEWAL, "and not before its time");
    }
}
