//! NATS's JSON web tokens, as far as admitting a connection needs them: a server's request, the response to it, and the
//! token in the response that holds the connection's permissions. They are signed with nkeys (`alg: ed25519-nkey`).
//!
//! Formats: <https://github.com/nats-io/jwt>, version 2.

use super::{
    nats_key::{NatsKey, has_signed},
    role::Permissions,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
const VERSION: u8 = 2;
/// After how many seconds a dismissed connection ends: at the next full second, and not before it is made.
const DISMISSED_AFTER_SECS: u64 = 1;
/// After how many seconds the connection of a machine that joins ends. A token that was used or has expired gets one too.
const JOINING_ENDS_AFTER_SECS: u64 = 60;
/// The longest message that such a machine may send: its token in JSON, several times over.
const MAX_JOINING_BYTES: i64 = 1024;
/// Stands for the server's own limit.
const NO_LIMIT: i64 = -1;
/// The audience of a server's request.
const REQUEST_AUDIENCE: &str = "nats-authorization-request";
/// The account of all parties of Reveille: the server's default account.
pub(super) const ACCOUNT: &str = "$G";

#[derive(Debug, Serialize, Deserialize)]
struct Claims<T> {
    jti: String,
    /// When it was issued, in Unix seconds, for information only.
    iat: u64,
    /// When it expires, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// The public key that signed it.
    iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    sub: String,
    aud: String,
    nats: T,
}

/// A server's request to authorize a connection.
#[derive(Debug, Deserialize)]
pub(super) struct AuthRequestClaims {
    server_id: ServerId,
    /// The server's temporary name for the connection.
    pub user_nkey: String,
    client_info: ClientInfo,
    connect_opts: ConnectOptions,
    /// When the server asked, by its own clock, in Unix seconds.
    #[serde(skip)]
    asked_at: u64,
}

#[derive(Debug, Deserialize)]
struct ServerId {
    id: String,
}

#[derive(Debug, Deserialize)]
struct ClientInfo {
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    host: String,
}

#[derive(Debug, Deserialize)]
struct ConnectOptions {
    #[serde(default)]
    nkey: String,
    #[serde(default)]
    sig: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    pass: String,
}

#[derive(Debug, Serialize)]
struct AuthResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    r#type: &'static str,
    version: u8,
}

#[derive(Debug, Serialize)]
struct User {
    r#pub: Rule,
    sub: Rule,
    /// The limits on subscriptions, data and message size.
    subs: i64,
    data: i64,
    payload: i64,
    r#type: &'static str,
    version: u8,
}

/// Which subjects are allowed. Two empty lists would allow everything.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
}

impl From<Vec<String>> for Rule {
    fn from(allow: Vec<String>) -> Self {
        let deny = if allow.is_empty() {
            vec![">".to_owned()]
        } else {
            vec![]
        };
        Self { allow, deny }
    }
}

impl AuthRequestClaims {
    /// Reads a server's request; `None` if the token is something else.
    pub fn read(token: &[u8]) -> Option<Self> {
        let claims: Claims<Self> = read(token)?;
        (claims.aud == REQUEST_AUDIENCE).then_some(Self {
            asked_at: claims.iat,
            ..claims.nats
        })
    }

    /// The public key that the connecting party has proven to hold, by signing the nonce that this server gave this
    /// connection. The server itself doesn't check that signature.
    pub fn proven_key(&self) -> Option<&str> {
        let key = self.connect_opts.nkey.as_str();
        let nonce = self.client_info.nonce.as_bytes();
        let signature = BASE64.decode(&self.connect_opts.sig).ok()?;
        let proven =
            NatsKey::is_public_user_key(key) && !nonce.is_empty() && has_signed(key, nonce, &signature);
        proven.then_some(key)
    }

    /// The user name and password that it gave beside its key; both empty without.
    pub fn login(&self) -> (&str, &str) {
        (&self.connect_opts.user, &self.connect_opts.pass)
    }

    /// The address that the connection comes from.
    pub fn host(&self) -> &str {
        &self.client_info.host
    }

    /// The name that the connecting party gives its connection.
    pub fn connection_name(&self) -> &str {
        &self.connect_opts.name
    }

    /// The response that admits the connection as `name` with these permissions, signed by `issuer`.
    pub fn admit(&self, issuer: &NatsKey, name: &str, permissions: Permissions) -> Option<String> {
        self.permit(issuer, name, permissions, NO_LIMIT, None)
    }

    /// The same for a machine that joins: for a minute, and for short messages.
    pub fn admit_joining(&self, issuer: &NatsKey, name: &str, permissions: Permissions) -> Option<String> {
        let expires = self.asked_at + JOINING_ENDS_AFTER_SECS;
        self.permit(issuer, name, permissions, MAX_JOINING_BYTES, Some(expires))
    }

    /// The response that ends the connection with an error of its own: "User Authentication Expired". Until then, for a
    /// second or two, it may do nothing.
    pub fn dismiss(&self, issuer: &NatsKey, name: &str) -> Option<String> {
        let nothing = Permissions {
            publish: vec![],
            subscribe: vec![],
        };
        // By the server's clock, which ours may differ from.
        let expires = self.asked_at + DISMISSED_AFTER_SECS;
        self.permit(issuer, name, nothing, NO_LIMIT, Some(expires))
    }

    fn permit(
        &self,
        issuer: &NatsKey,
        name: &str,
        permissions: Permissions,
        max_message_bytes: i64,
        expires: Option<u64>,
    ) -> Option<String> {
        let user = User {
            r#pub: permissions.publish.into(),
            sub: permissions.subscribe.into(),
            subs: NO_LIMIT,
            data: NO_LIMIT,
            payload: max_message_bytes,
            r#type: "user",
            version: VERSION,
        };
        let user = signed(issuer, name, &self.user_nkey, ACCOUNT, expires, user)?;
        self.answer(issuer, Some(&user), None)
    }

    /// The response that refuses the connection. The server logs the reason; the connecting party learns only that it was
    /// refused.
    pub fn refuse(&self, issuer: &NatsKey, reason: &str) -> Option<String> {
        self.answer(issuer, None, Some(reason))
    }

    fn answer(&self, issuer: &NatsKey, jwt: Option<&str>, error: Option<&str>) -> Option<String> {
        let answer = AuthResponse {
            jwt,
            error,
            r#type: "authorization_response",
            version: VERSION,
        };
        signed(issuer, "", &self.user_nkey, &self.server_id.id, None, answer)
    }
}

fn signed<T: Serialize>(
    issuer: &NatsKey,
    name: &str,
    subject: &str,
    audience: &str,
    exp: Option<u64>,
    nats: T,
) -> Option<String> {
    let claims = Claims {
        jti: Uuid::now_v7().to_string(),
        iat: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        exp,
        iss: issuer.public(),
        name: name.to_owned(),
        sub: subject.to_owned(),
        aud: audience.to_owned(),
        nats,
    };
    let body = serde_json::to_vec(&claims).ok()?;
    let text = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(body));
    let signature = issuer.sign(text.as_bytes())?;
    Some(format!("{text}.{}", BASE64.encode(signature)))
}

/// The claims of a token, if the signature is by the issuer that it names.
fn read<T: DeserializeOwned>(token: &[u8]) -> Option<Claims<T>> {
    let token = std::str::from_utf8(token).ok()?.trim();
    let (text, signature) = token.rsplit_once('.')?;
    let (_, body) = text.split_once('.')?;
    let claims: Claims<T> = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
    let signature = BASE64.decode(signature).ok()?;
    has_signed(&claims.iss, text.as_bytes(), &signature).then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The request of a server that gave a connection `nonce`, after it signed `signs` with `key`.
    fn question(key: &NatsKey, signs: &str, nonce: &str) -> Vec<u8> {
        let server = NatsKey::fresh_account();
        let nats = json!({
            "server_id": {"id": "NSERVER", "name": "n"},
            "user_nkey": "UNOBODY",
            "client_info": {"nonce": nonce, "host": "127.0.0.1"},
            "connect_opts": {
                "nkey": key.public(),
                "sig": BASE64.encode(key.sign(signs.as_bytes()).expect("signed")),
            },
        });
        let token = signed(&server, "", "A", REQUEST_AUDIENCE, None, nats);
        token.expect("signed").into_bytes()
    }

    #[test]
    fn a_key_is_proven_by_a_signature_of_this_connections_nonce_only() {
        let key = NatsKey::fresh_user();
        let asked = AuthRequestClaims::read(&question(&key, "nonce-1", "nonce-1")).expect("a question");
        assert_eq!(asked.proven_key(), Some(key.public().as_str()));
        for (signs, nonce) in [("nonce-1", "nonce-2"), ("", ""), ("nonce-1", "")] {
            let replayed = AuthRequestClaims::read(&question(&key, signs, nonce)).expect("a question");
            assert_eq!(replayed.proven_key(), None, "{signs} for {nonce}");
        }
        let issuer = NatsKey::fresh_account();
        let no_user = AuthRequestClaims::read(&question(&issuer, "n", "n")).expect("a question");
        assert_eq!(no_user.proven_key(), None, "an account's key is no user's");
    }

    #[test]
    fn a_changed_question_is_none() {
        let token = question(&NatsKey::fresh_user(), "n", "n");
        let text = String::from_utf8(token.clone()).expect("text");
        let body = text.split('.').nth(1).expect("three parts");
        let other = BASE64.encode(
            String::from_utf8(BASE64.decode(body).expect("base64"))
                .expect("text")
                .replace("NSERVER", "NOTHERS"),
        );
        assert!(AuthRequestClaims::read(&token).is_some());
        assert!(AuthRequestClaims::read(text.replace(body, &other).as_bytes()).is_none());
        for nonsense in ["", ".", "..", "a.b.c", "e30.e30.e30"] {
            assert!(
                AuthRequestClaims::read(nonsense.as_bytes()).is_none(),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn an_answer_is_for_one_connection_of_one_server_and_holds_the_rights() {
        let asked = AuthRequestClaims::read(&question(&NatsKey::fresh_user(), "n", "n")).expect("a question");
        let issuer = NatsKey::fresh_account();
        let rights = Permissions {
            publish: vec![],
            subscribe: vec!["a".to_owned()],
        };
        let answer = asked.admit(&issuer, "who", rights).expect("an answer");
        let answer: Claims<Value> = read(answer.as_bytes()).expect("signed");
        assert_eq!((answer.sub.as_str(), answer.aud.as_str()), ("UNOBODY", "NSERVER"));
        let user = answer.nats["jwt"].as_str().expect("a token");
        let user: Claims<Value> = read(user.as_bytes()).expect("signed");
        assert_eq!((user.iss, user.name.as_str()), (issuer.public(), "who"));
        assert_eq!(user.nats["pub"], json!({"deny": [">"]}));
        assert_eq!(user.nats["sub"], json!({"allow": ["a"]}));
    }

    #[test]
    fn a_dismissed_connection_may_do_nothing_and_expires_by_the_servers_clock() {
        let token = question(&NatsKey::fresh_user(), "n", "n");
        let asked_at = read::<Value>(&token).expect("signed").iat;
        let asked = AuthRequestClaims::read(&token).expect("a question");
        let answer = asked.dismiss(&NatsKey::fresh_account(), "who");
        let answer: Claims<Value> = read(answer.expect("an answer").as_bytes()).expect("signed");
        let user = answer.nats["jwt"].as_str().expect("a token");
        let user: Claims<Value> = read(user.as_bytes()).expect("signed");
        assert_eq!(user.exp, Some(asked_at + DISMISSED_AFTER_SECS));
        for rule in ["pub", "sub"] {
            assert_eq!(user.nats[rule], json!({"deny": [">"]}));
        }
    }
    #[test]
    fn a_machine_that_joins_is_admitted_for_a_minute_and_for_short_messages() {
        let token = question(&NatsKey::fresh_user(), "n", "n");
        let asked_at = read::<Value>(&token).expect("signed").iat;
        let asked = AuthRequestClaims::read(&token).expect("a question");
        let rights = || Permissions {
            publish: vec!["a".to_owned()],
            subscribe: vec![],
        };
        let issuer = NatsKey::fresh_account();
        let permit = |answer: Option<String>| {
            let answer: Claims<Value> = read(answer.expect("an answer").as_bytes()).expect("signed");
            let user = answer.nats["jwt"].as_str().expect("a token");
            read::<Value>(user.as_bytes()).expect("signed")
        };
        let joining = permit(asked.admit_joining(&issuer, "who", rights()));
        assert_eq!(joining.exp, Some(asked_at + JOINING_ENDS_AFTER_SECS));
        assert_eq!(joining.nats["payload"], MAX_JOINING_BYTES);
        let agent = permit(asked.admit(&issuer, "who", rights()));
        assert_eq!((agent.exp, &agent.nats["payload"]), (None, &json!(NO_LIMIT)));
    }
}
