//! What the rows of a history must be, worked out as plainly as can be: whole lists, no folds, no pages.

use reveille_domain::{
    ProviderEvent, WakeFailure,
    rows::{
        EventRow, LlmRow, LlmSort, RowSource, Sort, SourceBody, WakeOutcomeName, WakeRow, WakeSort,
        event_rows, llm_rows,
    },
};

/// The rows of a history, each kind in its order.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) llms: Vec<LlmRow>,
    pub(crate) wakes: Vec<WakeRow>,
    pub(crate) events: Vec<EventRow>,
}

pub(crate) fn expected(history: &[RowSource]) -> Expected {
    Expected {
        llms: llms(history),
        wakes: wakes(history),
        events: history.iter().flat_map(event_rows).collect(),
    }
}

fn llms(history: &[RowSource]) -> Vec<LlmRow> {
    let mut rows = vec![];
    for (at, commit) in history.iter().enumerate() {
        let SourceBody::Provider { id, state, .. } = &commit.body else {
            continue;
        };
        let mut later = history[at + 1..]
            .iter()
            .filter(|later| later.subject == commit.subject);
        if later
            .clone()
            .any(|later| matches!(later.body, SourceBody::Provider { .. }))
        {
            continue;
        }
        assert_eq!(Some(id), commit.provider().as_ref());
        let unreadable_since_seq = later.next().map(|unreadable| unreadable.stream_seq);
        let mut of_provider = llm_rows(state, commit.stream_seq);
        of_provider
            .iter_mut()
            .for_each(|row| row.unreadable_since_seq = unreadable_since_seq);
        rows.extend(of_provider);
    }
    rows.sort_by_key(|row| {
        (
            row.agent.to_string().into_bytes(),
            row.model.to_string().into_bytes(),
            row.provider.to_string().into_bytes(),
        )
    });
    rows
}

fn wakes(history: &[RowSource]) -> Vec<WakeRow> {
    let mut rows: Vec<WakeRow> = vec![];
    for commit in history {
        let SourceBody::Provider { id, events, .. } = &commit.body else {
            continue;
        };
        for event in events {
            let (wake_id, outcome, failure, stages, at_ms) = match event {
                ProviderEvent::WakeRequested { wake } => {
                    rows.push(WakeRow::requested(id, wake, Some(commit.stream_seq)));
                    continue;
                }
                ProviderEvent::WakeSucceeded {
                    wake_id,
                    stages,
                    at_ms,
                    ..
                } => (wake_id, WakeOutcomeName::Succeeded, None, stages.clone(), at_ms),
                ProviderEvent::WakeFailed {
                    wake_id,
                    failure,
                    stages,
                    at_ms,
                    ..
                } => (
                    wake_id,
                    WakeOutcomeName::Failed,
                    Some(failure),
                    stages.clone(),
                    at_ms,
                ),
                ProviderEvent::WakeTimedOut {
                    wake_id,
                    failure,
                    at_ms,
                    ..
                } => (wake_id, WakeOutcomeName::TimedOut, Some(failure), vec![], at_ms),
                _ => continue,
            };
            let mut in_flight = rows
                .iter_mut()
                .filter(|row| row.provider == *id && row.ended_at_ms.is_none());
            let row = in_flight.next().expect("a wake in flight");
            assert_eq!(
                (row.wake_id, in_flight.next()),
                (*wake_id, None),
                "the only one in flight"
            );
            row.ended_at_ms = Some(*at_ms);
            row.outcome = outcome;
            row.failure =
                failure.map(|failure| WakeFailure::new(failure.kind, &failure.stage, &failure.reason));
            row.stages = stages;
            row.stages
                .iter_mut()
                .for_each(|stage| stage.name.retain(|c| !c.is_control()));
            row.ended_seq = Some(commit.stream_seq);
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse((row.requested_at_ms, row.wake_id)));
    rows
}

/// LLM rows that are in the order of their names, in another one.
pub(crate) fn llms_sorted(mut rows: Vec<LlmRow>, sort: Sort<LlmSort>) -> Vec<LlmRow> {
    // A stable sort leaves equals in the order of their names.
    match sort.by {
        LlmSort::Name => {}
        LlmSort::Status => rows.sort_by_key(|row| <&str>::from(row.status)),
        LlmSort::Since => rows.sort_by_key(|row| row.since_ms),
    }
    if sort.descending {
        rows.reverse();
    }
    rows
}

/// Wakes that are newest first, in another order.
pub(crate) fn wakes_sorted(mut rows: Vec<WakeRow>, sort: Sort<WakeSort>) -> Vec<WakeRow> {
    rows.reverse();
    match sort.by {
        WakeSort::Requested => {}
        WakeSort::Took => rows.sort_by_key(|row| {
            let ended = row.ended_at_ms.map(|ended| ended.since(row.requested_at_ms));
            (ended.is_none(), ended)
        }),
    }
    if sort.descending {
        rows.reverse();
    }
    rows
}
