//! From a request's headers to its caller.

use super::{
    Caller, Denied, KeyState, Keys, Permit, SecretKey,
    secret::{self, PREFIX},
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use reveille_domain::{KeyId, SecretHash, Timestamp};

/// Where Anthropic's clients put their key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER: &str = "bearer ";

const NO_KEY: Denied =
    Denied::Invalid("this is not a Reveille key: a key is rv_<id>_<secret>, sent as a bearer token");
const WRONG: Denied = Denied::Invalid("the key doesn't exist, or it was rotated or revoked");
const TWO: Denied = Denied::Invalid("the request has more than one key");

/// Whether a key is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// A caller without a key is the operator of this machine. What begins like a key is checked all the same; anything
    /// else, which many clients insist on sending, is ignored.
    #[default]
    Open,
    /// A request without a key is refused.
    Required,
}

pub(crate) struct Authenticator {
    mode: AuthMode,
    root: Option<(KeyId, SecretHash)>,
    keys: Keys,
    /// Whether the fold includes all keys of the journal.
    folded: Box<dyn Fn() -> bool + Send + Sync>,
    now: Box<dyn Fn() -> Option<Timestamp> + Send + Sync>,
}

impl Authenticator {
    pub fn new(
        mode: AuthMode,
        root: Option<&SecretKey>,
        keys: Keys,
        folded: impl Fn() -> bool + Send + Sync + 'static,
        now: impl Fn() -> Option<Timestamp> + Send + Sync + 'static,
    ) -> Self {
        Self {
            mode,
            root: root.map(|key| (key.id().clone(), key.hash())),
            keys,
            folded: Box::new(folded),
            now: Box::new(now),
        }
    }

    pub(crate) const fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn now(&self) -> Option<Timestamp> {
        (self.now)()
    }

    /// The caller that sent these headers, and a permit if its key limits the requests under way.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<(Caller, Option<Permit>), Denied> {
        match self.credential(headers)? {
            None => Ok((Caller::operator(), None)),
            Some(text) => self.holder(text),
        }
    }

    /// The request's key; `None` if it has none and needs none.
    fn credential<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, Denied> {
        let (bearers, own) = (headers.get_all(header::AUTHORIZATION), headers.get_all(X_API_KEY));
        let tokens = || {
            let bearers = bearers.iter().map(bearer_token);
            bearers.chain(own.iter().map(|value| value.to_str().ok()))
        };
        let ours = |token: Option<&str>| token.is_some_and(|token| token.starts_with(PREFIX));
        if self.mode == AuthMode::Open && !tokens().any(ours) {
            return Ok(None);
        }
        if bearers.iter().nth(1).is_some() || own.iter().nth(1).is_some() {
            return Err(TWO);
        }
        let mut tokens = tokens();
        match (tokens.next(), tokens.next()) {
            (None, _) => Err(Denied::Missing),
            (Some(Some(token)), None) => Ok(Some(token)),
            // In OpenAI's header and in Anthropic's.
            (Some(one), Some(other)) if one != other => Err(TWO),
            (Some(Some(token)), Some(_)) => Ok(Some(token)),
            (Some(None), _) => Err(NO_KEY),
        }
    }

    fn holder(&self, text: &str) -> Result<(Caller, Option<Permit>), Denied> {
        let (id, secret) = secret::split(text).ok_or(NO_KEY)?;
        let hash = secret::hash(secret);
        if let Some((root, root_hash)) = &self.root
            && root.as_str() == id
        {
            let caller = || (Caller::root(root.clone()), None);
            return secret::same(root_hash, &hash).then(caller).ok_or(WRONG);
        }
        let Some(known) = self.keys.get(id) else {
            return Err(if (self.folded)() { WRONG } else { Denied::NotReady });
        };
        let key = match &known.state {
            KeyState::Issued(key) => key,
            KeyState::Revoked(_) => return Err(WRONG),
            KeyState::Unreadable(key) => return Err(Denied::Unreadable { key: key.clone() }),
        };
        let now = self.now();
        let timeless = key.policy.expires_at_ms.is_none() && key.previous.is_none();
        // For a key that never expires, any time will do.
        let at = match now {
            Some(now) => now,
            None if timeless => key.created_at_ms,
            None => return Err(Denied::NotReady),
        };
        if !key.secrets_at(at).any(|valid| secret::same(valid, &hash)) {
            let late = key.policy.expired_at(at) && secret::same(&key.secret, &hash);
            let expired = || Denied::Expired { key: key.id.clone() };
            return Err(if late { expired() } else { WRONG });
        }
        let permit = known.limits.enter(&key.id, now)?;
        Ok((Caller::holder(known), permit))
    }
}

/// The text after `Bearer`, which may be in upper or lower case (RFC 9110).
fn bearer_token(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_at_checked(BEARER.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(BEARER);
    is_bearer.then(|| token.trim_start_matches(' '))
}
