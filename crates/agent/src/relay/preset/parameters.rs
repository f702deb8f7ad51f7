//! Which parameters of a preset go into a request, and where.

use super::surface::{Api, Spot};
use crate::config::{Parameters, Preset};
use serde_json::Value;

/// A parameter of a preset, as a kind of request has it.
pub(super) struct Wanted<'p> {
    value: &'p Value,
    /// Where it is put if it is missing there.
    homes: Vec<Spot<'p>>,
    /// Where some backend would read it.
    anywhere: Vec<Spot<'p>>,
    pub is_pinned: bool,
}

impl<'p> Wanted<'p> {
    /// All that the preset has for requests of this API.
    pub fn all(preset: &'p Preset, api: Api) -> Vec<Self> {
        let of = |parameters: &'p Parameters, is_pinned| {
            let all = parameters.iter().map(move |(name, value)| Self {
                value,
                homes: match is_pinned {
                    true => api.pinned(name),
                    false => api.home(name).into_iter().collect(),
                },
                anywhere: Api::everywhere(name),
                is_pinned,
            });
            all.filter(|wanted| !wanted.homes.is_empty())
        };
        of(&preset.parameters, false)
            .chain(of(&preset.pinned, true))
            .collect()
    }

    /// All its places.
    pub fn spots(&self) -> impl Iterator<Item = Spot<'p>> {
        self.homes.iter().chain(&self.anywhere).copied()
    }

    /// The places where it is to be set, and its value there. `has`: whether the request has something there.
    pub fn set(&self, has: impl Fn(Spot<'p>) -> bool) -> Vec<(Spot<'p>, String)> {
        let mut set: Vec<Spot<'p>> = Vec::new();
        // A default gives way to what the request has where its API has parameters.
        let is_there = |home: Spot<'p>| {
            let beside = self.spots().filter(|spot| spot.object == home.object);
            beside.into_iter().any(&has)
        };
        for spot in self.spots() {
            let is_home = self.homes.contains(&spot);
            let is_set = match self.is_pinned {
                true => is_home || has(spot),
                false => is_home && !is_there(spot),
            };
            if is_set && !set.contains(&spot) {
                set.push(spot);
            }
        }
        let written = |spot: Spot<'p>| (spot, spot.value(self.value).to_string());
        set.into_iter().map(written).collect()
    }
}
