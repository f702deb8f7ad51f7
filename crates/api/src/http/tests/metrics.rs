//! `/metrics`: who may read it, and that it counts what happened.

use super::{
    Answer, Served,
    fake_hub::{Reply, active, hibernating, id},
    keys::{locked, refused},
};
use crate::registry::tests::{entry, unreadable};
use bytes::Bytes;
use reveille_bus::{Followed, Reason, SubjectKind, relay::RelayError};
use reveille_domain::{Provider, ProviderEvent, Timestamp, WakeFailure, WakeFailureKind, WakeId, WakeRecord};
use uuid::Uuid;

/// A wake that took so long.
fn ended(took_ms: u64, failure: Option<WakeFailure>) -> WakeRecord {
    WakeRecord {
        id: WakeId(Uuid::now_v7()),
        requested_at_ms: Timestamp::from_millis(1_000),
        ended_at_ms: Timestamp::from_millis(1_000 + took_ms),
        group_wait_ms: 0,
        failure,
    }
}

impl Served {
    async fn metrics_show(&self, lines: &[&str]) -> String {
        let page = self.get("/metrics").await;
        assert_eq!(page.status, 200);
        assert!(
            page.header("content-type")
                .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
        );
        let text = page.text();
        for line in lines {
            assert!(text.lines().any(|is| is == *line), "no {line} in\n{text}");
        }
        text
    }
}

#[tokio::test]
async fn metrics_want_the_scope_of_queries() {
    let (served, root) = locked().await;
    for (scope, status) in [("infer:*", 403), ("admin", 403), ("query", 200)] {
        let key = served.key_for(&root, &[scope]).await;
        let answer = served.get_with(&key, "/metrics").await;
        if status == 403 {
            assert_eq!(refused(&answer, 403), "insufficient_scope");
        } else {
            assert_eq!(answer.status, status, "{scope}: {}", answer.text());
        }
    }
    assert_eq!(refused(&served.get("/metrics").await, 401), "missing_api_key");
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_nobody() {
    let served = Served::new().await;
    served.hub.publish("secret-agent/vllm", "secret-model", active());
    served.hub.publish("secret-agent/ollama", "other", hibernating());
    let commit = entry(&id("secret-agent/vllm"), 99, Provider::default(), vec![]);
    served.hub.registry.follow(&Followed::Commit(unreadable(commit)));
    served.replies_hello(1);
    let _ = served.get("/v1/models/secret-path").await;
    let _ = served.get("/secret-path").await;
    let answer = Answer::of(served.chat("secret-model", false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let metrics = &served.hub.metrics;
    metrics.refusals.count(SubjectKind::Control, Reason::OtherName);
    metrics
        .refusals
        .count(SubjectKind::Connections, Reason::UnknownKey);
    let text = served
        .metrics_show(&[
            r#"reveille_http_answers_total{route="/v1/models/{*id}",status="404"} 1"#,
            r#"reveille_http_answers_total{route="none",status="404"} 1"#,
            r#"reveille_http_answers_total{route="/v1/chat/completions",status="200"} 1"#,
            r#"reveille_refused_messages_total{subject_kind="control",reason="other_name"} 1"#,
            r#"reveille_refused_messages_total{subject_kind="replies",reason="other_name"} 3"#,
            r#"reveille_refused_connections_total{reason="unknown_key"} 1"#,
            r#"reveille_providers{status="active"} 1"#,
            r#"reveille_providers{status="hibernating"} 1"#,
            "reveille_connected_agents 1",
            "reveille_relayed_requests 4",
            "reveille_wake_waiters 6",
            "reveille_unreadable_aggregates 1",
            "# EOF",
        ])
        .await;
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn metrics_tell_how_long_wakes_took_by_how_they_ended() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let failure = WakeFailure::new(WakeFailureKind::GroupBlocked, "group", "no room");
    let (slow, blocked, earlier) = (
        ended(2_000, None),
        ended(700, Some(failure.clone())),
        ended(1, None),
    );
    served.hub.change("gpu-box/vllm", |provider| {
        provider.wakes = vec![earlier, slow.clone(), blocked.clone()];
    });
    let known = served.hub.registry.get(&id("gpu-box/vllm")).expect("published");
    let (provider, at_ms) = (Provider::Registered(known.provider.clone()), slow.ended_at_ms);
    served.hub.metrics.committed(
        &provider,
        &[
            ProviderEvent::WakeSucceeded {
                wake_id: slow.id,
                report: None,
                stages: vec![],
                at_ms,
            },
            ProviderEvent::WakeFailed {
                wake_id: blocked.id,
                report: None,
                failure,
                failures: known.provider.failures.clone(),
                stages: vec![],
                at_ms,
            },
        ],
    );
    served
        .metrics_show(&[
            "# UNIT reveille_wake_duration_seconds seconds",
            r#"reveille_wake_duration_seconds_bucket{le="1.0",outcome="succeeded"} 0"#,
            r#"reveille_wake_duration_seconds_bucket{le="2.5",outcome="succeeded"} 1"#,
            r#"reveille_wake_duration_seconds_sum{outcome="succeeded"} 2.0"#,
            r#"reveille_wake_duration_seconds_sum{outcome="group_blocked"} 0.7"#,
        ])
        .await;
}

#[tokio::test]
async fn metrics_tell_how_long_requests_waited_for_their_first_byte() {
    let served = Served::new().await;
    served.hub.publish("gpu-box/vllm", "m", hibernating());
    let piece = Bytes::from_static(b"data: 1\n\n");
    served.hub.replies([
        Reply::Whole(200, "application/json", piece.clone()),
        Reply::Pieces(200, "application/json", vec![Ok(piece.clone())]),
        Reply::Pieces(
            200,
            "text/event-stream",
            vec![Ok(piece.clone()), Ok(piece.clone())],
        ),
        // One that did nothing tells nothing, nor does one that broke off before its first byte.
        Reply::Whole(500, "application/json", piece),
        Reply::Pieces(200, "application/json", vec![Err(RelayError::Closed)]),
    ]);
    let cold = tokio::spawn(Answer::of(served.chat("m", false)));
    served.hub.until("a wake", |hub| hub.asked() == 1).await;
    served
        .hub
        .change("gpu-box/vllm", |provider| provider.status = active());
    assert_eq!(cold.await.expect("an answer").status, 200);
    for (stream, status) in [(false, 200), (true, 200), (false, 500)] {
        let answer = Answer::of(served.chat("m", stream)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let broken = served.chat("m", false).send().await;
    if let Ok(broken) = broken {
        assert!(broken.bytes().await.is_err(), "it is cut");
    }
    served
        .metrics_show(&[
            r#"reveille_request_ttft_seconds_count{wake="cold"} 1"#,
            r#"reveille_request_ttft_seconds_count{wake="warm"} 2"#,
            r#"reveille_request_ttft_seconds_bucket{le="+Inf",wake="warm"} 2"#,
        ])
        .await;
}
