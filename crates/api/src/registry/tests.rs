use super::*;
use reveille_bus::commit::{Commit, CommitHash};
use reveille_domain::{
    Availability, CommandId, Failures, ModelName, PresetHash, ProviderCommand, ProviderEvent, ProviderSpec,
    RecipeKind, ReportSeq, Status, Timestamp, WakeSpec,
    provider::{Registered, StableStatus, StatusName, WakeCounts},
};
use uuid::Uuid;

fn id() -> ProviderId {
    "gpu-box/vllm".parse().unwrap()
}

/// The commit that publishes the provider, as it stands in the journal at `sequence`.
fn registration(sequence: u64) -> JournalEntry {
    let wake = WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 70_000,
    };
    let models = vec![ModelName::parse("qwen").unwrap()];
    let register = ProviderCommand::Register {
        id: id(),
        epoch: Epoch(1),
        seq: ReportSeq(1),
        spec: ProviderSpec::new(models, Some(wake), false).unwrap(),
        availability: Some(Availability::Unavailable),
        at: Timestamp::from_millis(1),
    };
    let events = Provider::default().decide(&register).unwrap();
    let state = events.iter().fold(Provider::default(), Provider::evolve);
    entry(&id(), sequence, state, events)
}

/// An active provider, as a commit at `sequence` left it.
pub(crate) fn snapshot_at(provider: &str, sequence: u64) -> Arc<ProviderSnapshot> {
    let models = vec![ModelName::parse("m").expect("legal")];
    let provider = Registered {
        id: provider.parse().expect("legal"),
        spec: ProviderSpec::new(models, None, false).expect("legal"),
        epoch: Epoch(1),
        last_seq: ReportSeq(1),
        heard_at_ms: Timestamp::from_millis(0),
        status: Status::Active {
            since_ms: Timestamp::from_millis(0),
            woken_by: None,
        },
        failures: Failures::default(),
        wakes: vec![],
        counts: WakeCounts::default(),
    };
    Arc::new(ProviderSnapshot {
        provider,
        sequence,
        unreadable: None,
    })
}

/// A provider that publishes `m` and another name: a model, or a preset of `m` with this hash.
pub(crate) fn publishing(
    provider: &str,
    name: &str,
    preset: Option<&str>,
    status: StatusName,
) -> Arc<ProviderSnapshot> {
    let at = snapshot_at(provider, 1);
    let model = |name: &str| ModelName::parse(name).expect("legal");
    let spec = ProviderSpec::new(vec![model("m"), model(name)], None, false).expect("legal");
    let presets = preset.map(|hash| {
        let hash = PresetHash::parse(hash).expect("legal");
        (
            model(name),
            PresetSpec {
                model: model("m"),
                hash,
            },
        )
    });
    let since_ms = Timestamp::from_millis(0);
    let status = match status {
        StatusName::Hibernating => Status::Hibernating { since_ms },
        StatusName::Inactive => Status::Inactive {
            since_ms,
            reason: InactiveReason::AgentLost,
            was: StableStatus::Active,
        },
        StatusName::Active | StatusName::Waking | StatusName::Down => at.provider.status.clone(),
    };
    Arc::new(ProviderSnapshot {
        provider: Registered {
            spec: spec
                .with_presets(presets.into_iter().collect())
                .expect("its model"),
            status,
            ..at.provider.clone()
        },
        ..(*at).clone()
    })
}

/// A commit of a provider, as it is in the journal at `sequence`.
pub(crate) fn entry(
    id: &ProviderId,
    sequence: u64,
    state: Provider,
    events: Vec<ProviderEvent>,
) -> JournalEntry {
    let commit = Commit {
        aggregate_version: 1,
        first_event_seq: 1,
        prev: None,
        command_id: CommandId(Uuid::nil()),
        at: Timestamp::from_millis(1),
        cause: "test".to_owned(),
        recent_command_ids: vec![],
        state,
        events,
    };
    let (payload, aggregate) = (commit.encode().unwrap(), AggregateId::Provider(id.clone()));
    JournalEntry {
        sequence,
        subject: aggregate.subject(),
        headers: async_nats::HeaderMap::new(),
        hash: CommitHash::of(&payload),
        payload,
        stored_at: Timestamp::from_millis(1),
        commit: Ok((aggregate, AnyCommit::Provider(commit))),
    }
}

/// The same commit, written by a program that this one doesn't understand.
pub(crate) fn unreadable(entry: JournalEntry) -> JournalEntry {
    JournalEntry {
        commit: Err(reveille_bus::commit::CommitError::Subject),
        ..entry
    }
}

fn expected(registry: &Registry) -> Option<u64> {
    registry.last_commit(&id()).map(|last| match last.expected() {
        reveille_bus::Expected::NoCommit => 0,
        reveille_bus::Expected::After(sequence) => sequence,
    })
}

#[test]
fn commands_are_decided_on_the_fold_only_while_it_is_known_to_be_of_this_journal() {
    let registry = Registry::default();
    registry.follow(&Followed::Commit(registration(7)));
    assert_eq!(expected(&registry), None, "more may follow at once");
    registry.follow(&Followed::CaughtUp { sequence: 7 });
    assert_eq!(expected(&registry), Some(7));
    registry.follow(&Followed::Interrupted);
    assert_eq!(expected(&registry), None, "it may have been replaced");
    registry.follow(&Followed::CaughtUp { sequence: 7 });
    registry.follow(&Followed::Commit(registration(9)));
    assert_eq!(expected(&registry), Some(9));
    registry.follow(&Followed::Reset);
    registry.follow(&Followed::CaughtUp { sequence: 0 });
    assert_eq!(expected(&registry), None);
}

#[test]
fn nothing_is_decided_on_a_commit_before_one_that_cannot_be_read() {
    let registry = Registry::default();
    registry.follow(&Followed::Commit(registration(7)));
    registry.follow(&Followed::CaughtUp { sequence: 7 });
    registry.follow(&Followed::Commit(unreadable(registration(8))));
    assert_eq!(expected(&registry), None);
}
