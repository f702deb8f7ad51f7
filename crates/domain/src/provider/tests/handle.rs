//! The path that the command loop takes: `Aggregate::handle` applies what it writes to the sink.

use super::*;
use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

/// Runs a future that never waits for anything outside.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the domain waits for nothing"),
    }
}

#[test]
fn handle_applies_each_event_once_and_hands_all_of_them_out() {
    let mut provider = waking().provider;
    let sink = EventSink::default();
    now(provider.handle(request_wake_after(Some(1), 2, 75), &(), &sink)).expect("accepted");
    let expected = [timed_out(1, failures(1, None, late()), 75), requested(2, 75)];
    assert_eq!(now(sink.collect()), expected);

    let mut replayed = waking().provider;
    expected.into_iter().for_each(|event| replayed.apply(event));
    assert_eq!(
        provider, replayed,
        "applied once: a second time would count twice"
    );
    let counts = provider.registered().expect("registered").counts;
    assert_eq!((counts.requested, counts.failed), (2, 1));
}

#[test]
fn handle_changes_nothing_when_it_refuses() {
    let before = inactive().provider;
    let mut provider = before.clone();
    let sink = EventSink::default();
    now(provider.handle(request_wake(1, 50), &(), &sink)).expect_err("inactive");
    assert_eq!(provider, before);
    assert_eq!(now(sink.collect()), []);
}

#[test]
fn the_journal_names_events_as_their_json_does() {
    for event in waking().events {
        let json = serde_json::to_value(&event).expect("serializes");
        assert_eq!(json["type"], event.event_type());
        assert_eq!(event.event_version(), "1");
    }
}
