//! The journal behind `cqrs_es`'s own trait, used by code that knows only the trait.

use crate::events::{at, check, journal, named, provider_key, register, request_wake, stored};
use cqrs_es::{
    Aggregate, AggregateContext, AggregateError, EventEnvelope, EventStore, event_sink::EventSink,
};
use reveille_bus::Journal;
use reveille_domain::{Provider, ProviderCommand, ProviderEvent};
use std::collections::HashMap;
use uuid::Uuid;

fn metadata() -> HashMap<String, String> {
    let command_id = Uuid::now_v7().to_string();
    let at_ms = at(0).as_millis().to_string();
    [
        ("command_id", command_id),
        ("cause", "test".to_owned()),
        ("at_ms", at_ms),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Load, handle, commit: what every user of the trait does.
async fn run<A, S>(
    store: &S,
    id: &str,
    command: A::Command,
) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>>
where
    A: Aggregate<Services = ()>,
    S: EventStore<A>,
{
    let mut context = store.load_aggregate(id).await?;
    let sink = EventSink::default();
    context
        .aggregate()
        .handle(command, &(), &sink)
        .await
        .map_err(AggregateError::UserError)?;
    store.commit(sink.collect().await, context, metadata()).await
}

#[tokio::test]
async fn an_event_store_of_cqrs_es_commits_and_loads() {
    let (_nats, connection, journal) = journal().await;
    let store = journal.store::<Provider>();
    let id = "gpu-box.vllm";
    assert!(store.load_events(id).await.unwrap().is_empty());
    let registered = run(&store, id, register(&provider_key())).await.unwrap();
    let requested = run(&store, id, request_wake()).await.unwrap();
    // Nothing new: nothing is committed.
    assert!(run(&store, id, request_wake()).await.unwrap().is_empty());
    run(&store, "gpu-box.other", register(&named("other")))
        .await
        .unwrap();

    let events = store.load_events(id).await.unwrap();
    assert_eq!(
        events.iter().map(|event| event.sequence).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(matches!(
        events[0].payload,
        ProviderEvent::ProviderRegistered { .. }
    ));
    assert!(matches!(events[1].payload, ProviderEvent::WakeRequested { .. }));
    for (read, told) in events.iter().zip([&registered[0], &requested[0]]) {
        assert_eq!(read.aggregate_id, id);
        assert_eq!(
            (&read.payload, read.sequence, &read.metadata),
            (&told.payload, told.sequence, &told.metadata)
        );
    }
    // The aggregate that is loaded is the fold of its events, each applied once.
    let mut folded = Provider::default();
    for event in events {
        folded.apply(event.payload);
    }
    assert_eq!(*store.load_aggregate(id).await.unwrap().aggregate(), folded);
    let all = stored(&connection).await;
    assert_eq!(all.len(), 3);
    check(&all);
}

#[tokio::test]
async fn the_loser_of_a_race_is_told_of_the_conflict() {
    async fn loses<S: EventStore<Provider>>(store: &S, rival: &Journal) {
        let id = "gpu-box.vllm";
        let mut context = store.load_aggregate(id).await.unwrap();
        crate::events::commit(rival, &provider_key()).await;
        let sink = EventSink::default();
        let command: ProviderCommand = register(&provider_key());
        context.aggregate().handle(command, &(), &sink).await.unwrap();
        let lost = store.commit(sink.collect().await, context, metadata()).await;
        assert!(matches!(lost, Err(AggregateError::AggregateConflict)), "{lost:?}");
    }
    let (_nats, connection, journal) = journal().await;
    loses(&journal.store::<Provider>(), &journal).await;
    assert_eq!(stored(&connection).await.len(), 1);
}

#[tokio::test]
async fn an_illegal_id_or_commit_is_an_error() {
    let (nats, _connection, journal) = journal().await;
    let store = journal.store::<Provider>();
    for id in ["", "gpu-box", "a.b.c", "a.*", "A.b", "a.>"] {
        let error = store.load_aggregate(id).await.unwrap_err();
        assert!(
            matches!(error, AggregateError::DeserializationError(_)),
            "{id}: {error:?}"
        );
    }
    let raw = nats.connect().await;
    raw.request(provider_key().subject(), "poison".into())
        .await
        .unwrap();
    let error = store.load_events("gpu-box.vllm").await.unwrap_err();
    assert!(
        matches!(error, AggregateError::DeserializationError(_)),
        "{error:?}"
    );
    let context = store.load_aggregate("gpu-box.other").await.unwrap();
    let events = vec![ProviderEvent::ProviderExpired { at_ms: at(0) }];
    let error = store.commit(events, context, HashMap::new()).await.unwrap_err();
    assert!(matches!(error, AggregateError::UnexpectedError(_)), "{error:?}");
}
