//! Who asks, once that is known: what handlers decide by.

use super::{Denied, KeySnapshot, KeyState, NeededScope};
use reveille_domain::{KeyId, Scope, Scopes};
use std::sync::Arc;

/// Who asks. Every request behind the authenticator has one among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    who: Who,
}

#[derive(Debug, Clone)]
enum Who {
    /// Somebody on this machine, without a key, where none is needed.
    Operator,
    /// The holder of the root key.
    Root(KeyId),
    /// The holder of a key of the journal.
    Key(Arc<KeySnapshot>),
}

impl Caller {
    /// Somebody on this machine, who may do everything but make keys.
    pub const fn operator() -> Self {
        Self { who: Who::Operator }
    }

    pub(super) const fn root(id: KeyId) -> Self {
        Self { who: Who::Root(id) }
    }

    pub(super) const fn holder(key: Arc<KeySnapshot>) -> Self {
        Self { who: Who::Key(key) }
    }

    /// The key he came with.
    pub fn key(&self) -> Option<&KeyId> {
        match &self.who {
            Who::Operator => None,
            Who::Root(id) => Some(id),
            Who::Key(known) => Some(known.id()),
        }
    }

    /// What he may do; `None` for everything.
    fn scopes(&self) -> Option<&Scopes> {
        match &self.who {
            Who::Operator | Who::Root(_) => None,
            Who::Key(known) => match &known.state {
                KeyState::Issued(key) => Some(&key.policy.scopes),
                // Never authenticated.
                KeyState::Revoked(_) | KeyState::Unreadable(_) => None,
            },
        }
    }

    /// Refuses him unless he has the scope.
    ///
    /// # Errors
    /// When he hasn't.
    pub fn require(&self, scope: Scope) -> Result<(), Denied> {
        let has = self.scopes().is_none_or(|scopes| scopes.contains(&scope));
        let scope = NeededScope::One(scope);
        if has { Ok(()) } else { Err(Denied::Scope { scope }) }
    }

    /// Refuses the operator who came without a key.
    ///
    /// # Errors
    /// When there is none.
    pub fn require_key(&self) -> Result<(), Denied> {
        self.key().map(|_| ()).ok_or(Denied::AdminKey)
    }

    /// Refuses him unless he may ask some model.
    ///
    /// # Errors
    /// When he may ask none.
    pub fn require_infer(&self) -> Result<(), Denied> {
        let scope = NeededScope::AnyInfer;
        let may = self.scopes().is_none_or(Scopes::may_infer);
        if may { Ok(()) } else { Err(Denied::Scope { scope }) }
    }

    /// See [`Scopes::may_ask`].
    pub fn may_ask(&self, asked: &str, model: &str) -> bool {
        self.scopes().is_none_or(|scopes| scopes.may_ask(asked, model))
    }

    /// The names that single models are allowed by: of these, those with an agent stand in no list of public names.
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
