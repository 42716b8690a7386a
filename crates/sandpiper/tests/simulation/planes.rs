//! Control planes on the same records, one after another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control_plane::{Passage, Records, SimulatedControlPlane, Way};

use crate::bugs::Bug;
use crate::rpc::{Callee, line};
use crate::world::{Life, Program, World};

/// Between two comparisons of records and host.
pub const PERIOD: Duration = Duration::from_secs(30);

/// How long nobody starts a control plane that has ended, at most.
const DOWN_MS: u64 = 10_000;

/// The control plane that can be asked now, if one can.
pub type Asked = Arc<Mutex<Option<(Life, SimulatedControlPlane)>>>;

struct ToRecords {
    world: World,
    life: Life,
}

impl ToRecords {
    fn passage(&self, point: &str, is_broken: bool) -> Passage {
        match self.world.pass(&self.life, point) {
            false => Passage::Never,
            true if is_broken => Passage::Broken,
            true => Passage::Open,
        }
    }
}

impl Way for ToRecords {
    fn there(&self) -> Passage {
        let is_away = self.world.state().weather.is_store_away;
        self.passage("records.asked", is_away)
    }

    fn back(&self) -> Passage {
        let is_away = self.world.state().weather.is_store_away;
        self.passage("records.answered", is_away)
    }
}

/// Lets control planes live, one after another.
pub async fn keep_alive(world: World, records: Records, callee: Callee, asked: Asked) {
    for number in 1.. {
        let life = Life::new(Program::ControlPlane, number);
        let way = Arc::new(ToRecords { world: world.clone(), life: life.clone() });
        let calls = line(world.clone(), life.clone(), callee.clone());
        let every = if world.has(Bug::NoReconciler) { Duration::from_secs(1 << 30) } else { PERIOD };
        tokio::select! {
            control_plane = SimulatedControlPlane::start(&records, way, calls, every) => {
                world.note(format_args!("control plane {number} begins"));
                *asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((life.clone(), control_plane));
                life.over.cancelled().await;
            }
            () = life.over.cancelled() => {}
        }
        let down = Duration::from_millis(world.below(DOWN_MS));
        tokio::time::sleep(down).await;
    }
}
