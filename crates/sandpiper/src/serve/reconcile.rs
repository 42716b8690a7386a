//! The flags of the reconciler, and of what it keeps.

use std::time::Duration;

use clap::Args;
use control_plane::{Config, RetentionPolicy};
use model::Retention;

/// When records are compared with the host, and how patiently.
#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    /// Seconds between two comparisons of the records with the host
    #[arg(long, env = "SANDPIPER_RECONCILE_INTERVAL_SEC", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    reconcile_interval_sec: u64,
    /// Seconds that a host keeps a sandbox which no record wants
    #[arg(long, env = "SANDPIPER_ORPHAN_GRACE_SEC", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    orphan_grace_sec: u64,
    /// Seconds after which a create, pause or other change that has not ended counts as given up, where another control
    /// plane may have begun it. With less than such a change takes its caller may be told that it was overtaken
    #[arg(long, env = "SANDPIPER_GIVEN_UP_AFTER_SEC", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    given_up_after_sec: u64,
    /// Seconds that a host may be silent before its sandboxes are missing
    #[arg(long, env = "SANDPIPER_MISSING_AFTER_SEC", value_name = "SECONDS", default_value_t = 90,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    missing_after_sec: u64,
    /// Snapshots that are kept for each owner, those used last; without it all
    #[arg(long, env = "SANDPIPER_SNAPSHOT_MAX_COUNT", value_name = "COUNT")]
    snapshot_max_count: Option<u32>,
    /// Seconds that a snapshot is kept after its last use; without it for ever
    #[arg(long, env = "SANDPIPER_SNAPSHOT_MAX_AGE_SEC", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    snapshot_max_age_sec: Option<u64>,
    /// Paused sandboxes that are kept for each owner, those paused last; without it all
    #[arg(long, env = "SANDPIPER_PAUSED_MAX_COUNT", value_name = "COUNT")]
    paused_max_count: Option<u32>,
    /// Seconds that a paused sandbox is kept; without it for ever
    #[arg(long, env = "SANDPIPER_PAUSED_MAX_AGE_SEC", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    paused_max_age_sec: Option<u64>,
}

impl ReconcileArgs {
    /// Sets the same in a control plane's configuration.
    pub fn apply(&self, config: &mut Config) {
        config.reconcile_interval = Duration::from_secs(self.reconcile_interval_sec);
        config.orphan_grace = Duration::from_secs(self.orphan_grace_sec);
        config.given_up_after = Duration::from_secs(self.given_up_after_sec);
        config.missing_after = Duration::from_secs(self.missing_after_sec);
        let keep = |count, age: Option<u64>| Retention { count, age: age.map(Duration::from_secs) };
        config.retention = RetentionPolicy {
            snapshots: keep(self.snapshot_max_count, self.snapshot_max_age_sec),
            paused: keep(self.paused_max_count, self.paused_max_age_sec),
        };
    }
}
