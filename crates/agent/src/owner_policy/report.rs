//! What an agent has made of the last pause, in a file beside it: `reveille agent pause` waits for it, without a hub.

use super::pause::Pause;
use crate::state_dir::{StateDir, agent_file};
use reveille_domain::{AgentName, ProviderName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io};

const FILE: &str = "pause-taken.json";

/// What one agent has made of a pause, or of its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseTaken {
    pub agent: AgentName,
    /// The pause; `None` if there is none any longer.
    pub pause: Option<Pause>,
    /// Whether it was sent to the hub, in a heartbeat.
    pub hub_told: bool,
    /// The providers that are to sleep.
    pub providers: BTreeMap<ProviderName, PutToSleep>,
}

/// What has become of a provider that a pause puts to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum PutToSleep {
    /// It is still being put to sleep.
    Pending,
    Asleep,
    /// It stays awake.
    Awake {
        reason: String,
    },
}

impl PauseTaken {
    /// Replaces what this agent wrote before.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn write(&self, state: &StateDir) -> io::Result<()> {
        state.write(&agent_file(&self.agent, FILE), &serde_json::to_vec(self)?)
    }

    /// Removes what was written before, also by agents that have another name by now. Whoever pauses does this first: what is there
    /// afterwards is of an agent that runs.
    ///
    /// # Errors
    /// When the folder can't be read, or a file can't be removed.
    pub fn clear(state: &StateDir) -> io::Result<()> {
        files(state)?.iter().try_for_each(|name| state.remove(name))
    }

    /// What the agents of this state directory have made of this very pause, or of the end of one, since [`Self::clear`].
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn of(state: &StateDir, pause: Option<&Pause>) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for name in files(state)? {
            let content = state.read(&name)?.unwrap_or_default();
            // One of another version says nothing.
            let taken = serde_json::from_slice::<Self>(&content).ok();
            found.extend(taken.filter(|taken| taken.pause.as_ref() == pause));
        }
        Ok(found)
    }

    /// Whether nothing more will come of it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self
            .providers
            .values()
            .any(|result| *result == PutToSleep::Pending)
    }
}

/// The names of all agents' files.
fn files(state: &StateDir) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state.path())? {
        let name = entry?.file_name().into_string().ok();
        found.extend(name.filter(|name| name.ends_with(&format!(".{FILE}"))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn what_an_agent_has_made_of_an_earlier_pause_is_no_answer_to_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let pause = |second| Pause::begin(Timestamp::from_second(second).unwrap(), None, true);
        let provider: ProviderName = "vllm".parse().unwrap();
        let mut taken = PauseTaken {
            agent: "box".parse().unwrap(),
            pause: Some(pause(1)),
            hub_told: true,
            providers: [(provider.clone(), PutToSleep::Pending)].into(),
        };
        taken.write(&state).unwrap();
        assert_eq!(PauseTaken::of(&state, Some(&pause(1))).unwrap(), [taken.clone()]);
        assert!(!taken.is_done());
        assert!(PauseTaken::of(&state, Some(&pause(2))).unwrap().is_empty());
        assert!(PauseTaken::of(&state, None).unwrap().is_empty());
        taken.providers.insert(provider, PutToSleep::Asleep);
        assert!(taken.is_done());
        state.write("other.pause-taken.json", b"{").unwrap();
        assert_eq!(PauseTaken::of(&state, Some(&pause(1))).unwrap().len(), 1);
    }

    #[test]
    fn what_was_written_before_a_change_is_no_answer_to_it_whoever_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::new(folder.path().to_owned());
        let taken = |agent: &str| PauseTaken {
            agent: agent.parse().unwrap(),
            pause: None,
            hub_told: true,
            providers: BTreeMap::new(),
        };
        taken("box").write(&state).unwrap();
        taken("renamed").write(&state).unwrap();
        Pause::begin(Timestamp::UNIX_EPOCH, None, true)
            .write(&state)
            .unwrap();
        PauseTaken::clear(&state).unwrap();
        assert!(PauseTaken::of(&state, None).unwrap().is_empty());
        assert!(Pause::lift(&state, Timestamp::UNIX_EPOCH).unwrap(), "it is kept");
        taken("box").write(&state).unwrap();
        assert_eq!(PauseTaken::of(&state, None).unwrap(), [taken("box")]);
    }
}
