//! What this replica counts, for Prometheus. Labels have few values, all of them ours: none names an agent, a model, a key
//! or a client.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use reveille_bus::{Refusals, SubjectKind, relay::DroppedFrames};
use reveille_domain::{Priority, Provider, ProviderEvent, WakeFailureKind, WakeRecord};
use std::time::Duration;
use tokio::time::Instant;

/// The route of requests that match none.
const NO_ROUTE: &str = "none";
/// The bounds of histograms, in seconds: from a response without any wait to the longest boot.
const SECONDS: [f64; 16] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0,
];

/// Names and values of labels.
type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Times = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// The counts since the process began. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Refused messages and connections on NATS.
    pub(crate) refusals: Refusals,
    answers: Counters<2>,
    wakes: Times,
    first_bytes: Times,
    failed_attempts: Counters<1>,
    queued: Times,
}

impl Default for Metrics {
    fn default() -> Self {
        let times = || Times::new_with_constructor(|| Histogram::new(SECONDS));
        Self {
            refusals: Refusals::default(),
            answers: Counters::default(),
            wakes: times(),
            first_bytes: times(),
            failed_attempts: Counters::default(),
            queued: times(),
        }
    }
}

/// Measures the time to the first byte of one response.
pub(crate) struct FirstByte {
    begun: Instant,
    times: Histogram,
}

impl FirstByte {
    /// The first byte has come.
    pub(crate) fn seen(self) {
        self.times.observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Metrics {
    /// Counts a response; `route` is the pattern that its request matched.
    pub(crate) fn answered(&self, route: Option<&str>, status: u16) {
        let labels = [
            ("route", route.unwrap_or(NO_ROUTE).to_owned()),
            ("status", status.to_string()),
        ];
        self.answers.get_or_create(&labels).inc();
    }

    /// Counts the wakes that ended with `events`, which this replica has committed and which led to `provider`.
    pub(crate) fn committed(&self, provider: &Provider, events: &[ProviderEvent]) {
        // A wake that was only requested hasn't ended.
        let ended = events.iter().filter_map(ProviderEvent::wake_id);
        for wake in ended.filter_map(|id| provider.ended_wake(id)) {
            let took = wake.ended_at_ms.since(wake.requested_at_ms);
            self.wakes
                .get_or_create(&[("outcome", outcome(wake).to_owned())])
                .observe(took.as_secs_f64());
        }
    }

    /// Counts a request that failed at a provider. The caller may have got its answer from another one.
    pub(crate) fn failed_attempt(&self, kind: &'static str) {
        self.failed_attempts
            .get_or_create(&[("kind", kind.to_owned())])
            .inc();
    }

    /// Counts a request that has got a slot at a provider, and how long it waited for that, wakes apart.
    pub(crate) fn queued(&self, priority: Priority, waited: Duration) {
        self.queued
            .get_or_create(&[("priority", priority.to_string())])
            .observe(waited.as_secs_f64());
    }

    /// For a request that came at `begun` and that a backend answers, after a wake or at once.
    pub(crate) fn first_byte(&self, begun: Instant, waited_for_wake: bool) -> FirstByte {
        let wake = if waited_for_wake { "cold" } else { "warm" };
        let times = self.first_bytes.get_or_create(&[("wake", wake.to_owned())]);
        let times = times.clone();
        FirstByte { begun, times }
    }

    /// Registers all counts on a page of metrics; `dropped`: what the relay has counted itself.
    pub(crate) fn register(&self, page: &mut Registry, dropped: DroppedFrames) {
        page.register(
            "http_answers",
            "Answers, by route and status; a stream counts when it begins",
            self.answers.clone(),
        );
        page.register_with_unit(
            "wake_duration",
            "From the request for a wake to its end, in the commits of this replica",
            Unit::Seconds,
            self.wakes.clone(),
        );
        page.register_with_unit(
            "request_ttft",
            "From an inference request to the first byte of its backend's answer",
            Unit::Seconds,
            self.first_bytes.clone(),
        );
        page.register(
            "failed_attempts",
            "Inference requests that failed at a provider, whether or not another one answered them",
            self.failed_attempts.clone(),
        );
        page.register_with_unit(
            "queue_wait",
            "How long requests waited for a slot at a provider, wakes apart, by priority",
            Unit::Seconds,
            self.queued.clone(),
        );
        self.register_refusals(page, dropped);
    }

    fn register_refusals(&self, page: &mut Registry, dropped: DroppedFrames) {
        let (messages, connections) = (Counters::<2>::default(), Counters::<1>::default());
        let message = |kind: SubjectKind, reason: &str, count| {
            let labels = [
                ("subject_kind", <&str>::from(kind).to_owned()),
                ("reason", reason.to_owned()),
            ];
            messages.get_or_create(&labels).inc_by(count);
        };
        for (kind, reason, count) in self.refusals.all() {
            if kind == SubjectKind::Connections {
                let labels = [("reason", <&str>::from(reason).to_owned())];
                connections.get_or_create(&labels).inc_by(count);
            } else {
                message(kind, reason.into(), count);
            }
        }
        for (reason, count) in dropped.by_reason().into_iter().filter(|(_, count)| *count > 0) {
            message(SubjectKind::Replies, reason.into(), count);
        }
        page.register(
            "refused_messages",
            "Messages on NATS that were not taken",
            messages,
        );
        page.register(
            "refused_connections",
            "Connections of agents that were not let in",
            connections,
        );
    }
}

fn outcome(wake: &WakeRecord) -> &'static str {
    wake.failure
        .as_ref()
        .map_or("succeeded", |failure| match failure.kind {
            WakeFailureKind::Recipe => "recipe",
            WakeFailureKind::Unavailable => "unavailable",
            WakeFailureKind::TimedOut => "timed_out",
            WakeFailureKind::AgentLost => "agent_lost",
            WakeFailureKind::AgentStopped => "agent_stopped",
            WakeFailureKind::Withdrawn => "withdrawn",
            WakeFailureKind::Died => "died",
            WakeFailureKind::NotAllowed => "not_allowed",
            WakeFailureKind::GroupBlocked => "group_blocked",
            WakeFailureKind::NotNeeded => "not_needed",
        })
}
