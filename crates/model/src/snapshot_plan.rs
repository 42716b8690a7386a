//! What brings the records of snapshots and a host's snapshots into agreement: the same as [`crate::plan`] for
//! sandboxes, with the same rules. Records are read before the host is asked.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::plan::is_older;
use crate::{Patience, SnapshotId, SnapshotKind, SnapshotStatus};

/// What a record says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its recorded state.
    pub status: SnapshotStatus,
    /// What it is there for.
    pub kind: SnapshotKind,
    /// When the record last changed, or a sandbox was last made from it.
    pub last_updated: Timestamp,
}

/// A snapshot that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// Since when it is known that it has no record; `None` where it has one.
    pub unclaimed_since: Option<Timestamp>,
}

/// One step towards agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotStep {
    /// It was captured and nobody recorded that.
    Complete {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Its host does not have it: remove the record, if it has not changed since it was read.
    Forget {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Nobody needs it any more: remove it from the host, then the record.
    Discard {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Remove from the host what has no record.
    Destroy {
        /// The snapshot.
        id: SnapshotId,
    },
}

/// The steps that bring the records of snapshots and what their host has into agreement.
pub fn plan_snapshots(
    recorded: &[RecordedSnapshot],
    held: &[HeldSnapshot],
    now: Timestamp,
    patience: &Patience,
) -> Vec<SnapshotStep> {
    let on_host: HashSet<_> = held.iter().map(|snapshot| &snapshot.id).collect();
    let settled = recorded.iter().filter_map(|record| settle(record, on_host.contains(&record.id), now, patience));
    let is_orphan =
        |snapshot: &&HeldSnapshot| snapshot.unclaimed_since.is_some_and(|since| is_older(since, patience.orphan, now));
    let orphans = held.iter().filter(is_orphan).map(|snapshot| SnapshotStep::Destroy { id: snapshot.id.clone() });
    settled.chain(orphans).collect()
}

fn settle(record: &RecordedSnapshot, is_held: bool, now: Timestamp, patience: &Patience) -> Option<SnapshotStep> {
    let id = record.id.clone();
    let is_abandoned = record.last_updated < patience.started || is_older(record.last_updated, patience.transient, now);
    match (record.kind, record.status) {
        (SnapshotKind::Named, SnapshotStatus::Ready) => (!is_held).then_some(SnapshotStep::Forget { id }),
        _ if !is_abandoned => None,
        (SnapshotKind::Named, SnapshotStatus::Pending) if is_held => Some(SnapshotStep::Complete { id }),
        (_, SnapshotStatus::Pending) if !is_held => Some(SnapshotStep::Forget { id }),
        _ => Some(SnapshotStep::Discard { id }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

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

    fn name(id: u8) -> SnapshotId {
        format!("sn{id}").parse().unwrap()
    }

    fn number(id: &SnapshotId) -> u8 {
        id.as_str()[2..].parse().unwrap()
    }

    /// What a control plane that started at 100 does at 200 about a record of that age.
    fn planned(kind: SnapshotKind, status: SnapshotStatus, last_updated: i64, is_held: bool) -> &'static str {
        let record = RecordedSnapshot { id: name(1), status, kind, last_updated: at(last_updated) };
        let held = is_held.then(|| HeldSnapshot { id: name(1), unclaimed_since: None });
        let patience = Patience { started: at(100), ..PATIENCE };
        match plan_snapshots(&[record], held.as_slice(), at(200), &patience).as_slice() {
            [] => "nothing",
            [SnapshotStep::Complete { .. }] => "complete",
            [SnapshotStep::Forget { .. }] => "forget",
            [SnapshotStep::Discard { .. }] => "discard",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn leftovers_of_an_earlier_process_become_what_the_host_has() {
        use SnapshotKind::{Fork, Named};
        use SnapshotStatus::{Deleting, Pending, Ready};
        for (kind, status, is_held, expected) in [
            (Named, Pending, true, "complete"),
            (Named, Pending, false, "forget"),
            (Named, Ready, true, "nothing"),
            (Named, Ready, false, "forget"),
            (Named, Deleting, true, "discard"),
            (Named, Deleting, false, "discard"),
            (Fork, Pending, true, "discard"),
            (Fork, Pending, false, "forget"),
            (Fork, Ready, true, "discard"),
            (Fork, Ready, false, "discard"),
            (Fork, Deleting, true, "discard"),
        ] {
            assert_eq!(planned(kind, status, 50, is_held), expected, "{kind} {status} {is_held}");
        }
    }

    #[test]
    fn work_under_way_is_left_alone_until_it_takes_too_long() {
        for kind in SnapshotKind::ALL {
            for status in SnapshotStatus::ALL {
                for is_held in [true, false] {
                    let settled = (*kind, *status) == (SnapshotKind::Named, SnapshotStatus::Ready);
                    if !settled {
                        assert_eq!(planned(*kind, *status, 100, is_held), "nothing", "{kind} {status} {is_held}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_no_record_is_removed_after_a_grace_time() {
        let orphan = |since: Option<i64>| {
            let held = HeldSnapshot { id: name(2), unclaimed_since: since.map(at) };
            plan_snapshots(&[], &[held], at(1000), &PATIENCE)
        };
        assert_eq!(orphan(None), []);
        assert_eq!(orphan(Some(941)), []);
        assert_eq!(orphan(Some(940)), [SnapshotStep::Destroy { id: name(2) }]);
    }

    /// Four snapshots, one host and a control plane, in which anything may happen between any two steps of a pass.
    #[derive(Debug, Default)]
    struct World {
        now: i64,
        rows: HashMap<u8, (SnapshotKind, SnapshotStatus, i64)>,
        host: HashMap<u8, ()>,
        unclaimed: HashMap<u8, i64>,
        /// No id is used twice.
        used: HashSet<u8>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Happening {
        Begin(SnapshotKind),
        Capture,
        RecordReady,
        Condemn,
        RemoveFromHost,
        ForgetRow,
        Wait(u16),
    }

    impl World {
        fn happen(&mut self, id: u8, what: Happening) {
            use SnapshotStatus as S;
            let row = self.rows.get(&id).copied();
            match (what, row) {
                (Happening::Begin(kind), None) if self.used.insert(id) => {
                    self.rows.insert(id, (kind, S::Pending, self.now));
                }
                // A capture ends within its deadline.
                (Happening::Capture, Some((_, S::Pending, since))) if self.now - since < 180 => {
                    self.host.insert(id, ());
                }
                (Happening::RecordReady, Some((kind, S::Pending, _))) if self.host.contains_key(&id) => {
                    self.rows.insert(id, (kind, S::Ready, self.now));
                }
                (Happening::Condemn, Some((kind, _, _))) => {
                    self.rows.insert(id, (kind, S::Deleting, self.now));
                }
                (Happening::RemoveFromHost, Some((_, S::Deleting, _))) => {
                    self.host.remove(&id);
                }
                (Happening::ForgetRow, Some((_, S::Deleting, _))) if !self.host.contains_key(&id) => {
                    self.rows.remove(&id);
                }
                (Happening::Wait(seconds), _) => self.now += i64::from(seconds),
                _ => {}
            }
        }

        fn pass(&mut self, between: &[(u8, Happening)], after: &[(u8, Happening)]) -> usize {
            let (began, read) = (self.now, self.rows.clone());
            between.iter().for_each(|(id, what)| self.happen(*id, *what));
            let mut unclaimed = HashMap::new();
            let held = self.host.keys().map(|id| {
                let is_claimed = read.contains_key(id) || self.rows.contains_key(id);
                let since = (!is_claimed).then(|| *self.unclaimed.get(id).unwrap_or(&self.now));
                unclaimed.extend(since.map(|since| (*id, since)));
                HeldSnapshot { id: name(*id), unclaimed_since: since.map(at) }
            });
            let held: Vec<_> = held.collect();
            self.unclaimed = unclaimed;
            after.iter().for_each(|(id, what)| self.happen(*id, *what));
            let recorded = read.iter().map(|(id, (kind, status, last))| RecordedSnapshot {
                id: name(*id),
                status: *status,
                kind: *kind,
                last_updated: at(*last),
            });
            let steps = plan_snapshots(&recorded.collect::<Vec<_>>(), &held, at(began), &PATIENCE);
            let count = steps.len();
            steps.into_iter().for_each(|step| self.execute(step, &read));
            count
        }

        fn execute(&mut self, step: SnapshotStep, read: &HashMap<u8, (SnapshotKind, SnapshotStatus, i64)>) {
            let unchanged =
                |world: &Self, id: u8| world.rows.get(&id).map(|row| row.1) == read.get(&id).map(|row| row.1);
            match step {
                SnapshotStep::Complete { id } if unchanged(self, number(&id)) => {
                    let row = self.rows.get_mut(&number(&id)).unwrap();
                    *row = (row.0, SnapshotStatus::Ready, self.now);
                }
                SnapshotStep::Forget { id } if unchanged(self, number(&id)) => {
                    let held = self.host.contains_key(&number(&id));
                    assert!(!held, "{id} is there: {self:?}");
                    self.rows.remove(&number(&id));
                }
                SnapshotStep::Discard { id } if unchanged(self, number(&id)) => {
                    let row = self.rows[&number(&id)];
                    let wanted = row.0 == SnapshotKind::Named && row.1 == SnapshotStatus::Ready;
                    assert!(!wanted, "{id} is wanted: {self:?}");
                    self.host.remove(&number(&id));
                    self.rows.remove(&number(&id));
                }
                SnapshotStep::Destroy { id } => {
                    let id = number(&id);
                    assert!(!self.rows.contains_key(&id), "{id} is wanted: {self:?}");
                    self.host.remove(&id);
                }
                _ => {}
            }
        }
    }

    fn happenings() -> impl Strategy<Value = Vec<(u8, Happening)>> {
        use Happening as H;
        let what = prop_oneof![
            3 => Just(H::Begin(SnapshotKind::Named)),
            2 => Just(H::Begin(SnapshotKind::Fork)),
            4 => Just(H::Capture),
            3 => Just(H::RecordReady),
            1 => Just(H::Condemn),
            1 => Just(H::RemoveFromHost),
            1 => Just(H::ForgetRow),
            2 => (0_u16..400).prop_map(H::Wait),
        ];
        proptest::collection::vec((0_u8..4, what), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever happened, and whenever: what is ready and named is never removed, and once nothing happens any more
        /// records and host soon agree, nothing hidden is left and a pass has nothing to do.
        #[test]
        fn random_histories_converge_and_nothing_wanted_is_removed(
            history in proptest::collection::vec((happenings(), happenings(), happenings()), 1..8),
        ) {
            let mut world = World { now: 1000, ..World::default() };
            for (before, between, after) in &history {
                before.iter().for_each(|(id, what)| world.happen(*id, *what));
                world.pass(between, after);
            }
            for _ in 0..4 {
                world.now += 301;
                world.pass(&[], &[]);
            }
            prop_assert_eq!(world.pass(&[], &[]), 0, "{:?}", &world);
            let settled = (SnapshotKind::Named, SnapshotStatus::Ready);
            prop_assert!(world.rows.values().all(|row| (row.0, row.1) == settled), "{:?}", &world);
            let rows: HashSet<_> = world.rows.keys().collect();
            prop_assert_eq!(rows, world.host.keys().collect(), "{:?}", &world);
        }
    }
}
