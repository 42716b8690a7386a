//! Making a system right that was captured and goes on, perhaps elsewhere, later, and as somebody else: what time it is,
//! and all else that must be true before user code runs again. Then it runs.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use proto::direct::Restoration;
use rustix::time::{ClockId, Timespec, clock_settime};

use super::Agent;
use crate::Role;
use crate::init::identity::Identity;
use crate::init::marks::Marks;
use crate::init::persona::{Persona, PersonaError};
use crate::init::{boot_id, entropy, freeze, trust};
use crate::settings::Update;

const SECOND: u64 = 1_000_000_000;

/// Why the system is not right.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
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

impl From<PersonaError> for RestoreError {
    fn from(PersonaError { step, source }: PersonaError) -> Self {
        Self::System { step, source }
    }
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> RestoreError {
    move |source| RestoreError::System { step, source }
}

/// Unlike the clock of a system that runs, this one stood still: it is set, however far that is. A program that is not
/// PID 1 must not set the clock of the machine that it runs on.
pub fn set_clock(role: Role, unix_ns: u64) -> Result<(), RestoreError> {
    let garbled = || RestoreError::Garbled("no such time".to_owned());
    let seconds = i64::try_from(unix_ns / SECOND).map_err(|_| garbled())?;
    let nanoseconds = i64::try_from(unix_ns % SECOND).map_err(|_| garbled())?;
    match role {
        Role::Service => Ok(()),
        Role::Init => clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
            .map_err(|error| failed("set the clock")(error.into())),
    }
}

/// Everything but the time.
pub fn restore(agent: &Agent, restoration: Restoration) -> Result<(), RestoreError> {
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
    let envs: BTreeMap<_, _> = restoration.env_vars.into_iter().collect();
    let authority = Some(restoration.ca_bundle).filter(|pem| !pem.is_empty());
    let envs = if authority.is_some() { trust::environment(envs) } else { envs };
    if agent.role == Role::Init {
        entropy::reseed(&random).map_err(failed("mix in randomness"))?;
        agent.assumed.assume(Persona {
            identity,
            sandbox_id: Some(restoration.sandbox_id),
            marks: Marks::of(&envs),
        })?;
        authority.as_deref().map_or(Ok(()), trust::believe).map_err(failed("believe an authority"))?;
        own_boot_id.map_or(Ok(()), |id| boot_id::assume(&id)).map_err(failed("take on the boot id"))?;
    }
    agent.settings.apply(Update {
        timestamp: None,
        token: Some(restoration.access_token),
        envs: Some(envs),
        default_user: Some(restoration.default_user),
        default_workdir: Some(restoration.default_workdir),
    });
    match agent.role {
        Role::Service => Ok(()),
        Role::Init => freeze::thaw().map_err(failed("let processes go on")),
    }
}
