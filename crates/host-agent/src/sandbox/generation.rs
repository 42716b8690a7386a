//! Calls that come late: what a control plane decided on an older record is not carried out after what it decided on a
//! newer one. A deletion is never too old, for nothing comes after it.

use model::Generation;

use super::TransitionError;
use super::parts::Parts;
use super::record::{note_generation, noted_generation};

impl Parts {
    /// Notes of what generation a call is that is carried out next. The next host agent knows it too.
    pub(super) fn hear_of(&mut self, asked: Generation) -> Result<(), TransitionError> {
        let known = noted_generation(self.directory());
        if asked.is_outdated_by(known) {
            return Err(TransitionError::Outdated { asked, known });
        }
        if asked > known { note_generation(self.directory(), asked).map_err(TransitionError::Note) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_earlier_is_refused_also_by_the_next_host_agent() {
        let directory = tempfile::tempdir().unwrap();
        let parts = || Parts { directory: Some(directory.path().to_owned()), ..Parts::default() };
        let mut first = parts();
        for (asked, is_refused) in [(0, false), (5, false), (5, false), (7, false), (6, true), (0, false)] {
            assert_eq!(first.hear_of(Generation::new(asked)).is_err(), is_refused, "{asked}");
        }
        let refused = parts().hear_of(Generation::new(6)).unwrap_err();
        assert!(matches!(refused, TransitionError::Outdated { known, .. } if known.get() == 7), "{refused}");
        parts().hear_of(Generation::new(8)).unwrap();
    }
}
