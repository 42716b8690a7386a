//! The machine of the simulated host, and the host agents that live on it one after another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{fs, io};

use host_agent::cgroup::Cgroups;
use host_agent::net::TrafficLimits;
use host_agent::sandbox::{LimitSettings, PoolMode};
use host_agent::service::InProcess;
use host_agent::{Failpoint, HostAgent, HostConfig, Machine, Surroundings};
use vmm::{AcceleratorMode, DiskLimits};

use crate::monitor::Monitors;
use crate::network::Wires;
use crate::rpc::Callee;
use crate::world::{Life, Program, World};

/// The template that every sandbox is made of.
pub const TEMPLATE: &str = "simulated";

/// How long nobody starts a host agent that has ended, at most.
const DOWN_MS: u64 = 20_000;

struct Ground {
    world: World,
    life: Life,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("simulated ground")
    }
}

impl Surroundings for Ground {
    fn free_disk_mb(&self, _directory: &Path) -> io::Result<u64> {
        Ok(if self.world.state().weather.is_disk_full { 0 } else { 1 << 20 })
    }

    fn available_memory_mb(&self) -> Option<u64> {
        None
    }

    fn reached(&self, at: Failpoint) {
        self.world.pass(&self.life, &format!("{at:?}"));
    }

    fn may_write(&self, at: Failpoint) -> io::Result<()> {
        self.world.pass(&self.life, &format!("{at:?}"));
        match self.world.state().weather.is_disk_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

/// Lets host agents live, one after another.
pub async fn keep_alive(world: World, callee: Callee) {
    for number in 1.. {
        let life = Life::new(Program::Agent, number);
        tokio::select! {
            () = live(&world, &life, &callee) => {}
            () = life.over.cancelled() => {}
        }
        let down = Duration::from_millis(world.below(DOWN_MS));
        tokio::time::sleep(down).await;
    }
}

/// Starts a host agent and lets it be until its life is over.
async fn live(world: &World, life: &Life, callee: &Callee) {
    let config = HostConfig {
        data_dir: world.state().data_dir.clone(),
        accelerator: AcceleratorMode::Tcg,
        qemu: None,
        boot_timeout: Duration::from_secs(60),
        disk_reserve_mb: 0,
        limits: LimitSettings { memory_mb: Some(1 << 20), ..LimitSettings::default() },
        pool: PoolMode::Off,
        uid_base: 2_000_000_000,
        traffic: TrafficLimits::default(),
        disk_limits: DiskLimits::default(),
        allow_degraded_jail: Vec::new(),
        guest_agent: b"simulated",
    };
    let machine = |_: &_| Machine {
        vmm: Arc::new(Monitors { world: world.clone(), life: life.clone() }),
        cgroups: Cgroups::none(),
        lacking_layers: Vec::new(),
        network: Arc::new(Wires { world: world.clone(), life: life.clone() }),
        surroundings: Arc::new(Ground { world: world.clone(), life: life.clone() }),
    };
    match HostAgent::start_on(config, machine).await {
        Ok(agent) => {
            world.note(format_args!("host agent {} begins", life.number));
            crate::laws::see_agent(world);
            let agent = InProcess::new(Arc::new(agent));
            *callee.lock().unwrap_or_else(PoisonError::into_inner) = Some((life.clone(), agent));
        }
        // A program that is over finds nothing any more.
        Err(_) if life.is_over() => {}
        Err(error) => {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            let causes: Vec<_> = causes.map(ToString::to_string).collect();
            world.violated("a host agent starts", causes.join(": "));
            // The next try begins anew.
            world.kill(life);
        }
    }
    life.over.cancelled().await;
}

/// What a host agent needs to find: a template of nothing.
pub fn prepare(data_dir: &Path) {
    let digest = "a".repeat(64);
    let kernel = data_dir.join("boot").join(&digest[..16]);
    let build = data_dir.join("templates").join(TEMPLATE).join("0123456789abcdef");
    let write = |path: PathBuf, content: Vec<u8>| fs::write(path, content).expect("a new directory can be written in");
    for directory in [&kernel.join("modules"), &build] {
        fs::create_dir_all(directory).expect("a new directory can be made");
    }
    write(kernel.join("vmlinuz"), b"kernel".to_vec());
    let described = serde_json::json!({ "digest": digest, "version": "6.1" });
    write(kernel.join("kernel.json"), described.to_string().into_bytes());
    // The first bytes of an ext4 file system of two blocks.
    let mut image = vec![0; 2048];
    image[1028] = 2;
    image[1080..1082].copy_from_slice(&[0x53, 0xef]);
    write(build.join("rootfs.ext4"), image);
    let manifest = serde_json::json!({
        "format": 1, "name": TEMPLATE, "build": "0123456789abcdef", "description": "nothing", "recipe_digest": digest,
        "created_ms": 0, "image": { "digest": digest, "bytes": 2048, "allocated_bytes": 2048 }, "disk_mb": 256,
        "kernel_digest": digest, "defaults": { "user": "root", "workdir": "/root", "env": {} },
    });
    write(build.join("template.json"), manifest.to_string().into_bytes());
    let current = data_dir.join("templates").join(TEMPLATE).join("current");
    std::os::unix::fs::symlink("0123456789abcdef", current).expect("a new link can be made");
}
