//! Which hub an answer comes from, and which hubs a request has passed: two headers of HTTP that agents and APIs share.
//!
//! A provider's base URL may lead back to the hub that publishes it, by whatever name and through whatever proxy. The id is how
//! the hub is recognised all the same.

use async_nats::jetstream::stream::Info;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// The header of every answer of a hub: its id.
pub const HUB_HEADER: &str = "x-reveille-hub";
/// The header of a request that a hub sends on: the ids of the hubs that it has passed, the first one first.
pub const VIA_HEADER: &str = "x-reveille-via";
/// How many hubs a request may have passed.
pub const MAX_HUBS: usize = 8;
/// The `code` of the error with which a hub ends a request that goes in a circle.
pub const LOOP_DETECTED: &str = "loop_detected";

/// The id of a hub: the same for all of its replicas and after restarts, and another one after its journal was replaced. It
/// says nothing else about the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HubId([u8; 8]);

/// This text isn't the id of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the id of a hub is 16 hex digits in lower case")]
pub struct InvalidHubId;

impl HubId {
    /// The id of the hub whose journal is this stream. Its creation is the one thing about it that no other has and that
    /// never changes.
    pub(crate) fn of_journal(stream: &Info) -> Self {
        Self::of(&stream.config.name, stream.created.unix_timestamp_nanos())
    }

    fn of(name: &str, created_ns: i128) -> Self {
        let hash = Sha256::new()
            .chain_update(name)
            .chain_update(created_ns.to_be_bytes())
            .finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self(id)
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for HubId {
    type Err = InvalidHubId;
    fn from_str(text: &str) -> Result<Self, InvalidHubId> {
        let mut id = [0; 8];
        hex::decode_to_slice(text, &mut id).map_err(|_| InvalidHubId)?;
        let id = Self(id);
        // So that equal ids are equal texts.
        (id.to_string() == text).then_some(id).ok_or(InvalidHubId)
    }
}

impl TryFrom<String> for HubId {
    type Error = InvalidHubId;
    fn try_from(text: String) -> Result<Self, InvalidHubId> {
        text.parse()
    }
}

impl From<HubId> for String {
    fn from(id: HubId) -> Self {
        id.to_string()
    }
}

/// The hubs that a request has passed, the first one first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Via(Vec<HubId>);

impl Via {
    /// Reads all lines of the header. What follows one hub too many is not read.
    ///
    /// # Errors
    /// When one of them isn't a list of ids.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, InvalidHubId> {
        let lines = lines
            .into_iter()
            .flat_map(|line| line.split(|byte| *byte == b','));
        let ids = lines
            .map(<[u8]>::trim_ascii)
            .filter(|id| !id.is_empty())
            .take(MAX_HUBS + 1)
            .map(|id| std::str::from_utf8(id).map_err(|_| InvalidHubId)?.parse());
        Ok(Self(ids.collect::<Result<_, _>>()?))
    }

    /// The same with another hub at the end.
    #[must_use]
    pub fn and(mut self, hub: HubId) -> Self {
        self.0.push(hub);
        self
    }

    /// Whether it has passed this hub.
    #[must_use]
    pub fn contains(&self, hub: HubId) -> bool {
        self.0.contains(&hub)
    }

    /// Whether it has passed none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has passed more hubs than it may.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.0.len() > MAX_HUBS
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, hub) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{hub}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00112233445566aa";
    const OTHER: &str = "ffeeddccbbaa9988";

    fn read(lines: &[&str]) -> Result<String, InvalidHubId> {
        Via::read(lines.iter().map(|line| line.as_bytes())).map(|via| via.to_string())
    }

    #[test]
    fn an_id_follows_from_the_creation_of_the_journal_alone() {
        let id = HubId::of("REVEILLE_EVENTS", 1_764_000_000_123_456_789);
        assert_eq!(id, HubId::of("REVEILLE_EVENTS", 1_764_000_000_123_456_789));
        assert_ne!(id, HubId::of("REVEILLE_EVENTS", 1_764_000_000_123_456_790));
        assert_ne!(id, HubId::of("OTHER", 1_764_000_000_123_456_789));
        assert_eq!(id.to_string().len(), 16);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn only_sixteen_hex_digits_in_lower_case_are_an_id() {
        assert!(ONE.parse::<HubId>().is_ok());
        for text in [
            "",
            "00112233445566A",
            "00112233445566AA",
            "00112233445566aa0",
            "0x112233445566aa",
        ] {
            assert_eq!(text.parse::<HubId>(), Err(InvalidHubId), "{text}");
        }
    }

    #[test]
    fn the_hubs_on_the_way_are_read_from_all_lines_and_no_further_than_they_matter() {
        let both = format!("{ONE}, {OTHER}");
        for lines in [
            vec![both.as_str()],
            vec![ONE, OTHER],
            vec![" , ", ONE, "", &format!("{OTHER},")],
        ] {
            assert_eq!(read(&lines).as_deref(), Ok(both.as_str()), "{lines:?}");
        }
        assert_eq!(read(&[]).as_deref(), Ok(""));
        for malformed in [
            "hub",
            "1.1 proxy",
            &format!("{ONE} {OTHER}"),
            &format!("{ONE}, x"),
        ] {
            assert_eq!(read(&[malformed]), Err(InvalidHubId), "{malformed}");
        }
        let most = [ONE; MAX_HUBS].join(",");
        let too_long =
            |lines: &[&str]| Via::read(lines.iter().map(|line| line.as_bytes())).map(|via| via.is_too_long());
        assert_eq!(too_long(&[&most]), Ok(false));
        assert_eq!(too_long(&[&most, ONE]), Ok(true));
        assert_eq!(too_long(&[&most, ONE, "and whatever follows"]), Ok(true));
    }

    #[test]
    fn a_hub_is_found_again_in_what_it_has_added_itself_to() {
        let (one, other) = (ONE.parse().expect("an id"), OTHER.parse().expect("an id"));
        let via = Via::default().and(one);
        assert!(via.contains(one) && !via.contains(other) && !via.is_empty());
        assert_eq!(via.and(other).to_string(), format!("{ONE}, {OTHER}"));
    }
}
