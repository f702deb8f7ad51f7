//! Whether a backend may use the resource that its groups share.

use crate::state_dir::{StateDir, provider_file};
use reveille_domain::ProviderId;
use tracing::warn;

/// The file that exists while the backend may use it.
const HELD: &str = "held";

/// What is known, also after a restart of the agent: a backend that a recipe has started may still be loading then, and
/// doesn't answer yet.
#[derive(Debug)]
pub(super) struct ResourceHold {
    known: Known,
    kept: Option<(StateDir, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Never probed.
    Unknown,
    /// It may: the backend was found awake, or its recipe has run.
    Held,
    /// The backend is known to sleep.
    Free,
}

impl ResourceHold {
    /// Reads what an earlier run has left in the state directory.
    pub(super) fn open(provider: &ProviderId, state: Option<StateDir>) -> Self {
        let kept = state.map(|state| (state, provider_file(provider, HELD)));
        let held = kept.as_ref().is_some_and(|(state, file)| {
            state.has(file).unwrap_or_else(|error| {
                warn!(provider.name = %provider, %error, "can't read whether {provider} was left awake; assuming so");
                true
            })
        });
        Self {
            known: if held { Known::Held } else { Known::Unknown },
            kept,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.known == Known::Free
    }

    /// Whether it was never probed, and no earlier run has left it held.
    pub(super) fn is_unknown(&self) -> bool {
        self.known == Known::Unknown
    }

    /// The backend may use it from now on.
    pub(super) fn hold(&mut self) {
        self.set(Known::Held);
    }

    /// The backend is known not to use it.
    pub(super) fn release(&mut self) {
        self.set(Known::Free);
    }

    fn set(&mut self, known: Known) {
        if self.known == known {
            return;
        }
        self.known = known;
        let Some((state, file)) = &self.kept else { return };
        let kept = match known {
            Known::Held => state.mark(file).map(drop),
            Known::Unknown | Known::Free => state.remove(file),
        };
        if let Err(error) = kept {
            warn!(%error, "can't update {file}: after a restart, the agent may misjudge whether the backend uses its group's resource");
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
        let open = |provider: &str| ResourceHold::open(&provider.parse().unwrap(), Some(state.clone()));
        assert!(open("box/p").is_unknown());
        open("box/p").hold();
        assert!(open("other/p").is_unknown(), "another agent's provider");
        let mut resource = open("box/p");
        assert!(!resource.is_unknown() && !resource.is_free());
        resource.release();
        assert!(resource.is_free());
        assert!(open("box/p").is_unknown());
    }

    #[test]
    fn without_a_state_directory_a_restart_forgets() {
        let provider = "box/p".parse().unwrap();
        let mut resource = ResourceHold::open(&provider, None);
        resource.hold();
        assert!(!resource.is_unknown());
        assert!(ResourceHold::open(&provider, None).is_unknown());
    }
}
