//! What only memory does: its bounds, its start from each aggregate's last commit, and its answer for events that it doesn't
//! hold. The projector's contract suite compares the rest with Postgres.

use super::*;
use crate::{
    Availability, Epoch, Failures, ModelName, Provider, ProviderCommand, ProviderEvent, ProviderId,
    ProviderSpec, RecipeKind, ReportId, ReportSeq, Stage, Timestamp, Wake, WakeCause, WakeFailure,
    WakeFailureKind, WakeId, WakeOutcome, WakeSpec, provider::StatusName,
};
use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};
use uuid::Uuid;

/// Runs a future that never waits for anything outside.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory waits for nothing"),
    }
}

fn id() -> ProviderId {
    "gpu-box/vllm".parse().expect("legal")
}

fn wake_id(number: u64) -> WakeId {
    WakeId(Uuid::from_u128(u128::from(number)))
}

/// One provider and its journal.
#[derive(Default)]
struct Journal {
    state: Provider,
    seq: u64,
    events: u64,
    wakes: u64,
}

impl Journal {
    fn commit(&mut self, command: &ProviderCommand) -> RowSource {
        let events = self.state.decide(command).expect("accepted");
        assert!(!events.is_empty(), "{command:?}");
        self.state = events
            .iter()
            .fold(std::mem::take(&mut self.state), Provider::evolve);
        self.seq += 1;
        let first_event_seq = self.events + 1;
        self.events += events.len() as u64;
        let recorded = |event: &ProviderEvent| RecordedEvent {
            event_type: <&str>::from(event).to_owned(),
            version: "1".to_owned(),
            data: serde_json::json!({}),
        };
        RowSource {
            stream_seq: self.seq,
            hash: String::new(),
            subject: "reveille.events.provider.gpu-box.vllm".into(),
            aggregate_type: "provider".into(),
            aggregate_id: provider_aggregate_id(&id()),
            first_event_seq,
            command_id: None,
            at_ms: at(self.seq),
            events: events.iter().map(recorded).collect(),
            body: SourceBody::Provider {
                id: id(),
                events,
                state: self.state.clone(),
            },
            raw: None,
        }
    }

    fn register(&mut self, models: &[&str]) -> RowSource {
        let models = models
            .iter()
            .map(|model| ModelName::parse(model).expect("legal"))
            .collect();
        let wake = WakeSpec {
            kind: RecipeKind::Http,
            budget_ms: 60_000,
        };
        self.commit(&ProviderCommand::Register {
            id: id(),
            epoch: self.state.epoch().next(),
            seq: ReportSeq(1),
            spec: ProviderSpec::new(models, Some(wake), false).expect("legal"),
            availability: Some(Availability::Unavailable),
            at: at(self.seq),
        })
    }

    fn request_wake(&mut self) -> RowSource {
        self.wakes += 1;
        let (wake_id, at) = (wake_id(self.wakes), at(self.seq));
        self.commit(&ProviderCommand::RequestWake {
            wake_id,
            cause: WakeCause::Operator { key: None },
            overdue: None,
            allowed_at: None,
            at,
        })
    }

    fn fail_wake(&mut self) -> RowSource {
        let seq = ReportSeq(self.state.registered().expect("registered").last_seq.0 + 1);
        let failure = WakeFailure::new(WakeFailureKind::Recipe, "step 1 http", "refused");
        self.commit(&ProviderCommand::ReportWake {
            wake_id: wake_id(self.wakes),
            report: ReportId { epoch: Epoch(1), seq },
            outcome: WakeOutcome::Failed {
                failure,
                stages: vec![],
            },
            at: at(self.seq),
        })
    }

    fn unreadable(&mut self) -> RowSource {
        self.seq += 1;
        RowSource {
            stream_seq: self.seq,
            body: SourceBody::Unreadable {
                reason: "newer".into(),
            },
            ..Journal::default().register(&["a"])
        }
    }
}

/// A minute apart, so that no backoff after failed wakes interferes.
fn at(seq: u64) -> Timestamp {
    Timestamp::from_millis((seq + 1) * 61_000)
}

fn llms(rows: &MemoryRows) -> Vec<LlmRow> {
    now(rows.llms(&LlmQuery::default())).expect("an answer").items
}

fn events_after(rows: &MemoryRows, seq: u64) -> Result<Page<EventRow>, RowsError> {
    now(rows.events(&EventQuery {
        after_seq: Some(seq),
        ..EventQuery::default()
    }))
}

#[test]
fn events_and_ended_wakes_are_held_up_to_a_bound_and_older_events_are_reported_missing() {
    let (rows, mut journal) = (MemoryRows::new(), Journal::default());
    rows.apply(&journal.register(&["a"]));
    for _ in 0..MAX_HELD_EVENTS {
        rows.apply(&journal.request_wake());
        rows.apply(&journal.fail_wake());
    }
    let last = journal.seq;
    let from_seq = last - MAX_HELD_EVENTS as u64 + 1;
    assert_eq!(events_after(&rows, 0), Err(RowsError::NotHeld { from_seq }));
    assert_eq!(
        events_after(&rows, from_seq - 2),
        Err(RowsError::NotHeld { from_seq })
    );
    let oldest = events_after(&rows, from_seq - 1).expect("held").items;
    assert_eq!(
        (oldest[0].stream_seq, oldest.len()),
        (from_seq, PageLimit::default().rows())
    );

    let held = |number| now(rows.wake(wake_id(number))).expect("an answer").is_some();
    let oldest = journal.wakes - MAX_HELD_WAKES as u64 + 1;
    assert_eq!(
        (held(oldest - 1), held(oldest), held(journal.wakes)),
        (false, true, true)
    );
}

#[test]
fn rows_that_begin_with_last_commits_know_states_and_remembered_wakes_but_no_events() {
    let mut journal = Journal::default();
    journal.register(&["a", "b"]);
    journal.request_wake();
    journal.fail_wake();
    let last = journal.request_wake();
    let rows = MemoryRows::new();
    rows.load(&last);
    rows.loaded(9);
    assert_eq!(now(rows.applied()), Ok(9));
    let named: Vec<_> = llms(&rows)
        .into_iter()
        .map(|row| (row.name, row.status))
        .collect();
    assert_eq!(
        named,
        [
            ("gpu-box/a".into(), StatusName::Waking),
            ("gpu-box/b".into(), StatusName::Waking)
        ]
    );
    let wakes = now(rows.wakes(&WakeQuery::default())).expect("an answer").items;
    let outcomes: Vec<_> = wakes
        .iter()
        .map(|wake| (wake.wake_id, wake.outcome, wake.cause.is_some()))
        .collect();
    let in_flight = (wake_id(2), WakeOutcomeName::InFlight, true);
    assert_eq!(
        outcomes,
        [in_flight, (wake_id(1), WakeOutcomeName::Failed, false)]
    );
    assert_eq!(events_after(&rows, 0), Err(RowsError::NotHeld { from_seq: 10 }));

    journal.seq = 9;
    rows.apply(&journal.fail_wake());
    let ended = now(rows.wake(wake_id(2))).expect("an answer").expect("held");
    assert_eq!(
        (ended.outcome, ended.cause, ended.ended_seq),
        (
            WakeOutcomeName::Failed,
            Some(WakeCause::Operator { key: None }),
            Some(10)
        )
    );
    rows.loaded(10);
    assert_eq!(events_after(&rows, 9).expect("held").items.len(), 1);
}

#[test]
fn wakes_from_before_the_load_are_recalled_whole_and_what_was_applied_since_stays() {
    let wakes = |rows: &MemoryRows| now(rows.wakes(&WakeQuery::default())).expect("an answer").items;
    let (whole, mut journal) = (MemoryRows::new(), Journal::default());
    whole.apply(&journal.register(&["a"]));
    // More than the provider's state remembers, and one in flight.
    for _ in 0..20 {
        whole.apply(&journal.request_wake());
        whole.apply(&journal.fail_wake());
    }
    let last = journal.request_wake();
    whole.apply(&last);
    let as_loaded = wakes(&whole);

    let rows = MemoryRows::new();
    rows.load(&last);
    rows.loaded(journal.seq);
    let loaded_at = rows.loaded_at();
    assert_eq!(loaded_at.seq, journal.seq);
    for commit in [journal.fail_wake(), journal.request_wake()] {
        rows.apply(&commit);
        whole.apply(&commit);
    }
    assert!(wakes(&rows).len() < 20);
    assert!(rows.recall(loaded_at, as_loaded.clone()));
    assert_eq!(wakes(&rows), wakes(&whole));
    assert!(rows.recall(loaded_at, as_loaded.clone()), "again");
    assert_eq!(wakes(&rows), wakes(&whole));

    rows.reset();
    assert!(!rows.recall(loaded_at, as_loaded), "they are of another journal");
    assert!(wakes(&rows).is_empty());
}

#[test]
fn a_row_that_misses_an_unreadable_commit_says_so_until_the_next_readable_one() {
    let (rows, mut journal) = (MemoryRows::new(), Journal::default());
    rows.apply(&journal.register(&["a"]));
    rows.apply(&journal.unreadable());
    rows.apply(&journal.unreadable());
    let row = &llms(&rows)[0];
    assert_eq!(
        (row.status, row.updated_seq, row.unreadable_since_seq),
        (StatusName::Hibernating, 1, Some(2))
    );
    rows.apply(&journal.request_wake());
    let row = &llms(&rows)[0];
    assert_eq!(
        (row.status, row.updated_seq, row.unreadable_since_seq),
        (StatusName::Waking, 4, None)
    );
}

#[test]
fn models_that_are_no_longer_published_have_no_row() {
    let (rows, mut journal) = (MemoryRows::new(), Journal::default());
    rows.apply(&journal.register(&["a", "b"]));
    rows.apply(&journal.register(&["b", "c"]));
    let models: Vec<_> = llms(&rows).into_iter().map(|row| row.model.to_string()).collect();
    assert_eq!(models, ["b", "c"]);
    let epoch = journal.state.epoch();
    rows.apply(&journal.commit(&ProviderCommand::Deregister { epoch, at: at(9) }));
    assert_eq!(llms(&rows), []);
}

#[test]
fn a_replaced_journal_leaves_nothing_behind() {
    let (rows, mut journal) = (MemoryRows::new(), Journal::default());
    rows.apply(&journal.register(&["a"]));
    rows.apply(&journal.request_wake());
    rows.reset();
    assert_eq!((llms(&rows), now(rows.applied())), (vec![], Ok(0)));
    assert_eq!(now(rows.wake(wake_id(1))), Ok(None));
    rows.apply(&Journal::default().register(&["other"]));
    assert_eq!(llms(&rows)[0].name, "gpu-box/other");
}

#[test]
fn reading_your_own_writes_waits_for_the_rows_but_not_for_ever() {
    let rows = MemoryRows::new();
    let mut journal = Journal::default();
    let (first, second) = (journal.register(&["a"]), journal.request_wake());
    let slept = AtomicU64::new(0);
    let sleep = |pause: Duration| {
        slept.fetch_add(
            u64::try_from(pause.as_millis()).expect("short"),
            Ordering::Relaxed,
        );
        rows.apply(&first);
        std::future::ready(())
    };
    assert_eq!(now(reach(&rows, 1, sleep)), Ok(()));
    assert!(slept.load(Ordering::Relaxed) < 100);
    assert_eq!(now(reach(&rows, 2, sleep)), Err(RowsError::Behind { at: 1 }));
    assert!(Duration::from_millis(slept.load(Ordering::Relaxed)) >= READ_WAIT);
    rows.apply(&second);
    assert_eq!(now(reach(&rows, 2, sleep)), Ok(()));
}

#[test]
fn texts_that_no_rule_has_cut_are_cut_in_rows() {
    let dirty = "a\u{0}\u{1b}b".repeat(1_000);
    let clean = |text: &str| !text.chars().any(char::is_control) && text.len() < dirty.len() / 2;
    let cause = WakeCause::Request {
        request_id: dirty.clone(),
        model: ModelName::parse("a").expect("legal"),
        key: None,
    };
    let wake = Wake {
        id: wake_id(1),
        cause,
        requested_at_ms: at(1),
        deadline_ms: at(2),
    };
    let failed = ProviderEvent::WakeFailed {
        wake_id: wake.id,
        report: None,
        failure: WakeFailure {
            kind: WakeFailureKind::Recipe,
            stage: dirty.clone(),
            reason: dirty.clone(),
        },
        stages: vec![Stage {
            name: dirty.clone(),
            started_after_ms: 1,
            took_ms: 2,
        }],
        failures: Failures::default(),
        at_ms: at(2),
    };
    let changes = wake_changes(&id(), &[ProviderEvent::WakeRequested { wake }, failed], 7);
    let row = changes
        .into_iter()
        .fold(None, |row, change| Some(change.after(row)));
    let row = row.expect("a row");
    let Some(WakeCause::Request { request_id, .. }) = row.cause else {
        panic!("a request's")
    };
    let failure = row.failure.expect("failed");
    for text in [&request_id, &failure.stage, &failure.reason, &row.stages[0].name] {
        assert!(clean(text), "{text:?}");
    }
}

#[test]
fn a_wake_is_found_by_one_outcome_and_one_that_failed_with_nothing_wrong_by_what_it_was() {
    use WakeOutcomeFilter::{Failed, InFlight, NotNeeded, Refused, Succeeded, TimedOut};
    let failed = |kind| {
        Some((
            WakeOutcomeName::Failed,
            WakeFailure::new(kind, "stage", "a reason"),
        ))
    };
    for (ended, found_by) in [
        (None, InFlight),
        (failed(WakeFailureKind::Recipe), Failed),
        (failed(WakeFailureKind::GroupBlocked), Failed),
        (failed(WakeFailureKind::NotAllowed), Refused),
        (failed(WakeFailureKind::NotNeeded), NotNeeded),
    ] {
        let wake = Wake {
            id: wake_id(1),
            requested_at_ms: Timestamp::from_millis(1),
            deadline_ms: Timestamp::from_millis(2),
            cause: WakeCause::Operator { key: None },
        };
        let mut row = WakeRow::requested(&id(), &wake, None);
        if let Some((outcome, failure)) = ended {
            (row.outcome, row.failure) = (outcome, Some(failure));
        }
        for outcome in [InFlight, Succeeded, Failed, TimedOut, Refused, NotNeeded] {
            let query = WakeQuery {
                outcome: Some(outcome),
                ..WakeQuery::default()
            };
            assert_eq!(query.matches(&row), outcome == found_by, "{outcome}: {row:?}");
        }
    }
}
