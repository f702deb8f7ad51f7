//! The token that is carried from the hub to a machine: where the hub is, how the machine recognises it, and a secret that
//! enrolls one agent, once.
//!
//! The hub's certificate authority is in it by its SHA-256. The certificate itself would make the token three times as long, and
//! the server sends it anyway.

use super::text;
use crate::{client::Row, failure::Failure};
use anyhow::anyhow;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_bus::access::JoinToken;
use reveille_domain::{AgentName, TokenId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use url::Url;

/// Lets people and secret scanners recognise a token.
const PREFIX: &str = "rvt_";

/// A token. Anyone who has it can enroll as the agent, until it is used or expires.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    /// The hub.
    #[serde(flatten)]
    pub hub: HubAddress,
    /// The agent and the secret.
    #[serde(flatten)]
    pub join: JoinToken,
}

/// Where the machine asks to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HubAddress {
    /// At the hub's NATS server.
    Nats {
        /// `host:port` of each of its addresses.
        nats: Vec<String>,
        /// The SHA-256 of its certificate authority's certificate, in base64.
        ca: String,
    },
    /// At the hub's API.
    Api {
        /// Its URL.
        hub: Url,
    },
}

impl Token {
    /// The token from the API's response. It leads to the hub's NATS server if that takes machines in and no other `hub` is
    /// given, and otherwise to the API, at `hub` or at the address that answered.
    pub fn of(hub: Option<&Url>, api: &Url, issued: &Row) -> Result<Self, Failure> {
        let nats: Vec<String> = serde_json::from_value(issued["nats"].clone()).unwrap_or_default();
        let hub = match (hub, issued["ca_sha256"].as_str()) {
            (None, Some(_)) if nats.is_empty() => {
                return Err(anyhow!(
                    "the hub has no address now at which another machine reaches it: connect it to a network, start \
                     `reveille up --agents` with --host NAME, or use --hub URL"
                )
                .into());
            }
            (None, Some(ca)) => HubAddress::Nats {
                nats,
                ca: ca.to_owned(),
            },
            (hub, _) => HubAddress::Api {
                hub: hub.unwrap_or(api).clone(),
            },
        };
        Ok(Self {
            hub,
            join: JoinToken {
                agent: AgentName::parse(&text(issued, "agent")?)?,
                id: TokenId(text(issued, "token_id")?.parse()?),
                secret: text(issued, "secret")?,
            },
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.join.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", BASE64.encode(json))
    }
}

impl FromStr for Token {
    type Err = String;
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let raw = raw.trim();
        let read = || {
            let json = BASE64.decode(raw.strip_prefix(PREFIX)?).ok()?;
            serde_json::from_slice(&json).ok()
        };
        read().ok_or_else(|| {
            let what = if raw.starts_with(PREFIX) {
                "the token is incomplete or damaged"
            } else {
                "that isn't a join token"
            };
            format!(
                "{what}: copy the whole `rvt_…` text that the hub printed, which has no spaces or line breaks"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(hub: HubAddress) -> Token {
        Token {
            hub,
            join: JoinToken {
                agent: AgentName::parse("gpu-box").unwrap(),
                id: TokenId(uuid::Uuid::from_u128(7)),
                secret: "s3cret".to_owned(),
            },
        }
    }

    #[test]
    fn a_token_reads_back_and_hides_its_secret_from_debug_output() {
        let api = HubAddress::Api {
            hub: Url::parse("https://hub.example:8420").unwrap(),
        };
        let nats = HubAddress::Nats {
            nats: vec!["192.0.2.1:8422".to_owned()],
            ca: "AAAA".to_owned(),
        };
        for hub in [api, nats] {
            let token = token(hub.clone());
            let read: Token = token.to_string().parse().unwrap();
            assert_eq!((read.hub, read.join), (hub, token.join.clone()));
            assert!(!format!("{token:?}").contains("s3cret"));
            for raw in ["", "rvt_", "rvt_e30", "rv_abc_def", &token.to_string()[1..]] {
                assert!(raw.parse::<Token>().is_err(), "{raw}");
            }
        }
    }

    #[test]
    fn a_token_that_lost_its_end_is_called_incomplete() {
        let whole = token(HubAddress::Api {
            hub: Url::parse("https://hub.example:8420").unwrap(),
        })
        .to_string();
        for end in 4..whole.len() {
            let said = whole[..end].parse::<Token>().unwrap_err();
            assert!(said.contains("incomplete"), "{said}");
        }
    }

    #[test]
    fn a_token_leads_to_the_hubs_nats_server_unless_another_address_is_asked_for() {
        let api = Url::parse("http://127.0.0.1:8420").unwrap();
        let other = Url::parse("https://hub.example").unwrap();
        let issued = |nats: serde_json::Value| {
            let mut row = json!({"agent": "gpu-box", "token_id": uuid::Uuid::from_u128(7), "secret": "x"});
            row["nats"] = nats;
            row["ca_sha256"] = json!("AAAA");
            row
        };
        let at = |hub: Option<&Url>, nats| Token::of(hub, &api, &issued(nats)).unwrap().hub;
        let port = json!(["192.0.2.1:8422"]);
        assert!(matches!(at(None, port.clone()), HubAddress::Nats { .. }));
        assert_eq!(at(Some(&other), port), HubAddress::Api { hub: other.clone() });
        let mut without = issued(json!(null));
        without["ca_sha256"] = json!(null);
        let hub = Token::of(None, &api, &without).unwrap().hub;
        assert_eq!(hub, HubAddress::Api { hub: api.clone() });
        let nowhere = json!([]);
        assert_eq!(at(Some(&other), nowhere.clone()), HubAddress::Api { hub: other });
        let said = Token::of(None, &api, &issued(nowhere)).unwrap_err().to_string();
        assert!(
            said.contains("no address now"),
            "a token to this machine itself: {said}"
        );
    }
}
