//! Who a system is, in all places where its programs look. One that goes on as who it was is left alone: writing all that
//! again is much work for a processor that is new to it, and would undo what the sandbox's user has changed.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::identity::{self, Identity};
use super::machine_id;
use super::marks::{self, Marks};

/// Who a system is to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Persona {
    /// What it is called.
    pub identity: Identity,
    /// Whom its machine id comes from; none leaves that as it is.
    pub sandbox_id: Option<String>,
    /// What it says of itself in files.
    pub marks: Marks,
}

/// Why a system is not who it was to be.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct PersonaError {
    /// What was done.
    pub step: &'static str,
    /// What the system said.
    pub source: io::Error,
}

impl PersonaError {
    /// Of what was done.
    pub fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

/// Who the system was made into last.
#[derive(Debug, Default)]
pub struct Assumed(Mutex<Option<Persona>>);

impl Assumed {
    /// Makes the system into `wanted`, unless that is who it is.
    pub fn assume(&self, wanted: Persona) -> Result<(), PersonaError> {
        self.assume_by(wanted, write)
    }

    fn assume_by(
        &self,
        wanted: Persona,
        write: impl FnOnce(&Persona) -> Result<(), PersonaError>,
    ) -> Result<(), PersonaError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // Half of one is nobody.
        *last = None;
        write(&wanted)?;
        *last = Some(wanted);
        Ok(())
    }
}

fn write(persona: &Persona) -> Result<(), PersonaError> {
    let failed = PersonaError::failed;
    identity::assume(&persona.identity).map_err(failed("take on the name"))?;
    persona.sandbox_id.as_deref().map_or(Ok(()), machine_id::assume).map_err(failed("take on the machine id"))?;
    marks::assume(&persona.marks).map_err(failed("say which sandbox it is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn persona(name: &str) -> Persona {
        let identity = Identity::new(Some(name.to_owned()), Vec::new()).unwrap();
        Persona { identity, sandbox_id: Some(name.to_owned()), marks: Marks::default() }
    }

    #[test]
    fn only_what_it_is_not_yet_is_written() {
        let assumed = Assumed::default();
        let mut written = Vec::new();
        for name in ["a", "a", "b", "a"] {
            let note = |_: &Persona| {
                written.push(name);
                Ok(())
            };
            assumed.assume_by(persona(name), note).unwrap();
        }
        assert_eq!(written, ["a", "b", "a"]);
    }

    #[test]
    fn what_failed_half_way_is_written_again() {
        let assumed = Assumed::default();
        let failure = || PersonaError { step: "take on the name", source: io::ErrorKind::StorageFull.into() };
        assumed.assume_by(persona("a"), |_| Ok(())).unwrap();
        assumed.assume_by(persona("b"), |_| Err(failure())).unwrap_err();
        for name in ["a", "b"] {
            let mut written = None;
            let note = |persona: &Persona| {
                written = persona.sandbox_id.clone();
                Ok(())
            };
            assumed.assume_by(persona(name), note).unwrap();
            assert_eq!(written.as_deref(), Some(name));
        }
    }
}
