//! Random commands, near enough to what a provider expects that most of them matter.

use proptest::{prelude::*, sample::Index};
use reveille_domain::{
    Availability, ModelName, ProviderSpec, RecipeKind, SleepReason, Stage, WakeFailure, WakeFailureKind,
    WakeOutcome, WakeSpec,
};

/// A command whose epoch, number and wake are chosen when its turn comes, near the state's own.
#[derive(Debug, Clone)]
pub struct Step {
    /// How far the clock moves before it, in milliseconds: also backwards.
    pub clock: i64,
    /// The speaker's epoch, seen from the provider's.
    pub epoch: i64,
    /// The report's number, seen from the last one heard.
    pub seq: i64,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of a provider.
#[derive(Debug, Clone)]
pub enum Ask {
    /// With a number, or without.
    Register(usize, Option<Availability>, bool),
    /// Perhaps with an old id, or by a replica that finds the wake in flight overdue.
    RequestWake(Option<Index>, String, bool),
    ReportWake(Index, WakeOutcome),
    ReportAsleep(SleepReason),
    ReportAwake,
    ExpireWake(Index),
    MarkInactive(u64),
    AgentStopped,
    Resume(Availability),
    Deregister,
    Expire,
}

fn availability() -> impl Strategy<Value = Availability> {
    prop_oneof![Just(Availability::Available), Just(Availability::Unavailable)]
}

/// Text as a hostile agent or client would send it.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("step 1 http".to_owned()),
        Just("\u{1f480}\n\u{0}".repeat(5000)),
    ]
}

fn outcome() -> impl Strategy<Value = WakeOutcome> {
    let stages = || {
        vec![Stage {
            name: "step 1 http".to_owned(),
            started_after_ms: 0,
            took_ms: 1,
        }]
    };
    prop_oneof![
        Just(WakeOutcome::Succeeded { stages: stages() }),
        (text(), text()).prop_map(move |(stage, reason)| WakeOutcome::Failed {
            failure: WakeFailure {
                kind: WakeFailureKind::Recipe,
                stage,
                reason,
            },
            stages: stages(),
        }),
    ]
}

fn sleep_reason() -> impl Strategy<Value = SleepReason> {
    prop_oneof![
        Just(SleepReason::Idle),
        Just(SleepReason::FoundAsleep),
        Just(SleepReason::Exited),
        Just(SleepReason::Unreachable),
        Just(SleepReason::Crashed),
        Just(SleepReason::Failed),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => (0..specs().len(), proptest::option::of(availability()), any::<bool>())
            .prop_map(|(spec, found, numbered)| Ask::Register(spec, found, numbered)),
        6 => (proptest::option::weighted(0.2, any::<Index>()), text(), any::<bool>())
            .prop_map(|(old, id, overdue)| Ask::RequestWake(old, id, overdue)),
        5 => (any::<Index>(), outcome()).prop_map(|(wake, outcome)| Ask::ReportWake(wake, outcome)),
        4 => sleep_reason().prop_map(Ask::ReportAsleep),
        2 => Just(Ask::ReportAwake),
        2 => any::<Index>().prop_map(Ask::ExpireWake),
        1 => prop_oneof![Just(0), Just(1000), Just(60_000)].prop_map(Ask::MarkInactive),
        1 => Just(Ask::AgentStopped),
        2 => availability().prop_map(Ask::Resume),
        1 => Just(Ask::Deregister),
        1 => Just(Ask::Expire),
    ]
}

/// The next command.
pub fn step() -> impl Strategy<Value = Step> {
    let hour = 60 * 60 * 1000;
    let clock = prop_oneof![
        4 => 0..100_i64,
        3 => 1000..29_000_i64,
        3 => 29_900..30_100_i64,
        2 => 60_000..70_000_i64,
        1 => Just(31 * 24 * hour),
        1 => Just(-hour),
    ];
    let epoch = prop_oneof![8 => Just(0), 1 => Just(-1), 1 => Just(1)];
    let seq = prop_oneof![6 => Just(1), 2 => -2..=0_i64, 1 => Just(5)];
    (clock, epoch, seq, ask()).prop_map(|(clock, epoch, seq, ask)| Step {
        clock,
        epoch,
        seq,
        ask,
    })
}

/// Two specs with a recipe and one without.
pub fn specs() -> [ProviderSpec; 3] {
    let models = |names: &[&str]| {
        names
            .iter()
            .map(|n| ModelName::parse(n).expect("legal"))
            .collect()
    };
    let wake = WakeSpec {
        kind: RecipeKind::Serve,
        budget_ms: 55_000,
    };
    [
        ProviderSpec::new(models(&["a"]), Some(wake), true).expect("legal"),
        ProviderSpec::new(models(&["a", "b"]), Some(wake), true).expect("legal"),
        ProviderSpec::new(models(&["a"]), None, false).expect("legal"),
    ]
}
