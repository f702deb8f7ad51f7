use super::*;
use reveille_domain::{
    Epoch, Failures, ModelName, ProviderSpec, RecipeKind, ReportSeq, Stage, Status, Wake, WakeCause,
    WakeFailure, WakeId, WakeRecord, WakeSpec,
    provider::{InactiveReason, Registered, StableStatus, WakeCounts},
    requests::{NotChosen, RequestError, RequestOutcome, RequestRecord, Step, StepKind, TokenCount},
    rows::{WakeOutcomeName, WakeRow},
};
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

const BEGUN: u64 = 1_000_000;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(BEGUN + ms)
}

fn wake_id() -> WakeId {
    WakeId(Uuid::from_u128(7))
}

fn record(steps: Vec<(u64, StepKind)>) -> RequestRecord {
    RequestRecord {
        record_id: reveille_domain::RecordId(Uuid::from_u128(1)),
        request_id: "r-1".to_owned(),
        replica: "r1".into(),
        key: "k7mq2v9x4a1b".parse().ok(),
        path: Cow::Borrowed("/v1/chat/completions"),
        model: ModelName::parse("qwen3-8b").ok(),
        stream: true,
        priority: reveille_domain::Priority::default(),
        received_at_ms: at(0),
        steps: steps
            .into_iter()
            .map(|(after_ms, kind)| Step { after_ms, kind })
            .collect(),
        steps_left_out: 0,
        provider: "gpu-box/vllm".parse().ok(),
        wake_id: None,
        handed_over_ms: Some(8_500),
        first_byte_ms: Some(9_100),
        ended_ms: Some(12_000),
        outcome: RequestOutcome::Done,
        status: Some(200),
        error: None,
        tokens: Some(TokenCount {
            input: Some(12),
            output: Some(340),
            estimated: false,
        }),
        answer_bytes: 4_000,
        stands_for: 1,
    }
}

fn vllm() -> reveille_domain::ProviderId {
    "gpu-box/vllm".parse().unwrap()
}

fn wake_row(failure: Option<WakeFailure>) -> WakeRow {
    WakeRow {
        wake_id: wake_id(),
        provider: vllm(),
        cause: Some(WakeCause::Request {
            request_id: "r-0".to_owned(),
            model: ModelName::parse("qwen3-8b").unwrap(),
            key: None,
        }),
        requested_at_ms: at(2),
        deadline_ms: Some(at(60_000)),
        ended_at_ms: Some(at(8_402)),
        outcome: if failure.is_some() {
            WakeOutcomeName::Failed
        } else {
            WakeOutcomeName::Succeeded
        },
        failure,
        stages: vec![
            Stage {
                name: "group".to_owned(),
                started_after_ms: 0,
                took_ms: 2_000,
            },
            Stage {
                name: "step 1 http".to_owned(),
                started_after_ms: 2_000,
                took_ms: 300,
            },
        ],
        requested_seq: Some(1),
        ended_seq: Some(2),
    }
}

/// The chain as a screen has it: times since the beginning, in seconds.
fn shown(why: &Why) -> String {
    let line = |cause: &Cause| {
        let at = cause.at_ms.map(|at| at.as_millis().saturating_sub(BEGUN));
        let at = at.map_or_else(
            || "now".to_owned(),
            |ms| format!("{}.{:03}", ms / 1_000, ms % 1_000),
        );
        format!("{at} {}\n", cause.what)
    };
    let chain: String = why.chain.iter().map(line).collect();
    let advice = why.advice.as_deref().unwrap_or("nothing");
    format!("{}\n{chain}-> {advice}\n", why.summary)
}

#[test]
fn a_request_that_joined_a_wake_is_told_from_the_question_to_the_last_token() {
    let steps = vec![
        (1, StepKind::Read),
        (
            1,
            StepKind::Chosen {
                provider: vllm(),
                of: 2,
                why: Cow::Borrowed("it is waking"),
                others: vec![NotChosen {
                    provider: "nas/ollama".parse().unwrap(),
                    why: Cow::Borrowed("it is asleep"),
                }],
            },
        ),
        (1, StepKind::Waking { provider: vllm() }),
        (
            8_450,
            StepKind::Queued {
                provider: vllm(),
                place: Some(3),
            },
        ),
        (8_500, StepKind::Sent { provider: vllm() }),
    ];
    let record = RequestRecord {
        wake_id: Some(wake_id()),
        ..record(steps)
    };
    let why = of_request(&record, Some(&wake_row(None)));
    assert_eq!(
        shown(&why),
        "\
it was answered by gpu-box/vllm after 12.0 s, with 12 tokens of the prompt and 340 tokens of the answer
0.000 key k7mq2v9x4a1b asked for `qwen3-8b` at /v1/chat/completions, as a stream
0.001 it goes to gpu-box/vllm, one of 2: it is waking; not to nas/ollama: it is asleep
0.001 it waits for gpu-box/vllm to wake
0.002 request r-0 for `qwen3-8b` requested that wake
0.002 the wake waited 2.0 s until its group had room
2.002 the stage `step 1 http` of its recipe began, and took 0.3 s
8.402 gpu-box/vllm was awake, 8.4 s after the request for the wake
8.450 it waits for a slot at gpu-box/vllm, as number 3 of its queue
8.500 gpu-box/vllm gets it
9.100 the first byte of the answer came, 0.6 s after the provider got it
12.000 it was answered by gpu-box/vllm after 12.0 s, with 12 tokens of the prompt and 340 tokens of the answer
-> nothing
"
    );
}

#[test]
fn a_request_that_failed_says_what_was_tried_and_what_to_do() {
    let failure = WakeFailure::new(
        WakeFailureKind::Recipe,
        "step 1 http",
        "the controller answered 500",
    );
    let steps = vec![
        (1, StepKind::Waking { provider: vllm() }),
        (8_410, StepKind::missed(vllm(), "gpu-box/vllm did not wake")),
    ];
    let record = RequestRecord {
        wake_id: Some(wake_id()),
        handed_over_ms: None,
        first_byte_ms: None,
        ended_ms: Some(8_420),
        outcome: RequestOutcome::Failed,
        status: Some(503),
        error: Some(RequestError::new("wake_failed", "gpu-box/vllm did not wake")),
        tokens: None,
        ..record(steps)
    };
    let why = of_request(&record, Some(&wake_row(Some(failure))));
    let shown = shown(&why);
    assert_eq!(
        why.summary,
        "it failed with status 503 after 8.4 s: gpu-box/vllm did not wake (wake_failed)"
    );
    for part in [
        "8.402 the wake failed after 8.4 s: the controller answered 500 (stage `step 1 http`)\n",
        "8.410 gpu-box/vllm doesn't answer it: gpu-box/vllm did not wake\n",
        "-> read `reveille logs vllm` on the machine of gpu-box",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let unknown = RequestRecord {
        model: None,
        error: Some(RequestError::new("model_not_found", "")),
        status: Some(404),
        ..record
    };
    let why = of_request(&unknown, None);
    assert!(
        why.summary.ends_with(": model_not_found") && why.advice.is_some(),
        "{why:?}"
    );
}

#[test]
fn a_wake_names_who_asked_who_waited_and_who_made_room() {
    let waited = [record(vec![])].map(Arc::new);
    let room = [Room {
        provider: "gpu-box/ollama".parse().unwrap(),
        slept_at: at(1_900),
    }];
    let why = of_wake(&wake_row(None), &waited, &room);
    assert_eq!(
        shown(&why),
        "\
gpu-box/vllm was awake, 8.4 s after the request for the wake
0.000 request r-1 of key k7mq2v9x4a1b came, and waited for it
0.002 request r-0 for `qwen3-8b` requested a wake of gpu-box/vllm
0.002 the wake waited 2.0 s until its group had room
1.900 gpu-box/ollama had been put to sleep, which made room in the group
2.002 the stage `step 1 http` of its recipe began, and took 0.3 s
8.402 gpu-box/vllm was awake, 8.4 s after the request for the wake
-> nothing
"
    );
    let quiet = WakeFailure::new(WakeFailureKind::NotAllowed, "quiet_hours", "quiet until 08:00");
    let why = of_wake(&wake_row(Some(quiet)), &[], &[]);
    assert_eq!(
        why.summary,
        "the owner of gpu-box didn't allow the wake: quiet until 08:00 (stage `quiet_hours`)"
    );
    assert!(
        why.advice
            .is_some_and(|advice| advice.contains("owner of gpu-box"))
    );
}

fn member(status: Status) -> Member {
    let wake = Some(WakeSpec {
        kind: RecipeKind::Http,
        budget_ms: 60_000,
    });
    let models = vec![ModelName::parse("qwen3-8b").unwrap()];
    Member {
        provider: Registered {
            id: vllm(),
            spec: ProviderSpec::new(models, wake, true).unwrap(),
            epoch: Epoch(7),
            last_seq: ReportSeq(1),
            heard_at_ms: at(0),
            status,
            failures: Failures::default(),
            wakes: vec![],
            counts: WakeCounts::default(),
        },
        place: None,
        refused: None,
        wakes_in: Some(Duration::from_millis(8_400)),
        waiting: 0,
        stays_awake: None,
        failing: None,
    }
}

#[test]
fn the_next_request_for_a_provider_is_told_what_it_would_meet() {
    let asleep = || member(Status::Hibernating { since_ms: at(0) });
    let refused = WakeFailure::new(
        WakeFailureKind::NotAllowed,
        "paused",
        "its owner has paused this agent",
    );
    let failed = WakeFailure::new(WakeFailureKind::Recipe, "step 1 http", "no route");
    let mut on_hold = asleep();
    on_hold.provider.failures = Failures {
        count: 3,
        held_until_ms: Some(at(4_000)),
        last: Some(failed),
    };
    let inactive = Status::Inactive {
        since_ms: at(0),
        reason: InactiveReason::AgentLost,
        was: StableStatus::Active,
    };
    let waking = Status::Waking {
        wake: Wake {
            id: wake_id(),
            cause: WakeCause::Operator { key: None },
            requested_at_ms: at(0),
            deadline_ms: at(60_000),
        },
    };
    let active = || Status::Active {
        since_ms: at(0),
        woken_by: None,
    };
    for (member, summary, has_advice) in [
        (
            asleep(),
            "the next request would wake gpu-box/vllm, which usually takes 8.4 s",
            false,
        ),
        (
            Member {
                refused: Some(refused),
                ..asleep()
            },
            "the next request would be refused, because gpu-box/vllm isn't woken now: its owner has paused this agent",
            true,
        ),
        (
            on_hold,
            "the next request would be refused, because wakes of gpu-box/vllm are on hold for 3.0 s after 3 that failed",
            true,
        ),
        (
            member(waking),
            "the next request would join the wake of gpu-box/vllm, which usually takes 8.4 s",
            false,
        ),
        (
            member(active()),
            "gpu-box/vllm would get the next request at once",
            false,
        ),
        (
            Member {
                waiting: 2,
                ..member(active())
            },
            "the next request would wait for a slot at gpu-box/vllm",
            false,
        ),
        (
            member(Status::Down { since_ms: at(0) }),
            "gpu-box/vllm would get the next request, which finds out whether its backend is back",
            true,
        ),
        (
            member(inactive),
            "the next request would be refused: the agent gpu-box is away",
            true,
        ),
    ] {
        let why = of_provider(&member, at(1_000));
        assert_eq!(
            (why.summary.as_str(), why.advice.is_some()),
            (summary, has_advice)
        );
        assert!(!why.chain.is_empty());
    }
}

#[test]
fn a_model_is_told_with_all_its_providers_the_first_one_first() {
    let mut last_wake = member(Status::Hibernating { since_ms: at(9_000) });
    last_wake.provider.wakes = vec![WakeRecord {
        id: wake_id(),
        requested_at_ms: at(0),
        ended_at_ms: at(8_400),
        group_wait_ms: 0,
        failure: None,
    }];
    let mut other = member(Status::Down { since_ms: at(2_000) });
    other.provider.id = "nas/ollama".parse().unwrap();
    let members = [last_wake, other].map(|member| Member {
        place: Some("its place".to_owned()),
        ..member
    });
    let why = of_model(&ModelName::parse("qwen3-8b").unwrap(), &members, at(10_000));
    assert_eq!(
        shown(&why),
        "\
of 2 providers, gpu-box/vllm comes first: the next request would wake gpu-box/vllm, which usually takes 8.4 s
8.400 the last wake of gpu-box/vllm, 00000000-0000-0000-0000-000000000007, succeeded after 8.4 s
9.000 gpu-box/vllm is asleep since then
now among the providers of `qwen3-8b`, gpu-box/vllm: its place
2.000 nas/ollama is down since then: its backend is unavailable, and it has no wake recipe
now among the providers of `qwen3-8b`, nas/ollama: its place
-> nothing
"
    );
}
