//! `/metrics`: who may read it, and that it counts what happened.

use super::{
    Served,
    fleet::{active, hibernating},
    keys::{locked, refused},
};
use reveille_bus::{Reason, SubjectKind};
use reveille_domain::{ProviderEvent, Timestamp, WakeId};
use uuid::Uuid;

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
    served
        .fleet
        .publish("secret-agent/vllm", "secret-model", active());
    served
        .fleet
        .publish("secret-agent/ollama", "other", hibernating());
    served.replies_hello(1);
    let _ = served.get("/v1/models/secret-path").await;
    let _ = served.get("/secret-path").await;
    let answer = super::Answer::of(served.chat("secret-model", false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let metrics = &served.fleet.metrics;
    metrics.refusals.count(SubjectKind::Control, Reason::OtherName);
    metrics
        .refusals
        .count(SubjectKind::Connections, Reason::UnknownKey);
    metrics.committed(&[ProviderEvent::WakeSucceeded {
        wake_id: WakeId(Uuid::nil()),
        report: None,
        stages: vec![],
        at_ms: Timestamp::from_millis(1),
    }]);
    let page = served.get("/metrics").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    let text = page.text();
    for line in [
        r#"reveille_http_answers_total{route="/v1/models/{*id}",status="404"} 1"#,
        r#"reveille_http_answers_total{route="none",status="404"} 1"#,
        r#"reveille_http_answers_total{route="/v1/chat/completions",status="200"} 1"#,
        r#"reveille_wakes_total{outcome="succeeded"} 1"#,
        r#"reveille_refused_messages_total{subject_kind="control",reason="other_name"} 1"#,
        r#"reveille_refused_messages_total{subject_kind="replies",reason="other_name"} 3"#,
        r#"reveille_refused_connections_total{reason="unknown_key"} 1"#,
        r#"reveille_providers{status="active"} 1"#,
        r#"reveille_providers{status="hibernating"} 1"#,
        "reveille_connected_agents 1",
        "reveille_relayed_requests 4",
        "reveille_unreadable_aggregates 2",
        "# EOF",
    ] {
        assert!(text.lines().any(|is| is == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
}
