//! The token that is carried from the hub to a machine: the hub's URL and a secret that enrolls one agent, once.

use super::text;
use crate::{client::Row, failure::Failure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_domain::{AgentName, TokenId};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use url::Url;

/// Lets people and secret scanners recognise a token.
const PREFIX: &str = "rvt_";

/// A token. Anyone who has it can enroll as the agent, until it is used or expires.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    /// The URL of the hub's API.
    pub hub: Url,
    /// The agent.
    pub agent: AgentName,
    /// Its id.
    pub id: TokenId,
    /// Its secret.
    pub secret: String,
}

impl Token {
    /// The token from the API's response.
    pub fn of(hub: &Url, issued: &Row) -> Result<Self, Failure> {
        Ok(Self {
            hub: hub.clone(),
            agent: AgentName::parse(&text(issued, "agent")?)?,
            id: TokenId(text(issued, "token_id")?.parse()?),
            secret: text(issued, "secret")?,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", BASE64.encode(json))
    }
}

impl FromStr for Token {
    type Err = &'static str;
    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        let read = || {
            let json = BASE64.decode(raw.trim().strip_prefix(PREFIX)?).ok()?;
            serde_json::from_slice(&json).ok()
        };
        read().ok_or(
            "that isn't a join token: copy the whole `rvt_…` text that `reveille agent-token create` printed",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_hides_its_secret_from_debug_output() {
        let token = Token {
            hub: Url::parse("https://hub.example:8420").unwrap(),
            agent: AgentName::parse("gpu-box").unwrap(),
            id: TokenId(uuid::Uuid::from_u128(7)),
            secret: "s3cret".to_owned(),
        };
        let read: Token = token.to_string().parse().unwrap();
        assert_eq!(
            (read.hub, read.agent, read.secret),
            (token.hub.clone(), token.agent.clone(), token.secret.clone())
        );
        assert!(!format!("{token:?}").contains("s3cret"));
        for raw in ["", "rvt_", "rvt_e30", "rv_abc_def", &token.to_string()[1..]] {
            assert!(raw.parse::<Token>().is_err(), "{raw}");
        }
    }
}
