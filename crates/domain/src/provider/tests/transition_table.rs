//! Every status with every command: the whole table on one page.
//!
//! Each row is a command, and its columns show the outcome when the provider is unregistered, gone, active, hibernating,
//! waking, inactive, and down, which has no wake recipe. `=` is no event, lower-case words are a refusal, and anything else is
//! the events and the status after them.

use super::*;

const TABLE: &str = "
Register up        | ProviderRegistered>active | ProviderRegistered>active | = | = | WakeSucceeded>active | ProviderRegistered>active | ProviderRegistered>active
Register down      | ProviderRegistered>hibernating | ProviderRegistered>hibernating | = | = | = | ProviderRegistered>hibernating | ProviderRegistered>hibernating
Register unknown   | ProviderRegistered>active | ProviderRegistered>active | = | = | = | ProviderRegistered>active | ProviderRegistered>active
Register later up  | ProviderRegistered>active | ProviderRegistered>active | ProviderRegistered>active | ProviderRegistered>active | ProviderRegistered+WakeSucceeded>active | ProviderRegistered>active | ProviderRegistered>active
Register later down | ProviderRegistered>hibernating | ProviderRegistered>hibernating | ProviderRegistered>hibernating | ProviderRegistered>hibernating | ProviderRegistered>waking | ProviderRegistered>hibernating | ProviderRegistered>hibernating
Register later bare | ProviderRegistered>down | ProviderRegistered>down | ProviderRegistered>down | ProviderRegistered>down | WakeFailed+ProviderRegistered>down | ProviderRegistered>down | ProviderRegistered>down
RequestWake        | not registered | not registered | = | WakeRequested>waking | = | inactive | no recipe
RequestWake, overdue | not registered | not registered | = | WakeRequested>waking | WakeTimedOut+WakeRequested>waking | inactive | no recipe
ReportWake success | not registered | not registered | = | BackendAwoke>active | WakeSucceeded>active | resume first | BackendAwoke>active
ReportWake failure | not registered | not registered | = | = | WakeFailed>hibernating | resume first | =
ReportAsleep       | not registered | not registered | BackendSlept>hibernating | = | = | resume first | =
ReportAwake        | not registered | not registered | = | BackendAwoke>active | WakeSucceeded>active | resume first | BackendAwoke>active
ExpireWake         | not registered | not registered | = | = | WakeTimedOut>hibernating | = | =
MarkInactive       | not registered | not registered | ProviderBecameInactive>inactive | ProviderBecameInactive>inactive | WakeFailed+ProviderBecameInactive>inactive | = | ProviderBecameInactive>inactive
AgentStopped       | not registered | not registered | ProviderBecameInactive>inactive | ProviderBecameInactive>inactive | WakeFailed+ProviderBecameInactive>inactive | = | ProviderBecameInactive>inactive
Resume up          | not registered | not registered | = | = | = | ProviderResumed>active | =
Resume down        | not registered | not registered | = | = | = | ProviderResumed>hibernating | =
Deregister         | not registered | = | ProviderDeregistered>gone | ProviderDeregistered>gone | WakeFailed+ProviderDeregistered>gone | ProviderDeregistered>gone | ProviderDeregistered>gone
Expire             | not registered | = | not expired | not expired | not expired | ProviderExpired>gone | not expired
";

fn command(name: &str, secs: u64) -> ProviderCommand {
    match name {
        "Register up" => register(1, recipe(), UP, secs),
        "Register down" => register(1, recipe(), DOWN, secs),
        "Register unknown" => register(1, recipe(), None, secs),
        "Register later up" => register(2, recipe(), UP, secs),
        "Register later down" => register(2, recipe(), DOWN, secs),
        "Register later bare" => register(2, no_recipe(), DOWN, secs),
        "RequestWake" => request_wake(7, secs),
        "RequestWake, overdue" => request_wake_after(Some(1), 7, secs),
        "ReportWake success" => report_success(1, report(1, 1), secs),
        "ReportWake failure" => report_failure(1, report(1, 1), secs),
        "ReportAsleep" => report_asleep(report(1, 1), SleepReason::Idle, secs),
        "ReportAwake" => report_awake(report(1, 1), secs),
        "ExpireWake" => expire_wake(1, secs),
        "MarkInactive" => mark_inactive(1, 5, secs),
        "AgentStopped" => agent_stopped(1, secs),
        "Resume up" => resume(report(1, 1), Availability::Available, secs),
        "Resume down" => resume(report(1, 1), Availability::Unavailable, secs),
        "Deregister" => deregister(1, secs),
        "Expire" => ProviderCommand::Expire {
            after: Duration::from_secs(10),
            at: at(secs),
        },
        unknown => panic!("{unknown} is no command"),
    }
}

fn shown(given: Given, command: ProviderCommand) -> String {
    let events = match given.provider.decide(&command) {
        Err(Rejection::NotRegistered) => return "not registered".into(),
        Err(Rejection::ResumeFirst) => return "resume first".into(),
        Err(Rejection::Inactive { .. }) => return "inactive".into(),
        Err(Rejection::NotExpired) => return "not expired".into(),
        Err(Rejection::NoRecipe) => return "no recipe".into(),
        Err(other) => return format!("{other:?}"),
        Ok(events) if events.is_empty() => return "=".into(),
        Ok(events) => events,
    };
    let names: Vec<_> = events.iter().map(<&str>::from).collect();
    let after = given.when(command).then(events);
    let status = match &after.provider {
        Provider::Unregistered => "unregistered",
        Provider::Gone(_) => "gone",
        Provider::Registered(provider) => provider.status.name().into(),
    };
    format!("{}>{status}", names.join("+"))
}

#[test]
fn every_command_has_its_answer_in_every_status() {
    let columns = || {
        [
            (given([]), 60),
            (gone(), 60),
            (active(), 60),
            (hibernating(), 60),
            (waking(), 60),
            (inactive(), 60),
            (down(), 60),
        ]
    };
    for row in TABLE.trim().lines() {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().expect("a command");
        let expected: Vec<_> = cells.collect();
        let answers: Vec<_> = columns()
            .into_iter()
            .map(|(given, secs)| shown(given, command(name, secs)))
            .collect();
        assert_eq!(answers, expected, "{name}");
    }
}
