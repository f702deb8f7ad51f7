//! The authenticated caller of a request.

use super::{Denied, KeySnapshot, KeyState};
use reveille_domain::{
    KeyId, Priority, Scope, Scopes,
    key::{KeyPolicy, ProgressForm},
};
use std::sync::Arc;

/// The caller. Every request behind the authenticator has one among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    who: Who,
}

#[derive(Debug, Clone)]
enum Who {
    /// A user of this machine without a key, where none is needed.
    Operator,
    /// A holder of the root key.
    Root(KeyId),
    /// A holder of a key of the journal.
    Key(Arc<KeySnapshot>),
}

impl Caller {
    /// A user of this machine, who may do everything but make keys.
    pub const fn operator() -> Self {
        Self { who: Who::Operator }
    }

    pub(super) const fn root(id: KeyId) -> Self {
        Self { who: Who::Root(id) }
    }

    pub(super) const fn holder(key: Arc<KeySnapshot>) -> Self {
        Self { who: Who::Key(key) }
    }

    pub fn key(&self) -> Option<&KeyId> {
        match &self.who {
            Who::Operator => None,
            Who::Root(id) => Some(id),
            Who::Key(known) => Some(known.state.id()),
        }
    }

    /// What the caller's key permits; `None` for everything.
    fn policy(&self) -> Option<&KeyPolicy> {
        match &self.who {
            Who::Operator | Who::Root(_) => None,
            Who::Key(known) => match &known.state {
                KeyState::Issued(key) => Some(&key.policy),
                // Never authenticated.
                KeyState::Revoked(_) | KeyState::Unreadable(_) => None,
            },
        }
    }

    /// What the caller may do; `None` for everything.
    fn scopes(&self) -> Option<&Scopes> {
        self.policy().map(|policy| &policy.scopes)
    }

    /// How its waiting streams report progress, if its key says so.
    pub fn progress(&self) -> Option<ProgressForm> {
        self.policy()?.progress
    }

    /// How soon its requests have their turn where requests wait.
    pub fn priority(&self) -> Priority {
        self.policy()
            .map_or_else(Priority::default, |policy| policy.priority)
    }

    pub fn require(&self, scope: &Scope) -> Result<(), Denied> {
        let has = self.scopes().is_none_or(|scopes| scopes.contains(scope));
        let scope = scope.to_string();
        if has { Ok(()) } else { Err(Denied::Scope { scope }) }
    }

    /// Making keys and agents needs a key on loopback too, so that another account of this machine can't give itself a key
    /// that outlasts it.
    pub fn require_admin_key(&self) -> Result<(), Denied> {
        self.key().ok_or(Denied::AdminKey)?;
        self.require(&Scope::Admin)
    }

    /// Refuses a caller that may use no model at all.
    pub fn require_infer(&self) -> Result<(), Denied> {
        let scope = "infer:<model>".to_owned();
        let may = self.scopes().is_none_or(Scopes::may_infer);
        if may { Ok(()) } else { Err(Denied::Scope { scope }) }
    }

    pub fn may_ask(&self, asked: &str, model: &str) -> bool {
        self.scopes().is_none_or(|scopes| scopes.may_ask(asked, model))
    }

    /// The names of single models that the caller may use, those of the form `agent/model` included.
    pub fn named_models(&self) -> impl Iterator<Item = &str> {
        self.scopes()
            .into_iter()
            .flat_map(Scopes::iter)
            .filter_map(|scope| match scope {
                Scope::Infer(model) => Some(model.as_str()),
                Scope::InferAny | Scope::Admin | Scope::Query => None,
            })
    }
}
