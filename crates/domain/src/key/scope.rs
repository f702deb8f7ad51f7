//! What a key may be used for.

use crate::names::{InvalidName, ModelName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};
use thiserror::Error;

/// The most scopes of one key.
pub const MAX_SCOPES: usize = 64;

/// One permission: `admin`, `query`, `infer:*` or `infer:<model>`. No scope includes another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Create, rotate and revoke keys; wake providers and put them to sleep by hand.
    Admin,
    /// Read llms, providers, wakes and events.
    Query,
    /// Use every model.
    InferAny,
    /// Use this model: named by its public name on any agent, named `agent/model` on that agent only, and named
    /// `agent/provider/model` at that provider only.
    Infer(ModelName),
}

/// Why a text isn't a scope, or a list of scopes isn't one that a key can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidScope {
    /// Not the name of a scope.
    #[error("a scope is admin, query, infer:* or infer:<model>")]
    Unknown,
    /// It names no legal model.
    #[error("infer:<model>: {0}")]
    Model(InvalidName),
    /// No scope, or too many.
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

/// A key's scopes: 1 to [`MAX_SCOPES`], each once.
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
    /// Every permission: the scopes of the root key.
    #[must_use]
    pub fn all() -> Self {
        Self([Scope::Admin, Scope::Query, Scope::InferAny].into())
    }

    /// Whether this very scope is among them. For models ask [`may_ask`](Self::may_ask).
    #[must_use]
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.contains(scope)
    }

    /// Whether any model may be used.
    #[must_use]
    pub fn may_infer(&self) -> bool {
        let infers = |scope: &Scope| matches!(scope, Scope::InferAny | Scope::Infer(_));
        self.0.iter().any(infers)
    }

    /// Whether a request for `asked` may be served by the model whose public name is `model`: `asked` is that name, or
    /// that name after `agent/` or `agent/provider/`.
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
