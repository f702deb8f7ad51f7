//! What a name means that several providers publish: one preset, or a model. Never both, and never two presets: a request may go to any
//! member of its pool, so what it is answered with must not depend on which.
//!
//! A preset wins over a model, even while its agent is away. Whoever asks for it, or may use it alone, counts on what it adds, and a
//! model by its name would answer without that. Of presets that differ the one wins that most providers have whose agents are there, so
//! that a new text takes over in the course of a rollout; and among equals that of the first provider.
//!
//! What loses gets no request by that name alone. `agent/model` reaches it as long as the name means one thing at that agent.

use super::ProviderSnapshot;
use reveille_domain::{ModelName, PresetHash, ProviderId, provider::StatusName};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, sync::Arc};
use tracing::{info, warn};

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Model,
    Preset,
}

/// The same, and which preset.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Model,
    Preset(PresetHash),
}

/// A name by which a provider gets no requests, although it publishes it: elsewhere it means something else that wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Overruled {
    pub name: ModelName,
    /// What it is at the provider.
    pub is: Kind,
    /// What it is to requests.
    pub means: Kind,
    /// The first provider that they go to.
    pub at: ProviderId,
}

impl Meaning {
    fn at(snapshot: &ProviderSnapshot, asked: &str) -> Self {
        match snapshot.preset(asked) {
            Some(preset) => Self::Preset(preset.hash.clone()),
            None => Self::Model,
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Model => Kind::Model,
            Self::Preset(_) => Kind::Preset,
        }
    }

    /// What wins among the providers that publish `asked`, which are in order.
    fn of(pool: &[Arc<ProviderSnapshot>], asked: &str) -> Self {
        let presets: Vec<_> = pool
            .iter()
            .filter_map(|snapshot| Some((snapshot, &snapshot.preset(asked)?.hash)))
            .collect();
        let is_there = |snapshot: &ProviderSnapshot| snapshot.provider.status.name() != StatusName::Inactive;
        let are_there = presets.iter().any(|(snapshot, _)| is_there(snapshot));
        let counted = presets
            .iter()
            .filter(|(snapshot, _)| !are_there || is_there(snapshot));
        let mut members: Vec<(&PresetHash, usize)> = Vec::new();
        for (_, hash) in counted {
            match members.iter_mut().find(|(counted, _)| counted == hash) {
                Some((_, count)) => *count += 1,
                None => members.push((hash, 1)),
            }
        }
        // The first of the largest: `max_by_key` would return the last.
        let most = members.into_iter().rev().max_by_key(|(_, count)| *count);
        most.map_or(Self::Model, |(hash, _)| Self::Preset(hash.clone()))
    }
}

impl Kind {
    /// What `asked` is at a provider that publishes it.
    pub(crate) fn at(snapshot: &ProviderSnapshot, asked: &str) -> Self {
        Meaning::at(snapshot, asked).kind()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Preset => "preset",
        })
    }
}

/// Those of the providers that publish `asked`, which are in order, at which it means what it means to requests.
pub(super) fn agreeing(mut pool: Vec<Arc<ProviderSnapshot>>, asked: &str) -> Vec<Arc<ProviderSnapshot>> {
    if may_differ(&pool) {
        let wins = Meaning::of(&pool, asked);
        pool.retain(|snapshot| Meaning::at(snapshot, asked) == wins);
    }
    pool
}

/// Whether what they publish by one name may be different things.
fn may_differ(pool: &[Arc<ProviderSnapshot>]) -> bool {
    pool.len() > 1 && pool.iter().any(|snapshot| snapshot.provider.spec.has_presets())
}

/// How `name` is overruled at a provider, if it is. `pool`: all that publish it, in order.
pub(super) fn overruled(
    pool: &[Arc<ProviderSnapshot>],
    snapshot: &ProviderSnapshot,
    name: &ModelName,
) -> Option<Overruled> {
    if !may_differ(pool) {
        return None;
    }
    let asked = name.as_str();
    let (own, wins) = (Meaning::at(snapshot, asked), Meaning::of(pool, asked));
    let first = pool.iter().find(|other| Meaning::at(other, asked) == wins)?;
    (own != wins).then(|| Overruled {
        name: name.clone(),
        is: own.kind(),
        means: wins.kind(),
        at: first.provider.id.clone(),
    })
}

/// The names that mean different things at different agents, as they were last logged.
#[derive(Debug, Default)]
pub(super) struct LoggedConflicts(BTreeMap<ModelName, Vec<(ProviderId, Overruled)>>);

impl LoggedConflicts {
    /// Logs what has changed about a name. `pool`: all that publish it, in order.
    pub(super) fn log_changes(&mut self, pool: &[Arc<ProviderSnapshot>], name: &ModelName) {
        let overruled = pool.iter().filter_map(|snapshot| {
            let id = &snapshot.provider.id;
            let overruled = overruled(pool, snapshot, name)?;
            // One agent publishes a changed preset at one provider after the other.
            (overruled.at.agent != id.agent).then(|| (id.clone(), overruled))
        });
        let now: Vec<_> = overruled.collect();
        let before = self.0.get(name).map_or(&[][..], Vec::as_slice);
        if now == before {
            return;
        }
        if now.is_empty() {
            self.0.remove(name);
            return info!(model.name = %name, "`{name}` means the same at all agents again");
        }
        for (id, Overruled { is, means, at, .. }) in now.iter().filter(|one| !before.contains(one)) {
            let other = if is == means { "another " } else { "a " };
            warn!(
                model.name = %name, provider.name = %id,
                "`{name}` is a {means} of {at} and {other}{is} of {id}, which gets no requests by this name: rename one of them"
            );
        }
        self.0.insert(name.clone(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::publishing, *};
    use reveille_domain::provider::StatusName::{Active, Hibernating, Inactive};

    fn pool(members: &[(&str, Option<&str>, StatusName)]) -> Vec<Arc<ProviderSnapshot>> {
        members
            .iter()
            .map(|(id, preset, status)| publishing(id, "bot", *preset, *status))
            .collect()
    }

    fn ids(pool: &[Arc<ProviderSnapshot>]) -> Vec<String> {
        pool.iter()
            .map(|snapshot| snapshot.provider.id.to_string())
            .collect()
    }

    #[test]
    fn one_preset_wins_over_models_and_over_other_presets() {
        let (one, other) = (Some("000000000001"), Some("000000000002"));
        for (members, winning) in [
            (
                vec![("a/p", None, Active), ("b/p", None, Inactive)],
                vec!["a/p", "b/p"],
            ),
            (
                vec![("a/p", None, Active), ("b/p", one, Hibernating)],
                vec!["b/p"],
            ),
            // What a caller counts on isn't there, which is better than an answer without it.
            (vec![("a/p", None, Active), ("b/p", one, Inactive)], vec!["b/p"]),
            (
                vec![
                    ("a/p", one, Active),
                    ("b/p", one, Hibernating),
                    ("c/p", None, Active),
                ],
                vec!["a/p", "b/p"],
            ),
            (vec![("a/p", one, Active), ("b/p", other, Active)], vec!["a/p"]),
            (
                vec![("a/p", other, Hibernating), ("b/p", one, Active)],
                vec!["a/p"],
            ),
            (
                vec![
                    ("a/p", one, Active),
                    ("b/p", other, Active),
                    ("c/p", other, Active),
                ],
                vec!["b/p", "c/p"],
            ),
            (vec![("a/p", one, Inactive), ("b/p", other, Active)], vec!["b/p"]),
            (
                vec![("a/p", one, Inactive), ("b/p", other, Inactive)],
                vec!["a/p"],
            ),
        ] {
            assert_eq!(ids(&agreeing(pool(&members), "bot")), winning, "{members:?}");
        }
    }

    #[test]
    fn what_is_overruled_is_shown_with_what_wins() {
        let pool = pool(&[
            ("a/p", Some("000000000001"), Active),
            ("b/p", None, Active),
            ("c/p", Some("000000000002"), Active),
        ]);
        let name = ModelName::parse("bot").expect("legal");
        let shown: Vec<_> = pool
            .iter()
            .map(|snapshot| {
                let overruled = overruled(&pool, snapshot, &name)?;
                Some((overruled.is, overruled.means, overruled.at.to_string()))
            })
            .collect();
        let at = "a/p".to_owned();
        assert_eq!(
            shown,
            [
                None,
                Some((Kind::Model, Kind::Preset, at.clone())),
                Some((Kind::Preset, Kind::Preset, at))
            ]
        );
    }

    #[test]
    fn each_conflict_of_agents_is_logged_once_until_it_is_over() {
        let name = ModelName::parse("bot").expect("legal");
        let mut logged = LoggedConflicts::default();
        let (one, other) = (Some("000000000001"), Some("000000000002"));
        logged.log_changes(&pool(&[("a/p", one, Active), ("a/q", other, Active)]), &name);
        assert!(logged.0.is_empty(), "its agent is just being reloaded");
        let differ = pool(&[("a/p", one, Active), ("b/p", other, Active)]);
        logged.log_changes(&differ, &name);
        assert_eq!(logged.0.len(), 1);
        logged.log_changes(&differ[..1], &name);
        assert!(logged.0.is_empty());
    }
}
