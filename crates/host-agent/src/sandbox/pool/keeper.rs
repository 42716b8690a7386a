//! What keeps the warm pool as it should be: makes what is lacking, one at a time and only while nobody waits for a
//! sandbox, and removes what is dead, outdated or too much.

use std::sync::Arc;
use std::time::Duration;

use model::{Lifetime, NetworkPolicy, OnExpiry, OwnerId, SandboxId, Shape, StartMode, TemplateName};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::admission::Meminfo;
use super::super::ledger::MONITOR_OVERHEAD_MB;
use super::super::parts::Parts;
use super::super::{CreateError, SandboxSpec};
use super::{Pool, PoolMode, Wish};
use crate::host::Host;
use crate::snapshot::BakeKey;

/// Between two looks where nothing happens.
const INTERVAL: Duration = Duration::from_secs(1);

/// Nothing is made until so long after the last create or resume: its caller's first command goes first.
const QUIET: Duration = Duration::from_millis(300);

/// After a failure nothing is made for so long.
const RETRY: Duration = Duration::from_secs(30);

/// In the automatic mode the pool has at most this part of the host's memory, and makes nothing where less than it would
/// stay available.
const PART_OF_MEMORY: u64 = 4;

/// Where less than this part of the host's memory is available the pool is given up, one by one.
const SHORT_OF_MEMORY: u64 = 10;

/// Keeps a host's pool until `stop`; then nothing is left of it.
pub(crate) async fn keep(host: Arc<Host>, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while host.pool.mode != PoolMode::Off && !stop.is_cancelled() {
        tidy(&host).await;
        // What is under way when the end comes hears of it and leaves nothing.
        if let Err(error) = fill(&host, &stop).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the warm pool was not filled");
            stop.run_until_cancelled(sleep(RETRY)).await;
        }
        stop.run_until_cancelled(ticks.tick()).await;
    }
    for member in host.pool.clear() {
        member.vanish().await;
    }
}

/// Removes what is of no use.
async fn tidy(host: &Host) {
    for member in host.pool.sort_out(|key, template, shape| has_image(host, key, template, shape)) {
        member.vanish().await;
    }
    if is_short(Meminfo::read()) {
        host.pool.give_one_up().await;
    }
}

/// Whether a create of this template and shape would come from this image now.
fn has_image(host: &Host, key: &BakeKey, template: &TemplateName, shape: &Shape) -> bool {
    let now = host.templates.get(template).map(|template| BakeKey::new(&template, shape, &host.vmm.platform()));
    now.is_ok_and(|now| now == *key) && host.bakes.has(key)
}

/// Makes what is lacking, as long as nothing else is to be done.
async fn fill(host: &Arc<Host>, stop: &CancellationToken) -> Result<(), CreateError> {
    while let Some(wish) = wish(host) {
        if stop.run_until_cancelled(quiet(&host.pool)).await.is_none() {
            return Ok(());
        }
        match make(host, &wish, stop).await {
            Ok(Some(member)) => {
                if let Some(unwanted) = host.pool.put(&wish.key, member) {
                    unwanted.vanish().await;
                }
            }
            Ok(None) | Err(CreateError::Deleted) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What to make next, if there is room for it.
fn wish(host: &Host) -> Option<Wish> {
    let (wish, kept_mb) = host.pool.lacks();
    wish.filter(|wish| has_room(host.pool.mode, Meminfo::read(), kept_mb, needs_mb(&wish.shape)))
}

pub(super) fn needs_mb(shape: &Shape) -> u64 {
    u64::from(shape.memory.get()) + MONITOR_OVERHEAD_MB
}

/// A kernel that does not say what it has gets no pool.
fn has_room(mode: PoolMode, memory: Meminfo, kept_mb: u64, wanted_mb: u64) -> bool {
    let (Some(total_mb), Some(available_mb)) = (memory.total_mb, memory.available_mb) else { return false };
    let part_mb = total_mb / PART_OF_MEMORY;
    let is_within_part = mode != PoolMode::Auto || kept_mb + wanted_mb <= part_mb;
    is_within_part && available_mb >= wanted_mb + part_mb
}

fn is_short(memory: Meminfo) -> bool {
    memory.total_mb.zip(memory.available_mb).is_some_and(|(total, available)| available < total / SHORT_OF_MEMORY)
}

/// Waits until no create or resume is under way or has just been.
async fn quiet(pool: &Pool) {
    let mut work = pool.work.subscribe();
    loop {
        let now = *work.borrow_and_update();
        let until = now.changed + QUIET;
        if now.under_way == 0 && Instant::now() >= until {
            return;
        }
        tokio::select! {
            _ = work.changed() => {}
            () = sleep_until(until), if now.under_way == 0 => {}
        }
    }
}

/// Makes one. None where its image is gone.
async fn make(host: &Arc<Host>, wish: &Wish, stop: &CancellationToken) -> Result<Option<Parts>, CreateError> {
    let begun = Instant::now();
    let template = host.templates.get(&wish.template)?;
    let spec = SandboxSpec {
        id: SandboxId::random(),
        owner: OwnerId::nobody(),
        template: wish.template.clone(),
        shape: wish.shape,
        lifetime: Lifetime::Never,
        on_expiry: OnExpiry::Destroy,
        snapshot: None,
        start: StartMode::Restore,
        network: NetworkPolicy::default(),
        env: Default::default(),
    };
    let mut member = Parts { share: Some(host.ledger.set_aside(&wish.shape)?), ..Parts::default() };
    match member.restore_for_pool(host, &spec, &template, &wish.key, stop).await {
        Ok(true) => {
            tracing::debug!(template = %wish.template, took = ?begun.elapsed(), "one more in the warm pool");
            Ok(Some(member))
        }
        Ok(false) => {
            member.vanish().await;
            Ok(None)
        }
        Err(error) => {
            member.vanish().await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_a_part_of_the_memory_and_leaves_some_available() {
        let memory = |available_mb| Meminfo { total_mb: Some(4000), available_mb: Some(available_mb) };
        let check = |mode, memory, kept_mb, expect| {
            assert_eq!(has_room(mode, memory, kept_mb, 500), expect, "{mode} {memory:?} {kept_mb}");
        };
        check(PoolMode::Auto, memory(4000), 0, true);
        check(PoolMode::Auto, memory(4000), 500, true);
        check(PoolMode::Auto, memory(4000), 501, false);
        check(PoolMode::Fixed(3), memory(4000), 501, true);
        check(PoolMode::Auto, memory(1500), 0, true);
        check(PoolMode::Auto, memory(1499), 0, false);
        check(PoolMode::Fixed(3), memory(1499), 0, false);
        check(PoolMode::Fixed(3), Meminfo::default(), 0, false);
        assert!(is_short(memory(399)) && !is_short(memory(400)) && !is_short(Meminfo::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_made_while_somebody_waits_or_has_just_been_served() {
        let pool = Pool::new(PoolMode::Auto);
        let begun = Instant::now();
        let work = async {
            let first = pool.begin_work();
            sleep(QUIET * 5).await;
            let second = pool.begin_work();
            drop(first);
            sleep(QUIET * 5).await;
            drop(second);
        };
        tokio::join!(quiet(&pool), work);
        assert!(begun.elapsed() >= QUIET * 11, "{:?}", begun.elapsed());
    }
}
