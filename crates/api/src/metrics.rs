//! What this replica counts, in the words of Prometheus. Labels have few values, all of them ours: no label names an agent,
//! a model, a key or a client.

use crate::{inference::Fleet, registry::Known};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use reveille_bus::{
    Refusals, SubjectKind,
    relay::{DroppedFrames, RelayLook},
};
use reveille_domain::{ProviderEvent, Status, WakeFailureKind};
use std::{collections::HashSet, fmt};

/// What a page of metrics is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The path of what no route matches.
const NO_ROUTE: &str = "none";

/// A label's value for each of its names.
type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// The counts since the process began. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// What was said over NATS and wasn't taken.
    pub(crate) refusals: Refusals,
    answers: Counters<2>,
    wakes: Counters<1>,
}

impl Metrics {
    /// Counts an answer to a request that `route` matches.
    pub(crate) fn answered(&self, route: Option<&str>, status: u16) {
        let labels = [
            ("route", route.unwrap_or(NO_ROUTE).to_owned()),
            ("status", status.to_string()),
        ];
        self.answers.get_or_create(&labels).inc();
    }

    /// Counts the ends of wakes among what this replica has committed.
    pub(crate) fn committed(&self, events: &[ProviderEvent]) {
        for outcome in events.iter().filter_map(outcome) {
            self.wakes.get_or_create(&[("outcome", outcome.to_owned())]).inc();
        }
    }

    /// All counts, and how `fleet` stands now, in the text format of `OpenMetrics`.
    pub(crate) fn page(&self, fleet: &dyn Fleet) -> Result<String, fmt::Error> {
        let mut page = Registry::with_prefix("reveille");
        page.register(
            "http_answers",
            "Answers, by route and status; a stream counts when it begins",
            self.answers.clone(),
        );
        page.register(
            "wakes",
            "Wakes that ended, in the commits of this replica",
            self.wakes.clone(),
        );
        self.register_refusals(&mut page, fleet.relay_look().dropped);
        register_fleet(&mut page, fleet);
        let mut text = String::new();
        encode(&mut text, &page)?;
        Ok(text)
    }

    fn register_refusals(&self, page: &mut Registry, dropped: DroppedFrames) {
        let (messages, connections) = (Counters::<2>::default(), Counters::<1>::default());
        let message = |kind: SubjectKind, reason: &str, count| {
            let labels = [
                ("subject_kind", kind.name().to_owned()),
                ("reason", reason.to_owned()),
            ];
            messages.get_or_create(&labels).inc_by(count);
        };
        for (kind, reason, count) in self.refusals.all() {
            if kind == SubjectKind::Connections {
                let labels = [("reason", reason.name().to_owned())];
                connections.get_or_create(&labels).inc_by(count);
            } else {
                message(kind, reason.name(), count);
            }
        }
        for (reason, count) in dropped.by_reason().into_iter().filter(|(_, count)| *count > 0) {
            message(SubjectKind::Replies, reason.name(), count);
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

fn outcome(event: &ProviderEvent) -> Option<&'static str> {
    match event {
        ProviderEvent::WakeSucceeded { .. } => Some("succeeded"),
        ProviderEvent::WakeTimedOut { .. } => Some("timed_out"),
        ProviderEvent::WakeFailed { failure, .. } => Some(match failure.kind {
            WakeFailureKind::Recipe => "recipe",
            WakeFailureKind::Unavailable => "unavailable",
            WakeFailureKind::TimedOut => "timed_out",
            WakeFailureKind::AgentLost => "agent_lost",
            WakeFailureKind::AgentStopped => "agent_stopped",
            WakeFailureKind::Withdrawn => "withdrawn",
            WakeFailureKind::Died => "died",
            WakeFailureKind::NotAllowed => "not_allowed",
            WakeFailureKind::GroupBlocked => "group_blocked",
        }),
        ProviderEvent::ProviderRegistered { .. }
        | ProviderEvent::WakeRequested { .. }
        | ProviderEvent::BackendSlept { .. }
        | ProviderEvent::BackendAwoke { .. }
        | ProviderEvent::ProviderBecameInactive { .. }
        | ProviderEvent::ProviderResumed { .. }
        | ProviderEvent::ProviderDeregistered { .. }
        | ProviderEvent::ProviderExpired { .. } => None,
    }
}

fn register_fleet(page: &mut Registry, fleet: &dyn Fleet) {
    let (all, providers) = (fleet.all(), Gauges::<1>::default());
    for known in &all {
        let status = known.provider.status.name().to_string();
        providers.get_or_create(&[("status", status)]).inc();
    }
    let is_there = |known: &&std::sync::Arc<Known>| !matches!(known.provider.status, Status::Inactive { .. });
    let agents: HashSet<_> = all
        .iter()
        .filter(is_there)
        .map(|known| &known.provider.id.agent)
        .collect();
    page.register("providers", "Published providers", providers);
    let gauge = |page: &mut Registry, name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        page.register(name, help, gauge);
    };
    let RelayLook { in_flight, .. } = fleet.relay_look();
    gauge(
        page,
        "connected_agents",
        "Agents with a provider that is not inactive",
        agents.len(),
    );
    gauge(
        page,
        "relayed_requests",
        "Requests of this replica that agents work on",
        in_flight,
    );
    gauge(
        page,
        "unreadable_aggregates",
        "Aggregates whose last commit this replica can't read",
        fleet.unreadable(),
    );
}
