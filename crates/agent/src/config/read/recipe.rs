//! Reads `[provider.wake]` and `[provider.sleep]`, in the flat form or as a list of steps.

use super::{
    command::{self, COMMAND_KEYS, DEFAULT_STEP_TIMEOUT, MAX_ENTRIES, MAX_TEXT_BYTES, RUN_KEYS},
    network::{self, DEFAULT_WOL_TIMEOUT, TCP_KEYS, WOL_KEYS},
    table::{Table, Value},
    verify,
};
use crate::config::{
    Action, Address, BaseUrl, ConfigError, HttpAction, ModelConfig, Secret, SleepConfig, Step, Trust,
    WakeConfig, recipe::DEFAULT_MIN_AWAKE, suggest::nearest,
};
use http::{HeaderName, HeaderValue, Method};
use reveille_domain::MAX_WAKE_BUDGET;
use std::{ops::RangeInclusive, time::Duration};

const WAKE_KEYS: [&str; 3] = ["max_wait", "max_per_day", "verify"];
const SLEEP_KEYS: [&str; 3] = ["idle_after", "min_awake", "keep_warm"];
/// The keys of every step.
const STEP_KEYS: [&str; 2] = ["type", "timeout"];
const HTTP_KEYS: [&str; 5] = ["url", "method", "headers", "body", "accept"];
/// The default of `max_wait`: how long to probe after the steps.
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(60);
const TYPES: [(&str, Kind); 4] = [
    ("http", Kind::Http),
    ("command", Kind::Command),
    ("wol", Kind::Wol),
    ("tcp", Kind::Tcp),
];
/// The most steps of one recipe.
const MAX_STEPS: usize = 16;
/// How many statuses `accept` may have, and which: those of a service that is asked for what it already does.
const MAX_ACCEPTED: usize = 16;
const ACCEPTED: RangeInclusive<u32> = 300..=599;
/// The bounds of `max_per_day`. More than one wake in eight seconds would be no limit.
const MAX_PER_DAY_BOUNDS: RangeInclusive<u32> = 1..=10_000;

/// `[provider.wake]`, as far as it could be read.
pub(super) struct Wake {
    /// Without the steps that couldn't be read.
    pub(super) config: WakeConfig,
    /// Whether it starts the backend; `None` if that isn't known.
    pub(super) serves: Option<bool>,
}

/// What a sleep recipe depends on.
pub(super) struct Woken<'a> {
    /// Whether there is a wake recipe.
    pub(super) is_woken: bool,
    /// Whether that starts the backend; `None` if that isn't known.
    pub(super) serves: Option<bool>,
    /// Its last step.
    pub(super) last: Option<&'a Step>,
}

/// Reads `[provider.wake]`.
pub(super) fn wake(mut table: Table<'_>, base_url: &BaseUrl, models: Option<&[ModelConfig]>) -> Wake {
    only_with_steps(&mut table, &WAKE_KEYS, true);
    let max_wait = table.duration("max_wait");
    let max_per_day = table.optional("max_per_day", |value| value.integer(MAX_PER_DAY_BOUNDS));
    let verify = table.table("verify");
    let verify = verify.map(|table| verify::verify(table, base_url, models));
    let steps = steps(&mut table, true);
    if steps.iter().rev().skip(1).any(|step| step.serves == Some(true)) {
        table.wrong("a `serve` command is the backend: only the last step can be one");
    }
    let serves = if steps.iter().any(|step| step.serves == Some(true)) {
        Some(true)
    } else {
        let is_known = !steps.is_empty() && steps.iter().all(|step| step.serves.is_some());
        is_known.then_some(false)
    };
    let wake = WakeConfig {
        steps: steps.into_iter().filter_map(|step| step.step).collect(),
        max_wait: max_wait.unwrap_or(DEFAULT_MAX_WAIT),
        verify,
        max_per_day,
    };
    if wake.budget() > MAX_WAKE_BUDGET {
        table.wrong(format!(
            "the time-outs of steps and verify and max_wait sum to more than {MAX_WAKE_BUDGET:?}"
        ));
    }
    Wake { config: wake, serves }
}

/// Reads `[provider.sleep]`.
pub(super) fn sleep(mut table: Table<'_>, woken: &Woken<'_>) -> SleepConfig {
    // A served backend sleeps when its child is stopped.
    let needs_recipe = woken.serves != Some(true);
    only_with_steps(&mut table, &SLEEP_KEYS, needs_recipe);
    let (idle_after, keep_warm) = (table.take("idle_after"), table.take("keep_warm"));
    if let Some(value) = &idle_after
        && !woken.is_woken
    {
        value.lacks("is for a provider with [provider.wake]: nothing would wake it again");
    }
    if let Some(value) = &keep_warm
        && idle_after.is_none()
    {
        value.lacks("is for a provider with `idle_after`: no other is put to sleep for being idle");
    }
    let idle_after = idle_after.and_then(|value| value.note(value.duration()));
    let min_awake = table.duration("min_awake");
    let has_recipe = table.has("step") || table.has("type");
    if !has_recipe {
        if woken.serves == Some(false) {
            table.missing(without_a_recipe(woken.last));
        }
        table.read_in_part();
    }
    let steps = steps(&mut table, needs_recipe);
    for step in &steps {
        match (step.kind, step.serves) {
            (_, Some(true)) => {
                table.wrong("a `serve` command can't put a backend to sleep; use run = \"once\"");
            }
            (Some(Kind::Wol | Kind::Tcp), _) => table.wrong("`wol` and `tcp` wake, and put nothing to sleep"),
            (Some(Kind::Http | Kind::Command) | None, _) => {}
        }
    }
    SleepConfig {
        steps: steps.into_iter().filter_map(|step| step.step).collect(),
        idle_after,
        min_awake: min_awake.unwrap_or(DEFAULT_MIN_AWAKE),
        keep_warm: keep_warm.map(Value::hours).unwrap_or_default(),
    }
}

/// Why a backend whose wake recipe ends with that step needs a sleep recipe. Most often that lacks `run = "serve"`.
fn without_a_recipe(last: Option<&Step>) -> &'static str {
    if last.is_some_and(|step| matches!(step.action, Action::Once(_))) {
        return "nothing says how to put the backend to sleep. If the command of [provider.wake] is the server itself, add \
                run = \"serve\" there, and the backend sleeps when that command is ended. Otherwise give this table a \
                `type` and what puts the backend to sleep";
    }
    "`type` is missing: only a backend with run = \"serve\" is put to sleep without a recipe, by ending its command; name a \
     command or a request that puts this one to sleep"
}

/// Checks that a recipe's table has no other keys than its `own` and those of its steps.
fn only_with_steps(table: &mut Table<'_>, own: &[&'static str], required: bool) {
    if table.has("step") && table.has("type") {
        table.wrong("has both `type` and a list of steps; use one of them");
    }
    only(table, |table| {
        let own = [own, &["step"]].concat();
        match (table.has("step"), table.has("type")) {
            (true, false) => own,
            (false, false) if !required && !table.means("type") => [&own[..], &["type"]].concat(),
            _ => [&own[..], &STEP_KEYS, &kind_keys(table)].concat(),
        }
    });
}

/// Checks that a table has no other keys than those that it may have by its `type` or its `step`.
fn only(table: &mut Table<'_>, known: impl Fn(&Table<'_>) -> Vec<&'static str>) {
    // The first time may find that one of the two is mistyped.
    for _ in 0..2 {
        let known = known(table);
        table.only(&[&known]);
    }
}

/// The keys that only the step's own `type` has; those of all types if it has none.
fn kind_keys(table: &Table<'_>) -> Vec<&'static str> {
    let word = table.peek("type");
    let words = TYPES.map(|(word, _)| word);
    let meant = word.and_then(|word| nearest(&word, words));
    match TYPES.iter().find(|(word, _)| Some(*word) == meant) {
        Some((_, kind)) => kind.keys(),
        None => [&HTTP_KEYS[..], &COMMAND_KEYS, &RUN_KEYS, &WOL_KEYS].concat(),
    }
}

/// A step, as far as it could be read.
struct ReadStep {
    step: Option<Step>,
    kind: Option<Kind>,
    /// Whether it starts the backend; `None` if that isn't known.
    serves: Option<bool>,
}

/// The steps of a recipe in either form; none if none are required.
fn steps(table: &mut Table<'_>, required: bool) -> Vec<ReadStep> {
    let list = table.take("step");
    let mut steps = Vec::new();
    if table.has("type") || (required && list.is_none()) {
        steps.push(step(table));
    }
    let Some(list) = list else { return steps };
    if list.is_empty() {
        list.wrong("has no steps");
    }
    steps.extend(list.tables(MAX_STEPS).into_iter().map(|mut entry| {
        only(&mut entry, |entry| [&STEP_KEYS[..], &kind_keys(entry)].concat());
        step(&mut entry)
    }));
    steps
}

fn step(table: &mut Table<'_>) -> ReadStep {
    if !table.has("type") {
        table.missing("`type` is missing");
        table.read_in_part();
    }
    let kind = table.choice("type", &TYPES).or_else(|| {
        table.read_in_part();
        kind_by_keys(table)
    });
    let timeout = table.take("timeout");
    let given = timeout.as_ref().map(|value| value.note(value.duration()));
    let limit = |default| given.unwrap_or(Some(default));
    let within = limit(DEFAULT_STEP_TIMEOUT).unwrap_or(DEFAULT_STEP_TIMEOUT);
    let (action, within, serves) = match kind {
        None => (None, within, None),
        Some(Kind::Http) => (http_action(table).map(Action::Http), within, Some(false)),
        Some(Kind::Command) => command::command(table, timeout.as_ref(), within),
        Some(Kind::Wol) => {
            let wol = network::wol(table, limit(DEFAULT_WOL_TIMEOUT)).map(Action::Wol);
            let within = limit(DEFAULT_WOL_TIMEOUT).unwrap_or(DEFAULT_WOL_TIMEOUT);
            (wol, within, Some(false))
        }
        Some(Kind::Tcp) => (network::tcp(table).map(Action::Tcp), within, Some(false)),
    };
    let step = action.map(|action| Step {
        timeout: within,
        action,
    });
    ReadStep { step, kind, serves }
}

/// What a step does.
#[derive(Clone, Copy)]
enum Kind {
    Http,
    Command,
    Wol,
    Tcp,
}

impl Kind {
    /// The keys that its steps have besides those of every step.
    fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Http => HTTP_KEYS.to_vec(),
            Self::Command => [&COMMAND_KEYS[..], &RUN_KEYS].concat(),
            Self::Wol => WOL_KEYS.to_vec(),
            Self::Tcp => TCP_KEYS.to_vec(),
        }
    }
}

/// What a step without a known `type` most probably does: what most of its keys are for.
fn kind_by_keys(table: &Table<'_>) -> Option<Kind> {
    let count = |kind: &Kind| kind.keys().iter().filter(|key| table.has(key)).count();
    let kinds = TYPES.into_iter().map(|(_, kind)| kind);
    kinds.max_by_key(count).filter(|kind| count(kind) > 0)
}

fn http_action(table: &mut Table<'_>) -> Option<HttpAction> {
    let address = table.required("url", |value| value.parsed(Address::parse));
    let method = table.optional("method", |value| {
        value.parsed(|raw| {
            // Methods are case-sensitive: `post` would be another method, which no server knows.
            Method::from_bytes(raw.to_ascii_uppercase().as_bytes()).map_err(|_| "is not an HTTP method")
        })
    });
    let headers = table.entries("headers", MAX_ENTRIES, header);
    let body = table.optional("body", |value| value.bounded(MAX_TEXT_BYTES));
    let accept = table.list("accept", MAX_ACCEPTED, |status| {
        status.integer(ACCEPTED).map(|status| status as u16)
    });
    Some(HttpAction {
        method: method.unwrap_or(Method::POST),
        address: address?,
        trust: Trust::default(),
        headers,
        body: body.map(Secret::new),
        accept,
    })
}

fn header(name: &str, value: &Value<'_>) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let header = HeaderName::try_from(name).map_err(|_| value.error("is not a header's name"))?;
    if [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING].contains(&header) {
        return Err(value.error("is set by the agent itself"));
    }
    let mut text =
        value.parsed(|raw| HeaderValue::from_str(raw).map_err(|_| "is not a legal header value"))?;
    text.set_sensitive(true);
    Ok((header, text))
}
