//! What the host says to a system that was captured and goes on, perhaps elsewhere, later, and as somebody else: what
//! time it is, and all else that must be true before user code runs again. Then it runs.
//!
//! One thread waits for it, outside the runtime and without HTTP: after a restore every instruction is new to an emulated
//! processor, so there are to be few of them.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use buffa::Message;
use proto::restore::word::Word as Said;
use proto::restore::{Answer, Restoration, Word};
use rustix::time::{ClockId, Timespec, clock_settime};

use super::Agent;
use crate::init::identity::{self, Identity};
use crate::init::{boot_id, entropy, freeze, machine_id};
use crate::process::block_signals;
use crate::settings::Update;
use crate::{Role, log};

/// The longest message: an environment has its limits too.
const LIMIT: u32 = 1024 * 1024;

/// A host that says nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

const SECOND: u64 = 1_000_000_000;

/// Why the system is not right.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    /// The message means nothing.
    #[error("it cannot be understood: {0}")]
    Garbled(String),
    /// The system would not take it.
    #[error("{step}: {source}")]
    System {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::System { step, source }
}

/// Answers the host from a thread of its own, for ever.
pub fn listen(address: SocketAddr, agent: Arc<Agent>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("restore".to_owned()).spawn(move || {
        block_signals();
        for stream in listener.incoming() {
            // A host that went away in the middle comes again.
            let _ = stream.and_then(|stream| converse(stream, &agent));
        }
    })?;
    Ok(address)
}

fn converse(mut stream: TcpStream, agent: &Agent) -> io::Result<()> {
    if stream.peer_addr()?.ip().to_canonical() != agent.control_peer {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    loop {
        let word = Word::decode_from_slice(&receive(&mut stream)?).map_err(io::Error::other)?.word;
        let is_last = matches!(word, Some(Said::Restoration(_)));
        let done = match word {
            Some(Said::ClockUnixNs(time)) => set_clock(agent.role, time),
            Some(Said::Restoration(restoration)) => restore(agent, *restoration),
            None => Err(RestoreError::Garbled("it says nothing".to_owned())),
        };
        let error = done.err().map(|error| error.to_string()).unwrap_or_default();
        send(&mut stream, &Answer { error: error.clone(), ..Default::default() })?;
        if !error.is_empty() {
            log::line(format_args!("not restored: {error}"));
        }
        if is_last {
            return Ok(());
        }
    }
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn send(stream: &mut TcpStream, answer: &Answer) -> io::Result<()> {
    let body = answer.encode_to_vec();
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &body].concat())
}

/// Unlike the clock of a system that runs, this one stood still: it is set, however far that is. A program that is not
/// PID 1 must not set the clock of the machine that it runs on.
fn set_clock(role: Role, unix_ns: u64) -> Result<(), RestoreError> {
    let garbled = || RestoreError::Garbled("no such time".to_owned());
    let seconds = i64::try_from(unix_ns / SECOND).map_err(|_| garbled())?;
    let nanoseconds = i64::try_from(unix_ns % SECOND).map_err(|_| garbled())?;
    match role {
        Role::Service => Ok(()),
        Role::Init => clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
            .map_err(|error| failed("set the clock")(error.into())),
    }
}

fn restore(agent: &Agent, restoration: Restoration) -> Result<(), RestoreError> {
    let random = restoration.entropy;
    if random.is_empty() || random.len() > entropy::LIMIT {
        return Err(RestoreError::Garbled(format!("entropy must have 1 to {} bytes", entropy::LIMIT)));
    }
    let garbled = |error: &dyn std::fmt::Display| RestoreError::Garbled(error.to_string());
    let nameservers = restoration.nameservers.iter().map(|address| address.parse::<IpAddr>()).collect::<Result<_, _>>();
    let identity = Identity::new(Some(restoration.hostname), nameservers.map_err(|error| garbled(&error))?)
        .map_err(|error| garbled(&error))?;
    let own_boot_id = Some(restoration.boot_id).filter(|id| !id.is_empty());
    if own_boot_id.as_deref().is_some_and(|id| !boot_id::is_valid(id)) {
        return Err(RestoreError::Garbled("the boot id must be a UUID".to_owned()));
    }
    if agent.role == Role::Init {
        entropy::reseed(&random).map_err(failed("mix in randomness"))?;
        identity::assume(&identity).map_err(failed("take on the name"))?;
        machine_id::assume(&restoration.sandbox_id).map_err(failed("take on the machine id"))?;
        own_boot_id.map_or(Ok(()), |id| boot_id::assume(&id)).map_err(failed("take on the boot id"))?;
    }
    agent.settings.apply(Update {
        timestamp: None,
        token: Some(restoration.access_token),
        envs: Some(restoration.env_vars.into_iter().collect()),
        default_user: Some(restoration.default_user),
        default_workdir: Some(restoration.default_workdir),
    });
    match agent.role {
        Role::Service => Ok(()),
        Role::Init => freeze::thaw().map_err(failed("let processes go on")),
    }
}
