//! What the host has told this sandbox to be: access token, environment, default user and working directory.
//! Knows nothing of HTTP, nor of how a request proves that it may change them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use buffa_types::google::protobuf::Timestamp;

/// The user of requests that name none, until the host says otherwise.
const DEFAULT_USER: &str = "root";

/// A consistent view of the settings; requests keep the one they began with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether the host has set anything yet. Until then nothing but health and control answers.
    pub initialised: bool,
    /// What callers must show; none means that everybody may call.
    pub token: Option<String>,
    /// Environment of every process, under that of its own request.
    pub envs: BTreeMap<String, String>,
    /// User of requests that name none.
    pub default_user: String,
    /// Working directory of requests that name none; the user's home otherwise.
    pub default_workdir: Option<String>,
    /// Of the last update that had a time: older ones arrive late and are not applied.
    updated: Option<(i64, i32)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initialised: false,
            token: None,
            envs: BTreeMap::new(),
            default_user: DEFAULT_USER.to_owned(),
            default_workdir: None,
            updated: None,
        }
    }
}

/// What one message of the host changes.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// When the host sent it, by the host's clock.
    pub timestamp: Option<Timestamp>,
    /// The token from now on; none takes it away.
    pub token: Option<String>,
    /// Replaces all of the environment.
    pub envs: Option<BTreeMap<String, String>>,
    /// Replaces the default user.
    pub default_user: Option<String>,
    /// Replaces the default working directory.
    pub default_workdir: Option<String>,
}

/// Whether an update counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The settings are the new ones.
    Yes,
    /// A newer update came first.
    Stale,
}

/// The settings that all requests share.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Arc<Settings>>);

impl Shared {
    /// The settings as they are now.
    pub fn current(&self) -> Arc<Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on nothing but health and control answers, until the next update. Returns whether more answered so far.
    pub fn seal(&self) -> bool {
        self.set_initialised(false)
    }

    /// Takes back a [`Self::seal`] that returned `before`.
    pub fn unseal(&self, before: bool) {
        self.set_initialised(before);
    }

    fn set_initialised(&self, initialised: bool) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = current.initialised;
        *current = Arc::new(Settings { initialised, ..Settings::clone(&current) });
        before
    }

    /// Applies `update` unless a newer one has been.
    pub fn apply(&self, update: Update) -> Applied {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = update.timestamp.map(|time| (time.seconds, time.nanos));
        if sent.is_some() && sent <= current.updated {
            return Applied::Stale;
        }
        let mut next = Settings::clone(&current);
        next.initialised = true;
        next.updated = sent.or(next.updated);
        next.token = update.token.filter(|token| !token.is_empty());
        if let Some(envs) = update.envs {
            next.envs = envs;
        }
        if let Some(user) = update.default_user.filter(|user| !user.is_empty()) {
            next.default_user = user;
        }
        if let Some(workdir) = update.default_workdir.filter(|workdir| !workdir.is_empty()) {
            next.default_workdir = Some(workdir);
        }
        *current = Arc::new(next);
        Applied::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, ..Default::default() })
    }

    #[test]
    fn an_older_update_does_not_count() {
        let shared = Shared::default();
        let update = |timestamp, token: &str| Update { timestamp, token: Some(token.into()), ..Default::default() };
        assert_eq!(shared.apply(update(at(10), "a")), Applied::Yes);
        assert_eq!(shared.apply(update(at(9), "b")), Applied::Stale);
        assert_eq!(shared.apply(update(at(10), "b")), Applied::Stale);
        assert_eq!(shared.current().token.as_deref(), Some("a"));
        assert_eq!(shared.apply(update(None, "c")), Applied::Yes);
        assert_eq!(shared.apply(update(at(9), "d")), Applied::Stale);
        assert_eq!(shared.current().token.as_deref(), Some("c"));
    }

    #[test]
    fn an_absent_token_clears_and_absent_envs_stay() {
        let shared = Shared::default();
        let envs = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        shared.apply(Update { token: Some("t".into()), envs: Some(envs.clone()), ..Default::default() });
        shared.apply(Update::default());
        let now = shared.current();
        assert_eq!((now.token.clone(), &now.envs, now.initialised), (None, &envs, true));
    }
}
