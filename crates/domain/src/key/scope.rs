//! What a key may ask for.

use crate::{InvalidName, ModelName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};
use thiserror::Error;

/// The most scopes of one key.
pub const MAX_SCOPES: usize = 64;

/// One thing that a key may do; written `admin`, `query`, `infer:*` or `infer:<model>`. None includes another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Make, rotate and revoke keys; wake and put to sleep by hand.
    Admin,
    /// Read llms, providers, wakes and events.
    Query,
    /// Ask every model.
    InferAny,
    /// Ask this model: by its public name, wherever it is served, or by `agent/model`, on that agent alone.
    Infer(ModelName),
}

/// Why a text isn't a scope, or a list of them isn't what a key may have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidScope {
    /// Not the name of a scope.
    #[error("a scope is admin, query, infer:* or infer:<model>")]
    Unknown,
    /// What it names can't be a model.
    #[error("infer:<model>: {0}")]
    Model(InvalidName),
    /// A key that permits nothing, or a list without an end.
    #[error("a key has 1 to {MAX_SCOPES} scopes")]
    Count,
}

impl FromStr for Scope {
    type Err = InvalidScope;
    fn from_str(raw: &str) -> Result<Self, InvalidScope> {
        match (raw, raw.strip_prefix("infer:")) {
            ("admin", _) => Ok(Self::Admin),
            ("query", _) => Ok(Self::Query),
            (_, Some("*")) => Ok(Self::InferAny),
            (_, Some(model)) => ModelName::parse(model)
                .map(Self::Infer)
                .map_err(InvalidScope::Model),
            (_, None) => Err(InvalidScope::Unknown),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Query => f.write_str("query"),
            Self::InferAny => f.write_str("infer:*"),
            Self::Infer(model) => write!(f, "infer:{model}"),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;
    fn try_from(raw: String) -> Result<Self, InvalidScope> {
        raw.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// A key's scopes: one at least, [`MAX_SCOPES`] at most, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<Scope>")]
pub struct Scopes(BTreeSet<Scope>);

impl TryFrom<BTreeSet<Scope>> for Scopes {
    type Error = InvalidScope;
    fn try_from(scopes: BTreeSet<Scope>) -> Result<Self, InvalidScope> {
        match scopes.len() {
            1..=MAX_SCOPES => Ok(Self(scopes)),
            _ => Err(InvalidScope::Count),
        }
    }
}

impl Scopes {
    /// Everything: what the root key has.
    #[must_use]
    pub fn all() -> Self {
        Self([Scope::Admin, Scope::Query, Scope::InferAny].into())
    }

    /// Whether this scope is among them. What [`Scope::InferAny`] includes is asked with [`may_ask`](Self::may_ask).
    #[must_use]
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.contains(scope)
    }

    /// Whether any model may be asked.
    #[must_use]
    pub fn may_infer(&self) -> bool {
        let infers = |scope: &Scope| matches!(scope, Scope::InferAny | Scope::Infer(_));
        self.0.iter().any(infers)
    }

    /// Whether a request that says `asked` may be served by the model whose public name is `model`: the same text, or
    /// the part of `agent/model` behind the agent.
    #[must_use]
    pub fn may_ask(&self, asked: &str, model: &str) -> bool {
        self.0.iter().any(|scope| match scope {
            Scope::InferAny => true,
            Scope::Infer(allowed) => [asked, model].contains(&allowed.as_str()),
            Scope::Admin | Scope::Query => false,
        })
    }

    /// The scopes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }
}
