//! Templates that are being built while sandboxes are already asked for: who wants one of them is told to come again, and
//! not that there is no such thing.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::TemplateName;

use super::error::TemplateError;

/// What was announced and is not built.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    names: BTreeSet<TemplateName>,
    /// Why none of them will be built any more.
    given_up: Option<String>,
}

impl Announced {
    /// These will be built.
    pub fn add(&self, names: impl IntoIterator<Item = TemplateName>) {
        let mut state = self.state();
        state.names.extend(names);
        state.given_up = None;
    }

    /// This one is built.
    pub fn remove(&self, name: &TemplateName) {
        self.state().names.remove(name);
    }

    /// What is not built yet will not be.
    pub fn give_up(&self, reason: String) {
        self.state().given_up = Some(reason);
    }

    /// Those that are still to be built.
    pub fn names(&self) -> Vec<TemplateName> {
        let state = self.state();
        if state.given_up.is_some() { Vec::new() } else { state.names.iter().cloned().collect() }
    }

    /// Refuses one that is announced.
    pub fn check(&self, name: &TemplateName) -> Result<(), TemplateError> {
        let state = self.state();
        match (state.names.get(name).cloned(), &state.given_up) {
            (None, _) => Ok(()),
            (Some(name), None) => Err(TemplateError::Building { name }),
            (Some(name), Some(reason)) => Err(TemplateError::GivenUp { name, reason: reason.clone() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_being_built_until_it_is_built_or_given_up() {
        let announced = Announced::default();
        let [one, two]: [TemplateName; 2] = ["one", "two"].map(|name| name.parse().unwrap());
        assert!(announced.check(&one).is_ok());
        announced.add([one.clone(), two.clone()]);
        assert!(matches!(announced.check(&one), Err(TemplateError::Building { name }) if name == one));
        announced.remove(&one);
        assert!(announced.check(&one).is_ok());
        assert_eq!(announced.names().as_slice(), std::slice::from_ref(&two));
        announced.give_up("the mirror is down".to_owned());
        assert_eq!(announced.names(), []);
        let error = announced.check(&two).unwrap_err().to_string();
        assert!(error.contains("two") && error.contains("the mirror is down"), "{error}");
        announced.add([two.clone()]);
        assert!(matches!(announced.check(&two), Err(TemplateError::Building { .. })));
    }
}
