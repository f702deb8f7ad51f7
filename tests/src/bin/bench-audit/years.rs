//! A sound journal of any length, as an archive: an agent whose providers are woken and fall asleep again, for years. It is
//! written as the documentation says, without our own types.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{Result, Write},
};
use uuid::Uuid;

const AGENT: &str = "gpu-box";
const SESSION: &str = "01990000-0000-7000-8000-000000000001";
/// When everything begins, and the time between two commits.
const BEGIN_MS: u64 = 1_764_000_000_000;
const STEP_MS: u64 = 60_000;
/// How many ended wakes a state remembers, and how many commands a commit.
const REMEMBERED: usize = 8;
const RECENT: usize = 16;

/// The journal, as far as it is written.
pub struct Years {
    providers: Vec<Provider>,
}

#[derive(Default)]
struct Provider {
    number: u64,
    name: String,
    commits: u64,
    prev: Option<String>,
    recent: VecDeque<Uuid>,
    last_seq: u64,
    /// When its last commit was.
    last_at: u64,
    wakes: u64,
    ended: VecDeque<String>,
}

/// A commit without what its provider knows.
struct Body {
    event: String,
    status: String,
    heard_at: u64,
}

impl Years {
    pub fn new(providers: u64) -> Self {
        let provider = |number| Provider {
            number,
            name: format!("vllm-{number}"),
            ..Provider::default()
        };
        Self {
            providers: (0..providers).map(provider).collect(),
        }
    }

    /// Writes an archive of so many commits.
    pub fn write(mut self, out: &mut impl Write, commits: u64) -> Result<()> {
        let head = format!(
            r#"{{"format":"reveille-journal","version":1,"stream":"REVEILLE_EVENTS","first_seq":1,"last_seq":{commits}}}"#
        );
        writeln!(out, "{head}")?;
        let mut digest = hash(head.as_bytes());
        for sequence in 1..=commits {
            let (subject, payload) = match sequence {
                1 => (format!("reveille.events.agent.{AGENT}"), connected()),
                _ => {
                    let index = usize::try_from(sequence).unwrap_or_default() % self.providers.len();
                    self.providers[index].next(sequence)
                }
            };
            digest = digested(&digest, sequence, &subject, payload.as_bytes());
            let at = BEGIN_MS + sequence * STEP_MS;
            let payload = STANDARD.encode(payload);
            writeln!(
                out,
                r#"{{"seq":{sequence},"subject":"{subject}","headers":[],"payload":"{payload}","stored_ms":{at},"digest":"{digest}"}}"#
            )?;
        }
        writeln!(out, r#"{{"commits":{commits},"digest":"{digest}"}}"#)
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The digest of a line without headers.
fn digested(before: &str, sequence: u64, subject: &str, payload: &[u8]) -> String {
    let mut bytes = before.as_bytes().to_vec();
    bytes.extend(sequence.to_be_bytes());
    for part in [subject.as_bytes(), &0_u64.to_be_bytes(), payload] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
    hash(&bytes)
}

fn connected() -> String {
    let at = BEGIN_MS;
    format!(
        r#"{{"v":1,"aggregate_version":1,"first_event_seq":1,"prev":null,"command_id":"{SESSION}","at_ms":{at},"cause":"connect","recent_command_ids":[],"events":[{{"type":"AgentConnected","version":"1","data":{{"name":"{AGENT}","session":"{SESSION}","epoch":1,"version":"0.1.0","at_ms":{at}}}}}],"state_version":1,"state":{{"state":"connected","name":"{AGENT}","id":"{SESSION}","epoch":1,"connected_at_ms":{at},"version":"0.1.0","earlier":[]}}}}"#
    )
}

impl Provider {
    /// The subject and the payload of its next commit: it is registered, and then woken, awake and asleep in turn.
    fn next(&mut self, sequence: u64) -> (String, String) {
        let at = BEGIN_MS + sequence * STEP_MS;
        let body = match (self.commits, self.commits % 3) {
            (0, _) => self.registered(at),
            (_, 1) => self.requested(at),
            (_, 2) => self.succeeded(at),
            _ => self.slept(at),
        };
        self.commits += 1;
        let number = self.commits;
        let prev = self
            .prev
            .as_ref()
            .map_or("null".to_owned(), |prev| format!("{prev:?}"));
        let (command, recent) = (uuid(sequence), listed(&self.recent));
        let Body {
            event,
            status,
            heard_at,
        } = body;
        let (name, spec, last_seq) = (&self.name, spec(&self.name), self.last_seq);
        let wakes = self
            .ended
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(",");
        let (requested, succeeded) = (self.wakes, self.wakes - u64::from(status.contains("waking")));
        let payload = format!(
            r#"{{"v":1,"aggregate_version":{number},"first_event_seq":{number},"prev":{prev},"command_id":"{command}","at_ms":{at},"cause":"request","recent_command_ids":[{recent}],"events":[{event}],"state_version":1,"state":{{"state":"registered","id":"{AGENT}/{name}","spec":{spec},"epoch":1,"last_seq":{last_seq},"heard_at_ms":{heard_at},"status":{status},"failures":{{"count":0}},"wakes":[{wakes}],"counts":{{"requested":{requested},"succeeded":{succeeded},"failed":0}}}}}}"#
        );
        (self.last_at, self.prev) = (at, Some(hash(payload.as_bytes())));
        self.recent.push_back(command);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        (format!("reveille.events.provider.{AGENT}.{name}"), payload)
    }

    fn registered(&self, at: u64) -> Body {
        let (name, spec) = (&self.name, spec(&self.name));
        Body {
            event: format!(
                r#"{{"type":"ProviderRegistered","version":"1","data":{{"id":"{AGENT}/{name}","epoch":1,"spec":{spec},"status":"hibernating","failures":{{"count":0}},"at_ms":{at}}}}}"#
            ),
            status: format!(r#"{{"status":"hibernating","since_ms":{at}}}"#),
            heard_at: at,
        }
    }

    /// The wake in flight, or the one that ended last.
    fn wake(&self) -> Uuid {
        Uuid::from_u128((u128::from(self.wakes) << 64) + (1 << 63) + u128::from(self.number))
    }

    fn requested(&mut self, at: u64) -> Body {
        self.wakes += 1;
        let (wake, name, deadline) = (self.wake(), &self.name, at + 75_000);
        let wake = format!(
            r#"{{"id":"{wake}","cause":{{"by":"request","request_id":"request-{at}","model":"model-of-{name}"}},"requested_at_ms":{at},"deadline_ms":{deadline}}}"#
        );
        Body {
            event: format!(r#"{{"type":"WakeRequested","version":"1","data":{{"wake":{wake}}}}}"#),
            status: format!(r#"{{"status":"waking","wake":{wake}}}"#),
            heard_at: self.last_at,
        }
    }

    fn succeeded(&mut self, at: u64) -> Body {
        self.last_seq += 1;
        let (wake, seq, requested) = (self.wake(), self.last_seq, self.last_at);
        self.ended.push_back(format!(
            r#"{{"id":"{wake}","requested_at_ms":{requested},"ended_at_ms":{at},"group_wait_ms":3000}}"#
        ));
        if self.ended.len() > REMEMBERED {
            self.ended.pop_front();
        }
        Body {
            event: format!(
                r#"{{"type":"WakeSucceeded","version":"1","data":{{"wake_id":"{wake}","report":{{"epoch":1,"seq":{seq}}},"stages":[{{"name":"group","started_after_ms":0,"took_ms":3000}},{{"name":"step 1 http","started_after_ms":3001,"took_ms":20}},{{"name":"probe","started_after_ms":3021,"took_ms":40000}}],"at_ms":{at}}}}}"#
            ),
            status: format!(r#"{{"status":"active","since_ms":{at},"woken_by":"{wake}"}}"#),
            heard_at: at,
        }
    }

    fn slept(&mut self, at: u64) -> Body {
        self.last_seq += 1;
        let seq = self.last_seq;
        Body {
            event: format!(
                r#"{{"type":"BackendSlept","version":"1","data":{{"report":{{"epoch":1,"seq":{seq}}},"reason":"idle","failures":{{"count":0}},"at_ms":{at}}}}}"#
            ),
            status: format!(r#"{{"status":"hibernating","since_ms":{at}}}"#),
            heard_at: at,
        }
    }
}

fn spec(name: &str) -> String {
    format!(r#"{{"models":["model-of-{name}"],"wake":{{"kind":"http","budget_ms":70000}},"can_sleep":true}}"#)
}

fn uuid(number: u64) -> Uuid {
    Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + u128::from(number))
}

fn listed(ids: &VecDeque<Uuid>) -> String {
    ids.iter()
        .map(|id| format!("\"{id}\""))
        .collect::<Vec<_>>()
        .join(",")
}
