//! What brings records and a host into agreement: the pure heart of the reconciler.
//!
//! [`plan`] looks at what one host should have, at what it has, and at the clock, and names steps. It has no memory
//! and executes nothing. Whoever calls it reads the records **before** it asks the host: then a sandbox that is made
//! in between is on the host without a record in hand, which alone is never a reason to destroy it. The time that it
//! passes is that before it read anything: what it saw is no older.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::{Lifetime, SandboxId, Status};

/// What a record says that its host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The sandbox.
    pub id: SandboxId,
    /// Its recorded state.
    pub status: Status,
    /// When the record last changed.
    pub last_updated: Timestamp,
    /// Whether somebody may work on what it says is under way.
    pub work: Work,
    /// When the sandbox was last used, as far as it is recorded.
    pub last_active: Option<Timestamp>,
    /// How long its host lets it live.
    pub lifetime: Lifetime,
}

/// What is known of whoever changed a record last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// As far as anybody knows it goes on.
    MayGoOn,
    /// They are not there.
    Abandoned,
    /// They do not know how it ended, and say that it is nobody's any more.
    LetGo,
}

/// A sandbox that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnHost {
    /// The sandbox.
    pub id: SandboxId,
    /// Its state there.
    pub status: Status,
    /// Since when it is known that no record wants it; `None` where one does, or where nobody has looked yet.
    pub unclaimed_since: Option<Timestamp>,
}

/// What was heard of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// All that it has.
    Sandboxes(Vec<OnHost>),
    /// Nothing since then.
    SilentSince(Timestamp),
}

/// How patient [`plan`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// When this control plane started: transient records that are older have nobody who works on them any more.
    pub started: Timestamp,
    /// A transient record that has not changed for this long has been given up.
    pub transient: Duration,
    /// The same where whoever changed it is not there: they may be about to come back.
    pub abandoned: Duration,
    /// How long a host keeps a sandbox that no record wants.
    pub orphan: Duration,
    /// How long a host may be silent before its sandboxes are missing.
    pub silence: Duration,
}

/// One step towards agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Record this status, if the record has not changed since it was read.
    Record {
        /// The sandbox.
        id: SandboxId,
        /// Its new state.
        status: Status,
        /// Why; empty where there is nothing to say.
        reason: String,
    },
    /// Record that the machine was restarted under it: it is stopped, and its disk is kept. If the record has not changed
    /// since it was read.
    KeepDisk {
        /// The sandbox.
        id: SandboxId,
    },
    /// Complete a delete that was cut short.
    Delete {
        /// The sandbox.
        id: SandboxId,
    },
    /// Remove from the host what no record wants.
    Destroy {
        /// The sandbox.
        id: SandboxId,
    },
}

/// The steps that bring `desired` and `observed` into agreement. None when they agree.
pub fn plan(desired: &[Desired], observed: &Observed, now: Timestamp, patience: &Patience) -> Vec<Step> {
    match observed {
        Observed::SilentSince(since) if is_older(*since, patience.silence, now) => {
            desired.iter().filter_map(miss).collect()
        }
        Observed::SilentSince(_) => Vec::new(),
        Observed::Sandboxes(on_host) => {
            let by_id: HashMap<_, _> = on_host.iter().map(|sandbox| (&sandbox.id, sandbox.status)).collect();
            let settled =
                desired.iter().filter_map(|record| settle(record, by_id.get(&record.id).copied(), now, patience));
            let is_orphan =
                |sandbox: &&OnHost| sandbox.unclaimed_since.is_some_and(|since| is_older(since, patience.orphan, now));
            let orphans = on_host.iter().filter(is_orphan);
            settled.chain(orphans.map(|sandbox| Step::Destroy { id: sandbox.id.clone() })).collect()
        }
    }
}

/// A silent host changes nothing but this. What is on its way is settled when it speaks again.
fn miss(record: &Desired) -> Option<Step> {
    matches!(record.status, Status::Running | Status::Paused)
        .then(|| to(record, Status::Missing, "its host does not answer"))
}

fn settle(record: &Desired, on_host: Option<Status>, now: Timestamp, patience: &Patience) -> Option<Step> {
    let is_transient = match record.status {
        Status::Running | Status::Paused | Status::Missing => false,
        Status::Pending | Status::Pausing | Status::Resuming | Status::Snapshotting | Status::Stopping => true,
        // Its disk was kept, or it would not be here.
        Status::Stopped => return on_host.is_none().then(|| to(record, Status::Stopped, "its disk is gone")),
        // Nothing comes back from this.
        Status::Error => return None,
    };
    let is_abandoned = record.work == Work::Abandoned && is_older(record.last_updated, patience.abandoned, now);
    let is_leftover = record.last_updated < patience.started || is_abandoned || record.work == Work::LetGo;
    if is_transient && !is_leftover && !is_older(record.last_updated, patience.transient, now) {
        return None;
    }
    match (record.status, on_host) {
        (Status::Stopping, _) => Some(Step::Delete { id: record.id.clone() }),
        (Status::Pending, None) if is_leftover => {
            Some(to(record, Status::Error, "the control plane was restarted while the sandbox was being created"))
        }
        (Status::Pending, None) => Some(to(record, Status::Error, "its creation was given up")),
        (_, Some(Status::Stopped)) => Some(Step::KeepDisk { id: record.id.clone() }),
        (_, None) => Some(to(record, Status::Stopped, &farewell(record, now))),
        (_, Some(Status::Error)) => Some(to(record, Status::Error, "its virtual machine failed")),
        (Status::Running, Some(Status::Paused)) => {
            Some(to(record, Status::Paused, &expiry(record, now).unwrap_or_default()))
        }
        (was, Some(is @ (Status::Running | Status::Paused))) if was != is => Some(to(record, is, "")),
        _ => None,
    }
}

fn to(record: &Desired, status: Status, reason: &str) -> Step {
    Step::Record { id: record.id.clone(), status, reason: reason.to_owned() }
}

/// Why a sandbox is gone, as far as its record tells.
fn farewell(record: &Desired, now: Timestamp) -> String {
    expiry(record, now).unwrap_or_else(|| "it is no longer on its host".to_owned())
}

/// How the reason begins why a sandbox whose time is over does not run.
const EXPIRED: &str = "it expired";

/// Whether a sandbox does not run because its time is over.
pub fn is_expiry(reason: &str) -> bool {
    reason.starts_with(EXPIRED)
}

/// The reason, if its time is over.
fn expiry(record: &Desired, now: Timestamp) -> Option<String> {
    match (record.lifetime, record.last_active) {
        (Lifetime::Idle(idle), Some(last)) if is_older(last, idle, now) => {
            Some(format!("{EXPIRED} after {} s without activity", idle.as_secs()))
        }
        _ => None,
    }
}

pub(crate) fn is_older(then: Timestamp, than: Duration, now: Timestamp) -> bool {
    // A clock that was set back makes nothing old.
    now.duration_since(then).unsigned_abs() >= than && now >= then
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Patience = Patience {
        started: Timestamp::UNIX_EPOCH,
        transient: Duration::from_secs(300),
        abandoned: Duration::from_secs(60),
        orphan: Duration::from_secs(60),
        silence: Duration::from_secs(90),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn record(status: Status, last_updated: i64) -> Desired {
        let last_updated = at(last_updated);
        let lifetime = Lifetime::Idle(Duration::from_secs(300));
        let work = Work::MayGoOn;
        Desired { id: "sb1".parse().unwrap(), status, last_updated, work, last_active: Some(last_updated), lifetime }
    }

    fn on_host(status: Option<Status>) -> Observed {
        let one = |status| OnHost { id: "sb1".parse().unwrap(), status, unclaimed_since: None };
        Observed::Sandboxes(status.map(one).into_iter().collect())
    }

    /// What a control plane that started at 100 does at 200 about a record of that age.
    fn planned(status: Status, last_updated: i64, host: &str) -> &'static str {
        let host = (!host.is_empty()).then(|| host.parse().unwrap());
        let patience = Patience { started: at(100), ..PATIENCE };
        match plan(&[record(status, last_updated)], &on_host(host), at(200), &patience).as_slice() {
            [] => "nothing",
            [Step::Delete { .. }] => "delete",
            [Step::KeepDisk { .. }] => "keep",
            [Step::Record { status, .. }] => status.as_str(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn leftovers_of_an_earlier_process_become_what_the_host_says() {
        for (status, host, expected) in [
            (Status::Pending, "", "error"),
            (Status::Pending, "running", "running"),
            (Status::Pending, "pending", "nothing"),
            (Status::Pending, "stopped", "keep"),
            (Status::Pausing, "", "stopped"),
            (Status::Pausing, "paused", "paused"),
            (Status::Pausing, "running", "running"),
            (Status::Pausing, "pausing", "nothing"),
            (Status::Resuming, "paused", "paused"),
            (Status::Resuming, "running", "running"),
            (Status::Resuming, "error", "error"),
            (Status::Snapshotting, "", "stopped"),
            (Status::Snapshotting, "running", "running"),
            (Status::Snapshotting, "paused", "paused"),
            (Status::Snapshotting, "snapshotting", "nothing"),
            (Status::Snapshotting, "error", "error"),
            (Status::Stopping, "", "delete"),
            (Status::Stopping, "running", "delete"),
        ] {
            assert_eq!(planned(status, 50, host), expected, "{status}, host {host:?}");
        }
    }

    #[test]
    fn work_under_way_is_left_alone_until_it_takes_too_long() {
        for status in [Status::Pending, Status::Pausing, Status::Resuming, Status::Stopping, Status::Snapshotting] {
            for host in ["", "running", "paused", "error"] {
                assert_eq!(planned(status, 100, host), "nothing", "{status}, host {host:?}");
            }
            let given_up = plan(&[record(status, 0)], &on_host(None), at(300), &PATIENCE);
            assert_eq!(given_up.len(), 1, "{status}");
        }
    }

    #[test]
    fn work_that_nobody_is_there_to_do_is_left_alone_only_for_as_long_as_they_may_come_back() {
        for status in [Status::Pending, Status::Pausing, Status::Resuming, Status::Stopping, Status::Snapshotting] {
            let record = Desired { work: Work::Abandoned, ..record(status, 0) };
            for (now, steps) in [(59, 0), (60, 1)] {
                let planned = plan(std::slice::from_ref(&record), &on_host(None), at(now), &PATIENCE);
                assert_eq!(planned.len(), steps, "{status} at {now}");
            }
        }
    }

    #[test]
    fn work_that_nobody_has_any_more_is_settled_at_once_and_only_when_the_host_has_settled_it() {
        for (status, host, steps) in [
            (Status::Resuming, Some(Status::Running), 1),
            (Status::Resuming, Some(Status::Resuming), 0),
            (Status::Resuming, None, 1),
            (Status::Pausing, Some(Status::Running), 1),
            (Status::Pausing, Some(Status::Pausing), 0),
        ] {
            let record = Desired { work: Work::LetGo, ..record(status, 100) };
            assert_eq!(plan(&[record], &on_host(host), at(100), &PATIENCE).len(), steps, "{status}, host {host:?}");
        }
    }

    #[test]
    fn settled_records_follow_the_host_at_any_age() {
        for last_updated in [50, 150] {
            for (status, host, expected) in [
                (Status::Running, "running", "nothing"),
                (Status::Running, "pausing", "nothing"),
                (Status::Running, "stopping", "nothing"),
                (Status::Running, "paused", "paused"),
                (Status::Running, "", "stopped"),
                (Status::Running, "error", "error"),
                (Status::Running, "stopped", "keep"),
                (Status::Missing, "stopped", "keep"),
                (Status::Stopped, "stopped", "nothing"),
                (Status::Stopped, "", "stopped"),
                (Status::Paused, "running", "running"),
                (Status::Missing, "running", "running"),
                (Status::Missing, "paused", "paused"),
                (Status::Missing, "", "stopped"),
            ] {
                assert_eq!(planned(status, last_updated, host), expected, "{status}, host {host:?}");
            }
        }
    }

    #[test]
    fn a_sandbox_that_outlived_its_time_expired_and_another_one_is_gone() {
        for (now, reason) in [(299, "it is no longer on its host"), (300, "it expired after 300 s without activity")] {
            let steps = plan(&[record(Status::Running, 0)], &on_host(None), at(now), &PATIENCE);
            assert_eq!(steps, [to(&record(Status::Running, 0), Status::Stopped, reason)]);
            assert_eq!(is_expiry(reason), now == 300);
        }
    }

    #[test]
    fn a_sandbox_that_its_host_has_paused_because_its_time_was_over_says_so() {
        for (now, reason) in [(299, ""), (300, "it expired after 300 s without activity")] {
            let steps = plan(&[record(Status::Running, 0)], &on_host(Some(Status::Paused)), at(now), &PATIENCE);
            assert_eq!(steps, [to(&record(Status::Running, 0), Status::Paused, reason)]);
        }
    }

    #[test]
    fn only_settled_sandboxes_of_a_host_that_is_silent_for_long_are_missing() {
        let records = Status::ALL.map(|status| record(status, 0));
        assert_eq!(plan(&records, &Observed::SilentSince(at(1000)), at(1089), &PATIENCE), []);
        let steps = plan(&records, &Observed::SilentSince(at(1000)), at(1090), &PATIENCE);
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert!(steps.iter().all(|step| matches!(step, Step::Record { status: Status::Missing, .. })));
    }

    #[test]
    fn what_no_record_wants_is_destroyed_after_a_grace_time() {
        let orphan = |since: Option<i64>| {
            let sandbox =
                OnHost { id: "sb2".parse().unwrap(), status: Status::Running, unclaimed_since: since.map(at) };
            plan(&[], &Observed::Sandboxes(vec![sandbox]), at(1000), &PATIENCE)
        };
        assert_eq!(orphan(None), []);
        assert_eq!(orphan(Some(941)), []);
        assert_eq!(orphan(Some(2000)), [], "a clock that was set back");
        assert_eq!(orphan(Some(940)), [Step::Destroy { id: "sb2".parse().unwrap() }]);
    }

    /// A world of four sandboxes, one host and a control plane, in which anything may happen between any two steps of
    /// a pass.
    #[derive(Debug, Default)]
    struct World {
        now: i64,
        rows: HashMap<u8, (Status, i64, u32)>,
        host: HashMap<u8, Status>,
        unclaimed: HashMap<u8, i64>,
        silent_since: Option<i64>,
        /// Those that the user made and nobody ended.
        alive: HashMap<u8, ()>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Happening {
        InsertRow,
        BootOnHost,
        RecordRunning,
        PauseOnHost,
        RequestSnapshot,
        RecordCaptured,
        Crash,
        Expire,
        MarkStopping,
        HostFalls,
        HostReturns,
        Wait(u16),
    }

    fn name(id: u8) -> SandboxId {
        format!("sb{id}").parse().unwrap()
    }

    fn number(id: &SandboxId) -> u8 {
        id.as_str()[2..].parse().unwrap()
    }

    impl World {
        fn set(&mut self, id: u8, status: Status) {
            let generation = self.rows.get(&id).map_or(0, |row| row.2 + 1);
            self.rows.insert(id, (status, self.now, generation));
        }

        fn row(&self, id: u8) -> Option<Status> {
            self.rows.get(&id).map(|row| row.0)
        }

        fn happen(&mut self, id: u8, what: Happening) {
            let (row, host) = (self.row(id), self.host.get(&id).copied());
            match (what, row, host) {
                (Happening::InsertRow, None, None) => self.set(id, Status::Pending),
                // Creating reaches the host only while it answers, and within its deadline.
                (Happening::BootOnHost, Some(Status::Pending), None)
                    if self.silent_since.is_none() && self.now - self.rows[&id].1 < 180 =>
                {
                    self.host.insert(id, Status::Running);
                    self.alive.insert(id, ());
                }
                (Happening::RecordRunning, Some(Status::Pending), Some(Status::Running)) => {
                    self.set(id, Status::Running)
                }
                (Happening::PauseOnHost, _, Some(Status::Running)) => drop(self.host.insert(id, Status::Paused)),
                (Happening::RequestSnapshot, Some(Status::Running), _) => self.set(id, Status::Snapshotting),
                (Happening::RecordCaptured, Some(Status::Snapshotting), _) => self.set(id, Status::Running),
                (Happening::Crash, _, Some(_)) => {
                    self.host.insert(id, Status::Error);
                    self.alive.remove(&id);
                }
                (Happening::Expire, _, Some(_)) => {
                    self.host.remove(&id);
                    self.alive.remove(&id);
                }
                (Happening::MarkStopping, Some(status), _) if status != Status::Stopped => {
                    self.set(id, Status::Stopping);
                    self.alive.remove(&id);
                }
                (Happening::HostFalls, ..) => drop(self.silent_since.get_or_insert(self.now)),
                (Happening::HostReturns, ..) => self.silent_since = None,
                (Happening::Wait(seconds), ..) => self.now += i64::from(seconds),
                _ => {}
            }
        }

        /// One pass, with happenings after the records were read and after the host was asked.
        fn pass(&mut self, between: &[(u8, Happening)], after: &[(u8, Happening)]) -> usize {
            let (began, read) = (self.now, self.rows.clone());
            between.iter().for_each(|(id, what)| self.happen(*id, *what));
            let observed = match self.silent_since {
                Some(since) => Observed::SilentSince(at(since)),
                None => Observed::Sandboxes(self.ask(&read)),
            };
            after.iter().for_each(|(id, what)| self.happen(*id, *what));
            let is_open = |status| !matches!(status, Status::Stopped | Status::Error);
            let desired = read.iter().filter(|(_, row)| is_open(row.0));
            let desired: Vec<_> = desired.map(|(id, row)| Desired { id: name(*id), ..record(row.0, row.1) }).collect();
            let steps = plan(&desired, &observed, at(began), &PATIENCE);
            let count = steps.len();
            steps.into_iter().for_each(|step| self.execute(step, &read));
            count
        }

        fn ask(&mut self, read: &HashMap<u8, (Status, i64, u32)>) -> Vec<OnHost> {
            let wanted = |row: Option<Status>| row.is_some_and(|row| !matches!(row, Status::Stopped | Status::Error));
            let mut unclaimed = HashMap::new();
            let list = self.host.iter().map(|(id, status)| {
                let is_wanted = wanted(read.get(id).map(|row| row.0)) || wanted(self.row(*id));
                let since = (!is_wanted).then(|| *self.unclaimed.get(id).unwrap_or(&self.now));
                unclaimed.extend(since.map(|since| (*id, since)));
                OnHost { id: name(*id), status: *status, unclaimed_since: since.map(at) }
            });
            let list = list.collect();
            self.unclaimed = unclaimed;
            list
        }

        fn execute(&mut self, step: Step, read: &HashMap<u8, (Status, i64, u32)>) {
            match step {
                Step::Record { id, status, .. } => {
                    let id = number(&id);
                    if self.rows[&id].2 == read[&id].2 {
                        assert!(status != Status::Stopped || !self.alive.contains_key(&id), "{id} is alive: {self:?}");
                        self.set(id, status);
                    }
                }
                Step::KeepDisk { id } => panic!("no machine was restarted: {id}"),
                Step::Delete { id } if self.silent_since.is_none() => {
                    self.host.remove(&number(&id));
                    self.set(number(&id), Status::Stopped);
                }
                Step::Delete { .. } => {}
                Step::Destroy { id } => {
                    let id = number(&id);
                    let may = matches!(self.row(id), None | Some(Status::Stopping | Status::Stopped | Status::Error));
                    assert!(may, "{id} is wanted: {self:?}");
                    self.host.remove(&id);
                    self.alive.remove(&id);
                }
            }
        }
    }

    fn happening() -> impl Strategy<Value = (u8, Happening)> {
        use Happening as H;
        let what = prop_oneof![
            3 => Just(H::InsertRow),
            3 => Just(H::BootOnHost),
            3 => Just(H::RecordRunning),
            1 => Just(H::PauseOnHost),
            1 => Just(H::RequestSnapshot),
            1 => Just(H::RecordCaptured),
            1 => Just(H::Crash),
            1 => Just(H::Expire),
            1 => Just(H::MarkStopping),
            1 => Just(H::HostFalls),
            2 => Just(H::HostReturns),
            2 => (0_u16..400).prop_map(H::Wait),
        ];
        (0_u8..4, what)
    }

    fn happenings() -> impl Strategy<Value = Vec<(u8, Happening)>> {
        proptest::collection::vec(happening(), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever happened, and whenever: what is alive and wanted is never ended, and once nothing happens any more
        /// records and host soon agree and a pass has nothing to do.
        #[test]
        fn random_histories_converge_and_nothing_alive_is_ended(
            history in proptest::collection::vec((happenings(), happenings(), happenings()), 1..8),
        ) {
            let mut world = World { now: 1000, ..World::default() };
            for (before, between, after) in &history {
                before.iter().for_each(|(id, what)| world.happen(*id, *what));
                world.pass(between, after);
            }
            world.silent_since = None;
            for _ in 0..4 {
                world.now += 301;
                world.pass(&[], &[]);
            }
            prop_assert_eq!(world.pass(&[], &[]), 0, "{:?}", &world);
            let wanted = world.rows.iter().filter(|(_, row)| matches!(row.0, Status::Running | Status::Paused));
            let wanted: HashMap<_, _> = wanted.map(|(id, row)| (*id, row.0)).collect();
            prop_assert_eq!(&wanted, &world.host, "{:?}", &world);
        }
    }
}
