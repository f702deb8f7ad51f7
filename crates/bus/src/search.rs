//! Whether the journal's stream is there. A stream that is missing or empty is a new journal only if nothing shows that there
//! was one: an empty journal in the place of a lost one would make every key invalid and every agent unknown.

use crate::{
    canaries,
    error::BusError,
    health::JournalTrouble,
    streams::{self, JOURNAL_STREAM, StreamHealth},
};
use async_nats::jetstream::Context;

/// How a process begins with its journal, and what it knows of it before it has read anything.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    /// What shows that there was a journal, as a clause; a stream that is missing or empty is then lost, not new.
    pub evidence: Option<String>,
    /// Whether an empty journal is begun whatever shows that there was one.
    pub new_journal: bool,
    /// The name of this replica, whose own canaries show nothing.
    pub replica: Option<String>,
}

/// A search for the journal.
pub(crate) struct Search<'a> {
    /// Set if the searcher decides for its process whether this is the journal. What another replica shows is added to it: that
    /// replica may end before the journal is there again.
    pub(crate) guard: Option<&'a mut Beginning>,
    /// Whether its role creates streams.
    pub(crate) makes_streams: bool,
    /// The last commit that it has read.
    pub(crate) seen: Option<u64>,
    /// Whether it has looked in vain before.
    pub(crate) is_awaited: bool,
}

impl Search<'_> {
    /// Succeeds if the journal is there, or can be begun and is begun now.
    pub(crate) async fn journal(mut self, js: &Context) -> Result<(), BusError> {
        let lost =
            |what: &str| Err(JournalTrouble::Lost(format!("the stream {JOURNAL_STREAM} {what}")).into());
        let (is_missing, state) = match streams::inspect_journal(js).await? {
            StreamHealth::Sound {
                last_sequence: 1.., ..
            } => (false, None),
            StreamHealth::Sound { .. } => (false, Some("is empty")),
            StreamHealth::Missing => (true, Some("is gone")),
            StreamHealth::Differs(difference) if self.seen.is_some() || self.is_awaited => {
                return lost(&format!("can't be used: {difference}"));
            }
            StreamHealth::Differs(difference) => {
                return Err(BusError::StreamMismatch {
                    stream: JOURNAL_STREAM,
                    difference,
                });
            }
        };
        if let Some(state) = state
            && let Some(evidence) = self.evidence(js).await?
        {
            return lost(&format!("{state}, although {evidence}"));
        }
        if self.may_begin() {
            return streams::ensure_journal(js).await;
        }
        if is_missing {
            return Err(BusError::NoStream {
                stream: JOURNAL_STREAM,
            });
        }
        Ok(())
    }

    const fn may_begin(&self) -> bool {
        self.guard.is_some() && self.makes_streams
    }

    /// What shows that there was a journal with commits, as a clause.
    async fn evidence(&mut self, js: &Context) -> Result<Option<String>, BusError> {
        if let Some(seen) = self.seen {
            return Ok(Some(format!("its commits up to {seen} were read")));
        }
        let may_begin = self.may_begin();
        let Some(beginning) = self
            .guard
            .as_deref_mut()
            .filter(|beginning| !beginning.new_journal)
        else {
            return Ok(None);
        };
        if beginning.evidence.is_none() && may_begin {
            beginning.evidence = if streams::had_agents(js).await? {
                Some("agents were connected to this hub".to_owned())
            } else {
                let replica = canaries::replica_without_journal(js, beginning.replica.as_deref()).await?;
                replica.map(|replica| format!("the replica {replica} has read it"))
            };
        }
        Ok(beginning.evidence.clone())
    }
}
