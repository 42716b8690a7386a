//! The one owner of `wait`: as PID 1 the agent inherits every orphan of the sandbox, and two waiters would take each
//! other's children. Hands the exit of a child to whoever started it and forgets the others. Knows nothing of what
//! the children were.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group, wait, waitid};
use tokio::sync::{Notify, oneshot};

use super::block_signals;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A handle to the table of children.
#[derive(Clone, Debug, Default)]
pub struct Reaper {
    table: Arc<Mutex<Table>>,
    /// Told whenever a child may have been made.
    made: Arc<Condvar>,
    /// Told whenever there is no child left at all.
    childless: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    /// Children that somebody waits for.
    awaited: HashMap<Pid, oneshot::Sender<Exit>>,
    /// Exits that came while a spawn was under way: one of them may be the child whose number is not known yet.
    unclaimed: HashMap<Pid, (u64, Exit)>,
    /// Spawns under way. While there is none, nothing is kept.
    spawning: usize,
    /// Counts spawns, so that a spawn never takes an exit that is older than itself (numbers are used again).
    clock: u64,
    /// Counts spawns that are over.
    spawned: u64,
}

/// A spawn that is under way.
#[derive(Debug)]
pub struct Spawning {
    reaper: Reaper,
    begun: u64,
}

impl Reaper {
    /// Reaps for ever, in a thread of its own.
    pub fn start(&self) -> io::Result<()> {
        let reaper = self.clone();
        let reap = move || {
            block_signals();
            loop {
                reaper.reap_next();
            }
        };
        std::thread::Builder::new().name("reaper".to_owned()).spawn(reap).map(drop)
    }

    /// Waits until there is something to reap. Who has no child has nobody who could leave it an orphan either, so where
    /// there is none the next one is waited for.
    fn reap_next(&self) {
        let spawned = self.lock().spawned;
        match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) | Err(Errno::INTR) => self.reap(),
            Err(_) => {
                self.childless.notify_waiters();
                let nothing_new = |table: &mut Table| table.spawned == spawned;
                drop(self.made.wait_while(self.lock(), nothing_new).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// To be called before a child is made.
    pub fn spawning(&self) -> Spawning {
        let mut table = self.lock();
        table.spawning += 1;
        table.clock += 1;
        Spawning { reaper: self.clone(), begun: table.clock }
    }

    /// Signals the process group of a child that is still ours to signal; false when it has been reaped.
    pub fn signal_group(&self, leader: Pid, signal: Signal) -> bool {
        // Under the lock, so that the number cannot be given to somebody else in between.
        let table = self.lock();
        table.awaited.contains_key(&leader) && kill_process_group(leader, signal).is_ok()
    }

    /// Waits until there is no child left.
    pub async fn childless(&self) {
        let none_left = self.childless.notified();
        self.reap();
        none_left.await;
    }

    /// Reaps what there is to reap. What has ended by now has been told afterwards.
    pub fn reap(&self) {
        let mut table = self.lock();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => table.ended(pid, exit(status)),
                Ok(None) => return,
                Err(Errno::INTR) => {}
                Err(_) => return self.childless.notify_waiters(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spawning {
    /// Where the exit of the child will arrive.
    pub fn started(self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.reaper.lock();
        match table.unclaimed.remove(&pid) {
            Some((when, exit)) if when >= self.begun => drop(sender.send(exit)),
            _ => drop(table.awaited.insert(pid, sender)),
        }
        drop(table);
        receiver
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        let mut table = self.reaper.lock();
        table.spawning -= 1;
        table.spawned += 1;
        self.reaper.made.notify_one();
        if table.spawning == 0 {
            table.unclaimed.clear();
        }
    }
}

impl Table {
    fn ended(&mut self, pid: Pid, exit: Exit) {
        match self.awaited.remove(&pid) {
            Some(waiting) => drop(waiting.send(exit)),
            None if self.spawning > 0 => drop(self.unclaimed.insert(pid, (self.clock, exit))),
            None => {}
        }
    }
}

fn exit(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn an_exit_before_its_number_is_known_is_kept() {
        let reaper = Reaper::default();
        let spawning = reaper.spawning();
        reaper.lock().ended(pid(70), Exit::Code(3));
        assert_eq!(spawning.started(pid(70)).try_recv(), Ok(Exit::Code(3)));
        assert!(reaper.lock().unclaimed.is_empty());
    }

    #[test]
    fn an_exit_from_before_the_spawn_is_another_process() {
        let reaper = Reaper::default();
        let slow = reaper.spawning();
        reaper.lock().ended(pid(70), Exit::Code(3));
        let mut later = reaper.spawning().started(pid(70));
        assert!(later.try_recv().is_err());
        reaper.lock().ended(pid(70), Exit::Signal(9));
        assert_eq!(later.try_recv(), Ok(Exit::Signal(9)));
        drop(slow);
    }

    #[test]
    fn orphans_are_forgotten() {
        let reaper = Reaper::default();
        reaper.lock().ended(pid(70), Exit::Code(0));
        assert!(reaper.lock().unclaimed.is_empty());
    }
}
