//! What a user may rely on for each sandbox that was asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use model::OnExpiry;

/// What is known of one sandbox.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Without use it expires after this.
    pub idle: Option<Duration>,
    /// What expiry does.
    pub on_expiry: OnExpiry,
    /// Whether its owner was told that it is there.
    pub is_made: bool,
    /// The writes that were acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// The last write that was tried.
    pub tried: u64,
    /// When it was last used for certain.
    pub used: Duration,
    /// When it may last have been used.
    pub perhaps_used: Duration,
    /// Why it may be gone.
    pub excuse: Option<&'static str>,
    /// Whether its disk alone may be there: somebody asked for that, or expiry does it.
    pub may_be_stopped: bool,
    /// Whether anybody asked for something that ends its monitor.
    pub is_disturbed: bool,
}

impl Subject {
    /// That somebody asks for now.
    pub fn new(idle: Option<Duration>, on_expiry: OnExpiry, now: Duration) -> Self {
        Self {
            idle,
            on_expiry,
            is_made: false,
            acknowledged: BTreeSet::new(),
            tried: 0,
            used: now,
            perhaps_used: now,
            excuse: None,
            may_be_stopped: on_expiry == OnExpiry::Stop,
            is_disturbed: false,
        }
    }

    /// That goes on from where another was, with all that it had been told of.
    pub fn after(self, other: &Self) -> Self {
        Self { acknowledged: other.acknowledged.clone(), tried: other.tried, ..self }
    }

    /// Whether it must be there, whatever happened.
    pub fn must_be(&self) -> bool {
        let may_expire = self.idle.is_some() && self.on_expiry == OnExpiry::Destroy;
        self.is_made && self.excuse.is_none() && !may_expire
    }
}
