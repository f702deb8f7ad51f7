//! Whether a backend has what its group shares, as far as its agent knows.

use crate::state_dir::{StateDir, provider_file};
use reveille_domain::ProviderId;
use tracing::warn;

/// What a file is called that is there while the backend may have it.
const HELD: &str = "held";

/// What is known, also over a restart of the agent: what a recipe has started may still be loading then, and answers
/// nobody.
#[derive(Debug)]
pub(super) struct Vacancy {
    known: Known,
    kept: Option<(StateDir, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nobody has looked.
    Nothing,
    /// It may: it was found awake, or its recipe was run.
    Held,
    /// It is known not to.
    Vacant,
}

impl Vacancy {
    /// What an earlier run has left, if it is to be kept.
    pub(super) fn open(provider: &ProviderId, state: Option<StateDir>) -> Self {
        let kept = state.map(|state| (state, provider_file(provider, HELD)));
        let held = kept.as_ref().is_some_and(|(state, file)| {
            state.has(file).unwrap_or_else(|error| {
                warn!(provider.name = %provider, %error, "can't tell what an earlier run knew of {provider}");
                true
            })
        });
        Self {
            known: if held { Known::Held } else { Known::Nothing },
            kept,
        }
    }

    pub(super) fn is_vacant(&self) -> bool {
        self.known == Known::Vacant
    }

    /// Whether nobody has looked, and no earlier run of the agent has left it held.
    pub(super) fn is_unknown(&self) -> bool {
        self.known == Known::Nothing
    }

    /// The backend may have it from now on.
    pub(super) fn hold(&mut self) {
        self.set(Known::Held);
    }

    /// The backend is known not to have it.
    pub(super) fn vacate(&mut self) {
        self.set(Known::Vacant);
    }

    fn set(&mut self, known: Known) {
        if self.known == known {
            return;
        }
        self.known = known;
        let Some((state, file)) = &self.kept else { return };
        let kept = match known {
            Known::Held => state.mark(file).map(drop),
            Known::Nothing | Known::Vacant => state.remove(file),
        };
        if let Err(error) = kept {
            warn!(%error, "can't keep in {file} whether the backend has what its group shares");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_held_is_so_after_a_restart_until_it_is_known_not_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().join("state"));
        let open = |provider: &str| Vacancy::open(&provider.parse().unwrap(), Some(state.clone()));
        assert!(open("box/p").is_unknown());
        open("box/p").hold();
        assert!(open("other/p").is_unknown(), "another agent's provider");
        let mut vacancy = open("box/p");
        assert!(!vacancy.is_unknown() && !vacancy.is_vacant());
        vacancy.vacate();
        assert!(vacancy.is_vacant());
        assert!(open("box/p").is_unknown());
    }

    #[test]
    fn without_a_state_directory_a_restart_forgets() {
        let provider = "box/p".parse().unwrap();
        let mut vacancy = Vacancy::open(&provider, None);
        vacancy.hold();
        assert!(!vacancy.is_unknown());
        assert!(Vacancy::open(&provider, None).is_unknown());
    }
}
