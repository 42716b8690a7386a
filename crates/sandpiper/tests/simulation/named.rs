//! Histories by name: the ways in which sandboxes of others were lost or stuck, and those in which ours were.

use std::time::Duration;

use crate::history::{Climate, Event, History, Span, Step};
use crate::world::Arm;

use Event as E;

/// A history and its name.
type Named = (&'static str, fn() -> History);

/// Every one.
pub const ALL: [Named; 15] = [
    ("stuck-in-pausing", stuck_in_pausing),
    ("undeletable-paused", undeletable_paused),
    ("renewed-as-it-expires", renewed_as_it_expires),
    ("lost-after-second-resume", lost_after_second_resume),
    ("running-but-not-on-its-host", running_but_not_on_its_host),
    ("dirty-after-restart", dirty_after_restart),
    ("deleted-while-it-is-made", deleted_while_it_is_made),
    ("two-resumes-at-once", two_resumes_at_once),
    ("pause-on-a-full-disk", pause_on_a_full_disk),
    ("stops-cut-in-the-middle", stops_cut_in_the_middle),
    ("disk-alone-of-a-fork", disk_alone_of_a_fork),
    ("stopped-as-it-is-resumed", stopped_as_it_is_resumed),
    ("records-away-at-the-answer", records_away_at_the_answer),
    ("fork-cut-in-the-middle", fork_cut_in_the_middle),
    // Found by seed 371: what was left of the hidden sandbox that an image is baked of stayed, because its network could
    // not be removed at once.
    ("busy-kernel", busy_kernel),
];

/// One second after another.
fn history(climate: Climate, events: &[Event]) -> History {
    let after = |milliseconds| Duration::from_millis(milliseconds);
    History { climate, steps: events.iter().map(|event| Step { after: after(1000), event: *event }).collect() }
}

fn fine(events: &[Event]) -> History {
    history(Climate::FINE, events)
}

fn stuck_in_pausing() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Write(0),
        E::EndControlPlane(Arm::At("answer.PauseSandbox")),
        E::Pause(0),
        E::Create(1, Span::Long),
        E::EndAgent(Arm::At("PauseUnpublished")),
        E::Pause(1),
    ])
}

fn undeletable_paused() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Pause(0),
        E::EndAgent(Arm::At("network.delete")),
        E::Delete(0),
        E::Cut(30),
        E::Delete(0),
        E::EndControlPlane(Arm::After(2)),
        E::Delete(0),
    ])
}

fn renewed_as_it_expires() -> History {
    let mut history = fine(&[E::Create(0, Span::Destroyed(60)), E::Create(1, Span::Paused(60))]);
    let wait = |seconds| Step { after: Duration::from_secs(seconds), event: E::Write(0) };
    let also = Step { after: Duration::ZERO, event: E::Write(1) };
    history.steps.extend([wait(58), also, wait(59), also, wait(60), also, wait(60), also, wait(60), also]);
    history
}

fn lost_after_second_resume() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Write(0),
        E::Pause(0),
        E::Resume(0),
        E::Write(0),
        E::Pause(0),
        E::Resume(0),
        E::Write(0),
        E::Pause(0),
        E::EndAgent(Arm::After(0)),
        E::Resume(0),
    ])
}

fn running_but_not_on_its_host() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Create(1, Span::Long),
        E::EndAgent(Arm::After(0)),
        E::Read(0),
        E::KillMonitor(0),
        E::StoreAway(40),
        E::KillMonitor(1),
    ])
}

fn dirty_after_restart() -> History {
    let cut = |point, event| [E::Write(0), E::EndAgent(Arm::At(point)), event];
    let mut events = vec![E::Create(0, Span::Long)];
    events.extend(cut("MemoryWritten", E::Pause(0)));
    let mut history = fine(&events);
    let steps =
        [cut("PausePublished", E::Pause(0)), cut("ResumeUnspent", E::Resume(0)), cut("ResumeSpent", E::Resume(0))];
    // Each time after the next host agent has begun.
    let later = |event| Step { after: Duration::from_secs(30), event };
    history.steps.extend(steps.into_iter().flatten().map(later));
    history
}

fn stops_cut_in_the_middle() -> History {
    let cut = |point, event| [E::Write(0), E::EndAgent(Arm::At(point)), event, E::Resume(0)];
    let mut history = fine(&[E::Create(0, Span::Long)]);
    let steps = [
        cut("StopUnpublished", E::Stop(0)).to_vec(),
        cut("StopPublished", E::Stop(0)).to_vec(),
        // The same of one that is paused.
        [&[E::Pause(0)], &cut("StopUnpublished", E::Stop(0))[1..]].concat(),
        [&[E::Pause(0)], &cut("StopPublished", E::Stop(0))[1..]].concat(),
        [&[E::Stop(0)], &cut("monitor.booted", E::Resume(0))[1..]].concat(),
        [&[E::Pause(0)], &cut("StopUnpublished", E::Restart(0))[1..]].concat(),
        [&[E::Pause(0)], &cut("monitor.booted", E::Restart(0))[1..]].concat(),
    ];
    let later = |event| Step { after: Duration::from_secs(30), event };
    history.steps.extend(steps.into_iter().flatten().map(later));
    history
}

fn disk_alone_of_a_fork() -> History {
    let mut history = fine(&[E::Create(0, Span::Long), E::Write(0), E::Fork(0, 1), E::Write(1), E::SnapshotDisk(1)]);
    let later = |event| Step { after: Duration::from_secs(30), event };
    let cut = [E::EndAgent(Arm::At("monitor.boot")), E::CreateFrom(2, 1)];
    history.steps.extend([E::Pause(1), E::SnapshotDisk(1), E::CreateFrom(2, 1), E::Write(2), E::Stop(2)].map(later));
    history.steps.extend([E::Resume(2), E::Delete(2), E::Delete(1)].map(later));
    history.steps.extend(cut.map(later));
    history
}

fn stopped_as_it_is_resumed() -> History {
    let mut history = fine(&[E::Create(0, Span::Long), E::Write(0), E::Pause(0)]);
    let at_once = |event| Step { after: Duration::ZERO, event };
    history.steps.extend([E::Resume(0), E::Stop(0), E::Restart(0), E::Pause(0), E::Restart(0)].map(at_once));
    history
}

fn deleted_while_it_is_made() -> History {
    let mut history = fine(&[E::Create(0, Span::Long)]);
    history.steps.extend(
        [5, 5, 20].map(|milliseconds| Step { after: Duration::from_millis(milliseconds), event: E::Delete(0) }),
    );
    history
}

fn two_resumes_at_once() -> History {
    let mut history = fine(&[E::Create(0, Span::Long), E::Write(0), E::Pause(0), E::Resume(0)]);
    let at_once = |event| Step { after: Duration::ZERO, event };
    history.steps.extend([E::Resume(0), E::Pause(0), E::Resume(0), E::Write(0), E::Snapshot(0)].map(at_once));
    history
}

fn pause_on_a_full_disk() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Write(0),
        E::DiskFull(5),
        E::Pause(0),
        E::Snapshot(0),
        E::Write(0),
        E::Create(1, Span::Long),
        E::Fork(0, 2),
        E::Write(0),
    ])
}

fn records_away_at_the_answer() -> History {
    let mut history = fine(&[E::Create(0, Span::Long), E::Pause(0)]);
    let at = |milliseconds, event| Step { after: Duration::from_millis(milliseconds), event };
    history.steps.extend([at(4, E::StoreAway(20)), at(1000, E::Delete(0)), at(30_000, E::Resume(0))]);
    history
}

fn fork_cut_in_the_middle() -> History {
    fine(&[
        E::Create(0, Span::Long),
        E::Write(0),
        E::EndAgent(Arm::At("SnapshotPublished")),
        E::Fork(0, 1),
        E::Write(0),
        E::EndControlPlane(Arm::At("answer.CreateSnapshot")),
        E::Fork(0, 2),
    ])
}

fn busy_kernel() -> History {
    let climate = Climate { busy: 700, ..Climate::FINE };
    history(climate, &[E::Create(0, Span::Long), E::Write(0), E::Pause(0), E::Create(1, Span::Long), E::Delete(1)])
}
