//! The machines that run sandboxes, as they last described themselves.

use jiff::Timestamp;
use model::HostId;

use super::{Store, StoreError, failed};

/// What a host agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Made with the host's data directory.
    pub instance_id: String,
    /// Of the host agent.
    pub version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Of the VMM.
    pub vmm_version: String,
    /// The templates that are built there.
    pub templates: Vec<String>,
    /// What they are builds of.
    pub template_builds: Vec<TemplateBuild>,
    /// Those that will be there soon.
    pub building_templates: Vec<String>,
    /// Layers of the jail that its monitors do without.
    pub lacking_layers: Vec<String>,
}

/// The build that a template is at this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateBuild {
    /// The template's name.
    pub template: String,
    /// The build's own id.
    pub id: String,
    /// When it was finished.
    pub made_at: Timestamp,
}

impl Store {
    /// Records that a host answered, and what it said.
    pub async fn host_seen(&self, host: &HostId, facts: &HostFacts) -> Result<(), StoreError> {
        sqlx::query(
            "update hosts set instance_id = $1, version = $2, accelerator = $3, vmm_version = $4, last_seen_at = $5 \
             where id = $6",
        )
        .bind(&facts.instance_id)
        .bind(&facts.version)
        .bind(&facts.accelerator)
        .bind(&facts.vmm_version)
        .bind(Timestamp::now().as_millisecond())
        .bind(host.as_str())
        .execute(&self.pool)
        .await
        .map_err(failed("record the host"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    testing::on_every_engine!(what_a_host_last_said_is_kept);

    async fn what_a_host_last_said_is_kept(database: testing::Database) {
        let store = database.open().await;
        let host: HostId = "default".parse().unwrap();
        for version in ["0.1.0", "0.2.0"] {
            let facts = HostFacts { version: version.into(), accelerator: "tcg".into(), ..Default::default() };
            store.host_seen(&host, &facts).await.unwrap();
        }
        let (version, seen): (String, Option<i64>) =
            sqlx::query_as("select version, last_seen_at from hosts where accelerator = 'tcg'")
                .fetch_one(&store.pool)
                .await
                .unwrap();
        assert_eq!(version, "0.2.0");
        assert!(seen.is_some());
    }
}
