//! The contract of the query port. It holds for both implementations, or the answer would depend on where one asks.

use crate::{
    history::{commits, some_history, steps},
    reference::{Expected, expected, llms_sorted, wakes_sorted},
    stores::{InMemory, InPostgres, Store},
};
use proptest::test_runner::{Config, TestRunner};
use reveille_domain::{
    AgentName, Timestamp, WakeId,
    provider::StatusName,
    rows::{
        Cursor, EventQuery, LlmQuery, LlmSort, MAX_PAGE_ROWS, Page, PageLimit, RowSource, Rows, RowsError,
        Sort, SortBy, WakeOutcomeFilter, WakeQuery, WakeRow, WakeSort,
    },
};
use std::collections::BTreeSet;
use uuid::Uuid;

/// How many random histories a store takes in, besides a fixed one: thousands of queries each, which take a database a second or
/// more.
const HISTORIES: u32 = 24;

const STATUSES: [StatusName; 5] = [
    StatusName::Active,
    StatusName::Hibernating,
    StatusName::Waking,
    StatusName::Down,
    StatusName::Inactive,
];
const OUTCOMES: [WakeOutcomeFilter; 6] = [
    WakeOutcomeFilter::InFlight,
    WakeOutcomeFilter::Succeeded,
    WakeOutcomeFilter::Failed,
    WakeOutcomeFilter::TimedOut,
    WakeOutcomeFilter::Refused,
    WakeOutcomeFilter::NotNeeded,
];

#[test]
fn memory_answers_as_the_contract_says() {
    for_random_histories(HISTORIES, &async |history, batch| {
        contract(InMemory::default(), history, batch).await;
    });
}

#[test]
fn postgres_answers_as_the_contract_says() {
    postgres_answers(0);
}

#[test]
#[ignore = "slow: more histories"]
fn postgres_answers_as_the_contract_says_for_many_histories() {
    postgres_answers(HISTORIES);
}

fn postgres_answers(histories: u32) {
    for_random_histories(histories, &async |history, batch| {
        contract(InPostgres::create().await, history, batch).await;
    });
}

fn for_random_histories(histories: u32, contract: &impl AsyncFn(&[RowSource], usize)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(Config {
        cases: histories,
        failure_persistence: None,
        ..Config::default()
    });
    let run = runner.run(&(steps(), 1..20usize), |(steps, batch)| {
        runtime.block_on(contract(&commits(&steps), batch));
        Ok(())
    });
    run.expect("the contract holds for every history");
    runtime.block_on(contract(&some_history(), 64));
}

pub(crate) async fn contract(mut store: impl Store, history: &[RowSource], batch: usize) {
    for batch in history.chunks(batch) {
        store.take(batch).await;
    }
    holds(&store, history).await;
    // The same again, as after a crash: nothing changes.
    for batch in history.chunks(batch) {
        store.take(batch).await;
    }
    holds(&store, history).await;
    hears_agents(&mut store, &expected(history)).await;
}

async fn holds(store: &impl Store, history: &[RowSource]) {
    let rows = store.rows();
    let expected = expected(history);
    let applied = history.len() as u64;
    assert_eq!(rows.applied().await, Ok(applied));
    llms(rows, &expected).await;
    wakes(rows, &expected).await;
    events(rows, &expected).await;
    reads_own_writes(rows, applied).await;
    refuses_foreign_cursors(rows).await;
    refuses_cursors_of_other_orders(rows).await;
}

/// All rows of a query, page by page.
macro_rules! all {
    ($rows:expr, $method:ident, $query:expr) => {{
        let mut query = $query;
        let mut all = vec![];
        loop {
            let Page { items, next, .. } = $rows.$method(&query).await.expect("an answer");
            assert!(items.len() <= query.limit.rows());
            all.extend(items);
            match next {
                Some(next) => query.after = Some(next),
                None => break all,
            }
        }
    }};
}

/// Each size of a page with each order of its list.
fn pages<By: SortBy, const N: usize>(limits: [u32; N]) -> impl Iterator<Item = (u32, Sort<By>)> {
    let sorts = |by: &By| [Sort::ascending(*by), Sort::descending(*by)];
    let sorts: Vec<_> = By::ALL.iter().flat_map(sorts).collect();
    limits
        .into_iter()
        .flat_map(move |limit| sorts.clone().into_iter().map(move |sort| (limit, sort)))
}

async fn llms(rows: &dyn Rows, expected: &Expected) {
    let mut queries = vec![LlmQuery::default()];
    let agents: BTreeSet<_> = expected.llms.iter().map(|row| row.agent.clone()).collect();
    let providers: BTreeSet<_> = expected.llms.iter().map(|row| row.provider.clone()).collect();
    let models: BTreeSet<_> = expected.llms.iter().map(|row| row.model.clone()).collect();
    queries.extend(agents.into_iter().map(|agent| LlmQuery {
        agent: Some(agent),
        ..Default::default()
    }));
    queries.extend(models.into_iter().map(|model| LlmQuery {
        model: Some(model),
        ..Default::default()
    }));
    for provider in providers {
        let of_status = |status| LlmQuery {
            provider: Some(provider.clone()),
            status,
            ..Default::default()
        };
        queries.push(of_status(None));
        queries.extend(STATUSES.map(|status| of_status(Some(status))));
    }
    for query in queries {
        let matching: Vec<_> = expected
            .llms
            .iter()
            .filter(|row| query.matches(row))
            .cloned()
            .collect();
        for (limit, sort) in pages([1, 2, 7, MAX_PAGE_ROWS]) {
            let query = LlmQuery {
                limit: PageLimit::new(limit),
                sort,
                ..query.clone()
            };
            let sorted = llms_sorted(matching.clone(), sort);
            assert_eq!(all!(rows, llms, query.clone()), sorted, "{query:?}");
        }
    }
}

async fn wakes(rows: &dyn Rows, expected: &Expected) {
    let mut queries = vec![WakeQuery::default()];
    let providers: BTreeSet<_> = expected.wakes.iter().map(|row| row.provider.clone()).collect();
    for provider in providers {
        queries.push(WakeQuery {
            agent: Some(provider.agent.clone()),
            ..Default::default()
        });
        queries.push(WakeQuery {
            provider: Some(provider),
            ..Default::default()
        });
    }
    queries.extend(OUTCOMES.map(|outcome| WakeQuery {
        outcome: Some(outcome),
        ..Default::default()
    }));
    for query in queries {
        let matching: Vec<_> = expected
            .wakes
            .iter()
            .filter(|row| query.matches(row))
            .cloned()
            .collect();
        for (limit, sort) in pages([1, 3, MAX_PAGE_ROWS]) {
            let query = WakeQuery {
                limit: PageLimit::new(limit),
                sort,
                ..query.clone()
            };
            let sorted = wakes_sorted(matching.clone(), sort);
            assert_eq!(all!(rows, wakes, query.clone()), sorted, "{query:?}");
        }
    }
    for row in &expected.wakes {
        assert_eq!(rows.wake(row.wake_id).await, Ok(Some(row.clone())));
    }
    assert_eq!(rows.wake(WakeId(Uuid::max())).await, Ok(None::<WakeRow>));
}

async fn events(rows: &dyn Rows, expected: &Expected) {
    let mut queries = vec![EventQuery::default()];
    let of = |pick: fn(&reveille_domain::rows::EventRow) -> String| -> BTreeSet<String> {
        expected.events.iter().map(pick).collect()
    };
    for kind in of(|row| row.aggregate_type.clone()) {
        queries.push(EventQuery {
            aggregate_type: Some(kind),
            ..Default::default()
        });
    }
    for id in of(|row| row.aggregate_id.clone()) {
        queries.push(EventQuery {
            aggregate_id: Some(id),
            ..Default::default()
        });
    }
    for kind in of(|row| row.event_type.clone()) {
        queries.push(EventQuery {
            event_type: Some(kind),
            ..Default::default()
        });
    }
    let last = expected.events.last().map_or(0, |row| row.stream_seq);
    queries.extend([0, 1, last / 2, last].map(|seq| EventQuery {
        after_seq: Some(seq),
        ..Default::default()
    }));
    for query in queries {
        let after = query.after_seq.unwrap_or_default();
        let matching = expected
            .events
            .iter()
            .filter(|row| row.stream_seq > after && query.matches(row));
        let matching: Vec<_> = matching.cloned().collect();
        for (limit, sort) in pages([1, 10, MAX_PAGE_ROWS]) {
            let query = EventQuery {
                limit: PageLimit::new(limit),
                sort,
                ..query.clone()
            };
            let mut sorted = matching.clone();
            if sort.descending {
                sorted.reverse();
            }
            assert_eq!(all!(rows, events, query.clone()), sorted, "{query:?}");
        }
    }
}

async fn reads_own_writes(rows: &dyn Rows, applied: u64) {
    let behind = RowsError::Behind { at: applied };
    for (min_seq, error) in [(applied, None), (applied + 1, Some(behind))] {
        let min_seq = Some(min_seq);
        let llms = rows
            .llms(&LlmQuery {
                min_seq,
                ..Default::default()
            })
            .await;
        let wakes = rows
            .wakes(&WakeQuery {
                min_seq,
                ..Default::default()
            })
            .await;
        let events = rows
            .events(&EventQuery {
                min_seq,
                ..Default::default()
            })
            .await;
        assert_eq!(
            [llms.err(), wakes.err(), events.err()],
            [error.clone(), error.clone(), error]
        );
    }
}

async fn refuses_foreign_cursors(rows: &dyn Rows) {
    for text in ["", "x", "5.", ".5", "é", "5.5.5", "6162", "'; DROP TABLE llms"] {
        let cursor = Some(Cursor::new(text));
        let llms = rows
            .llms(&LlmQuery {
                after: cursor.clone(),
                ..Default::default()
            })
            .await;
        let wakes = rows
            .wakes(&WakeQuery {
                after: cursor.clone(),
                ..Default::default()
            })
            .await;
        assert_eq!(
            (llms.err(), wakes.err()),
            (Some(RowsError::BadCursor), Some(RowsError::BadCursor)),
            "{text}"
        );
        let events = rows
            .events(&EventQuery {
                after: cursor,
                ..Default::default()
            })
            .await;
        // A sequence alone is a place among events.
        assert_eq!(
            events.err(),
            (text != "6162").then_some(RowsError::BadCursor),
            "{text}"
        );
    }
}

/// A cursor belongs to what its list is sorted by: in a list that is sorted by something else it would mean some other place.
macro_rules! refuses_other_orders {
    ($rows:expr, $method:ident, $query:ident, $by:ident) => {
        for (limit, of) in pages::<$by, 1>([1]) {
            let limit = PageLimit::new(limit);
            let query = |sort, after| $query {
                sort,
                after,
                limit,
                ..Default::default()
            };
            let page = $rows.$method(&query(of, None)).await.expect("an answer");
            let Some(cursor) = page.next else { continue };
            for (_, sort) in pages::<$by, 1>([1]) {
                let answer = $rows.$method(&query(sort, Some(cursor.clone()))).await.err();
                let refused = (of.by != sort.by).then_some(RowsError::BadCursor);
                assert_eq!(answer, refused, "a cursor of {of} in {sort}");
            }
        }
    };
}

async fn refuses_cursors_of_other_orders(rows: &dyn Rows) {
    refuses_other_orders!(rows, llms, LlmQuery, LlmSort);
    refuses_other_orders!(rows, wakes, WakeQuery, WakeSort);
}

async fn hears_agents(store: &mut impl Store, expected: &Expected) {
    let agents: BTreeSet<AgentName> = expected.llms.iter().map(|row| row.agent.clone()).collect();
    let Some(agent) = agents.first() else {
        return;
    };
    for at in [7_000, 9_000, 8_000] {
        store.heard(agent, Timestamp::from_millis(at)).await;
    }
    let page = store
        .rows()
        .llms(&LlmQuery {
            limit: PageLimit::new(MAX_PAGE_ROWS),
            ..Default::default()
        })
        .await;
    for row in page.expect("an answer").items {
        // The last one counts, whatever its time: NATS's clock may have been set back.
        let heard = (row.agent == *agent).then_some(Timestamp::from_millis(8_000));
        assert_eq!(row.last_heartbeat_ms, heard, "{}", row.name);
    }
}
