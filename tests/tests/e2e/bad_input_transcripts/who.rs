//! Who may not: every way to be refused by one's key, with the status of each.

use super::{CHAT, MODELS, Stage, TYPED, WAKE, bearer, chat, row};
use crate::transcript::{Transcript, asked};
use serde_json::json;

// The controllers answer while curl waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_not_is_told_so_by_curl() {
    let stage = Stage::set().await;
    let infer = stage.key(&["--scope", "infer:*"]).await;
    let other = stage.key(&["--scope", "infer:broken"]).await;
    let query = stage.key(&["--scope", "query"]).await;
    let slow = stage.key(&["--scope", "infer:*", "--rate", "1"]).await;
    let none = stage.key(&["--scope", "infer:*", "--wakes-per-hour", "0"]).await;
    let expired = stage.key(&["--scope", "infer:*", "--expires", "1s"]).await;
    let (id, revoked) = stage.hub.make(&stage.open, &["--scope", "infer:*"]).await;
    stage.hub.key(&stage.open, &["revoke", &id]).await;
    stage.until_it_is("invalid_api_key", &revoked).await;
    stage.until_it_is("expired_api_key", &expired).await;
    let (id, rotated) = stage.hub.make(&stage.open, &["--scope", "infer:*"]).await;
    stage.hub.key(&stage.open, &["rotate", &id]).await;
    stage.until_it_is("invalid_api_key", &rotated).await;

    let [infer, other, query, slow, none, expired, revoked, rotated] =
        [&infer, &other, &query, &slow, &none, &expired, &revoked, &rotated].map(|key| bearer(key));
    let own = infer.replace("authorization: Bearer", "x-api-key:");
    let others_own = other.replace("authorization: Bearer", "x-api-key:");
    let stranger = bearer(&format!("rv_k7mq2v9x4a1b_{}", "A".repeat(43)));
    let (hello, unknown) = (chat("qwen"), chat("nothing"));
    let basic = "authorization: Basic cm9vdDpyb290";
    let token = json!({"agent": "gpu-box", "token_id": "00000000-0000-0000-0000-000000000000", "secret": "",
        "key": "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"})
    .to_string();
    let rows = [
        row("no key", 401, "missing_api_key", &[MODELS]),
        row("no key, a request", 401, "missing_api_key", &["-d", &hello, CHAT]),
        row("Basic", 401, "invalid_api_key", &["-H", basic, MODELS]),
        row(
            "no key of Reveille's",
            401,
            "invalid_api_key",
            &["-H", "x-api-key: sk-1234", MODELS],
        ),
        row("unknown", 401, "invalid_api_key", &["-H", &stranger, MODELS]),
        row(
            "two headers",
            401,
            "invalid_api_key",
            &["-H", &infer, "-H", &infer, MODELS],
        ),
        row(
            "two own headers",
            401,
            "invalid_api_key",
            &["-H", &own, "-H", &own, MODELS],
        ),
        row(
            "two keys",
            401,
            "invalid_api_key",
            &["-H", &infer, "-H", &others_own, MODELS],
        ),
        row("revoked", 401, "invalid_api_key", &["-H", &revoked, MODELS]),
        row("rotated", 401, "invalid_api_key", &["-H", &rotated, MODELS]),
        row("expired", 401, "expired_api_key", &["-H", &expired, MODELS]),
        row(
            "an admin's path",
            403,
            "insufficient_scope",
            &["-H", &infer, "-X", "POST", WAKE],
        ),
        row(
            "keys",
            403,
            "insufficient_scope",
            &["-H", &query, "/reveille/v1/keys"],
        ),
        row(
            "rows",
            403,
            "insufficient_scope",
            &["-H", &infer, "/reveille/v1/llms"],
        ),
        row(
            "a request without the scope",
            403,
            "insufficient_scope",
            &["-H", &query, "-H", TYPED, "-d", &hello, CHAT],
        ),
        row(
            "no such token",
            403,
            "token_refused",
            &["-H", TYPED, "-d", &token, "/reveille/v1/enroll"],
        ),
        row(
            "a model outside the scope",
            404,
            "model_not_found",
            &["-H", &other, "-H", TYPED, "-d", &hello, CHAT],
        ),
        row(
            "a model outside the scope, by its own path",
            404,
            "model_not_found",
            &["-H", &other, "/v1/models/qwen"],
        ),
        row(
            "a model that there isn't",
            404,
            "model_not_found",
            &["-H", &other, "-H", TYPED, "-d", &unknown, CHAT],
        ),
        row(
            "no wakes",
            429,
            "wake_quota_exceeded",
            &["-H", &none, "-H", TYPED, "-d", &hello, CHAT],
        ),
    ];
    for row in &rows {
        row.check(&stage.api);
    }
    assert_eq!(
        Transcript::of("the first", &asked(&stage.api, &["-H", &slow, MODELS])).status,
        200
    );
    row("rate", 429, "rate_limit_exceeded", &["-H", &slow, MODELS]).check(&stage.api);
    assert!(
        stage
            .controllers
            .iter()
            .all(|controller| controller.posts().is_empty()),
        "nothing was woken"
    );
}
