//! The parties on NATS, and what each may publish and subscribe to. Server configs and the tokens of agents are both
//! generated from this list.
//!
//! Agents have no permission for JetStream: with any, a reply subject or a consumer's target would reach the subjects of
//! others. No role has `allow_responses`: answers go to subjects that name the party that may answer.

use crate::{
    streams::{HEARTBEATS_STREAM, JOURNAL_STREAM, REQUESTS_STREAM},
    subjects,
};
use reveille_domain::AgentName;
use strum::Display;

/// A party on NATS.
#[derive(Debug, Clone, PartialEq, Eq, Display)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// An API replica: appends to the journal, talks to agents, admits them, says what became of requests.
    Api,
    /// A projector: reads the journal, the heartbeats and the requests.
    Projector,
    /// A program that follows the facts.
    Subscriber,
    /// An operator's command, such as an export or import of the journal.
    Admin,
    /// The party that ends connections, from the servers' system account.
    System,
    /// The agent of this name.
    #[strum(to_string = "agent {0}")]
    Agent(AgentName),
    /// A machine that joins with a token, by its public key. It may ask for nothing else.
    #[strum(to_string = "joining machine {0}")]
    Joining(String),
}

/// The subjects that a party may use, with NATS's wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// The only subjects it may publish to; none if empty.
    pub publish: Vec<String>,
    /// The only subjects it may subscribe to; none if empty.
    pub subscribe: Vec<String>,
}

impl Role {
    /// The roles whose keys are in the server's config, in the account that all parties share. Agents come and go without
    /// being listed there.
    pub const OF_THE_HUB: [Self; 4] = [Self::Api, Self::Projector, Self::Subscriber, Self::Admin];

    /// The prefix of the subjects on which this party receives answers; no other party may subscribe there.
    #[must_use]
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Api | Self::Projector | Self::Subscriber | Self::Admin | Self::System => {
                format!("_INBOX.{self}")
            }
            Self::Agent(name) => subjects::agent_inbox(name),
            Self::Joining(key) => subjects::joining_inbox(key),
        }
    }

    /// Whether this role creates the streams when they are missing; others wait for them.
    #[must_use]
    pub const fn makes_streams(&self) -> bool {
        match self {
            Self::Api | Self::Admin => true,
            Self::Projector | Self::Subscriber | Self::System | Self::Agent(_) | Self::Joining(_) => false,
        }
    }

    /// Whether this role can do nothing without JetStream.
    #[must_use]
    pub const fn uses_jetstream(&self) -> bool {
        match self {
            Self::Api | Self::Projector | Self::Admin => true,
            Self::Subscriber | Self::System | Self::Agent(_) | Self::Joining(_) => false,
        }
    }

    /// What this role may publish and subscribe to.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let inbox = format!("{}.>", self.inbox_prefix());
        let reading = || {
            [
                texts(&["$JS.API.INFO"]),
                reading(JOURNAL_STREAM),
                reading(HEARTBEATS_STREAM),
                reading(REQUESTS_STREAM),
            ]
            .concat()
        };
        match self {
            Self::Api => Permissions {
                publish: [
                    texts(&[
                        subjects::EVENTS,
                        "reveille.heartbeats._canary.*",
                        subjects::REQUESTS,
                        "reveille.wakes.*.*",
                        "reveille.orders.*",
                        "reveille.infer.*",
                        "_INBOX.agent.>",
                        // Where a server waits for the answer to an authorization request.
                        "$SYS._INBOX.>",
                    ]),
                    reading(),
                    making(JOURNAL_STREAM),
                    making(HEARTBEATS_STREAM),
                    making(REQUESTS_STREAM),
                ]
                .concat(),
                subscribe: texts(&[
                    &inbox,
                    subjects::CONTROL,
                    "reveille.replies.>",
                    "reveille.acks.>",
                    subjects::CALLOUT,
                ]),
            },
            Self::Projector => Permissions {
                publish: reading(),
                subscribe: texts(&[&inbox]),
            },
            Self::Subscriber => Permissions {
                publish: vec![],
                subscribe: texts(&[subjects::FACTS]),
            },
            Self::Admin => Permissions {
                publish: texts(&[subjects::EVENTS, "$JS.API.>"]),
                subscribe: texts(&[&inbox, subjects::FACTS, subjects::HEARTBEATS]),
            },
            Self::System => Permissions {
                publish: texts(&["$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.*.KICK"]),
                subscribe: texts(&[&inbox]),
            },
            Self::Agent(name) => Permissions {
                publish: vec![
                    subjects::control(name, "*"),
                    subjects::heartbeat(name),
                    format!("reveille.replies.*.{name}.*"),
                    subjects::ack(name, "*"),
                ],
                subscribe: vec![
                    subjects::wakes_of(name),
                    subjects::orders(name),
                    subjects::infer(name),
                    inbox,
                ],
            },
            Self::Joining(key) => Permissions {
                publish: vec![subjects::join_request(key)],
                subscribe: vec![inbox],
            },
        }
    }
}

fn texts(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|&subject| subject.to_owned()).collect()
}

/// The permissions to read a stream: its info, single messages, and consumers.
fn reading(stream: &str) -> Vec<String> {
    [
        "STREAM.INFO.{}",
        "STREAM.MSG.GET.{}",
        "DIRECT.GET.{}",
        "DIRECT.GET.{}.>",
        "CONSUMER.CREATE.{}",
        "CONSUMER.CREATE.{}.>",
        "CONSUMER.INFO.{}.*",
        "CONSUMER.DELETE.{}.*",
        "CONSUMER.MSG.NEXT.{}.*",
    ]
    .map(|call| format!("$JS.API.{}", call.replace("{}", stream)))
    .into()
}

fn making(stream: &str) -> Vec<String> {
    vec![format!("$JS.API.STREAM.CREATE.{stream}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_no_right_to_anything_that_does_not_name_it() {
        let name = AgentName::parse("gpu-box").expect("legal");
        let Permissions { publish, subscribe } = Role::Agent(name).permissions();
        for subject in publish.iter().chain(&subscribe) {
            assert!(subject.split('.').any(|token| token == "gpu-box"), "{subject}");
            assert!(!subject.starts_with('$'), "{subject}");
        }
    }

    #[test]
    fn a_machine_that_joins_has_no_right_to_anything_that_does_not_name_its_key() {
        let Permissions { publish, subscribe } = Role::Joining("UKEY".to_owned()).permissions();
        assert!(!publish.is_empty() && !subscribe.is_empty());
        for subject in publish.iter().chain(&subscribe) {
            assert!(subject.split('.').any(|token| token == "UKEY"), "{subject}");
        }
    }

    #[test]
    fn no_role_hears_anothers_answers() {
        let name = AgentName::parse("api").expect("legal");
        let joining = Role::Joining("UKEY".to_owned());
        let roles = [Role::OF_THE_HUB.to_vec(), vec![Role::Agent(name), joining]].concat();
        for one in &roles {
            for other in roles.iter().filter(|other| *other != one) {
                let inbox = format!("{}.", other.inbox_prefix());
                let heard = one.permissions().subscribe;
                assert!(
                    heard.iter().all(|subject| !subject.starts_with(&inbox)),
                    "{one} hears what is answered to {other}"
                );
            }
        }
    }
}
