//! `reveille config show`: the effective config, defaults included, and where each value comes from.
//!
//! Secrets are hidden: API keys, and the headers, bodies, arguments, variables and URL queries of recipes. The system prompts of presets
//! are cut short.

use super::{FileArg, load};
use crate::{
    args::{Format, OutputArg},
    client::{Row, line, print},
    failure::Failure,
    hub::nats_for_agent,
};
use anyhow::Context;
use clap::Args;
use reveille_agent::config::{
    Action, AnswerModelName, CancelWake, CommandAction, Config, Hours, HttpAction, ModelConfig, Place,
    Preset, ProviderConfig, Step, places,
};
use reveille_agent::wol::WakeOnLan;
use serde_json::json;
use std::{collections::BTreeMap, env, fmt, fs, path::PathBuf, time::Duration};

/// Shown in place of a secret.
const REDACTED: &str = "[redacted]";
/// How much of a system prompt is shown.
const SHOWN_CHARS: usize = 60;
/// The flag that overrides the file, and its variable.
const NATS_FLAG: &str = "--nats";
const NATS_VARIABLE: &str = "REVEILLE_NATS_URL";

/// `reveille config show`.
#[derive(Debug, Args)]
pub struct ConfigShow {
    #[command(flatten)]
    pub file: FileArg,
    /// Show where each value comes from.
    #[arg(long)]
    pub origin: bool,
    /// The hub's NATS servers [default: those in the config].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    #[command(flatten)]
    pub format: OutputArg,
}

/// Prints each value on its own line.
pub fn run(args: &ConfigShow) -> Result<(), Failure> {
    let file = args.file.path()?;
    let config = load(&file)?;
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut shown = Shown {
        file: file.display().to_string(),
        places: places(&text),
        lines: vec![],
    };
    shown.agent(&config, args.nats.as_deref())?;
    for (index, provider) in config.providers.iter().enumerate() {
        shown.provider(&format!("provider[{index}]"), provider);
    }
    for (index, preset) in config.presets.iter().enumerate() {
        shown.preset(&format!("preset[{index}]"), preset);
    }
    if args.format.output != Format::Table {
        let rows: Vec<_> = shown.lines.iter().map(row).collect();
        return print(&rows, args.format.output, &[]);
    }
    let width = shown
        .lines
        .iter()
        .map(|(setting, _)| setting.chars().count())
        .max();
    let width = width.unwrap_or_default();
    for (setting, origin) in shown.lines {
        if args.origin {
            line(&format!("{setting:<width$}  # {origin}"))?;
        } else {
            line(&setting)?;
        }
    }
    Ok(())
}

/// A setting for programs.
fn row((setting, origin): &(String, String)) -> Row {
    let (key, value) = setting.split_once(" = ").unwrap_or((setting, ""));
    // Each value is written as JSON or TOML has it.
    let of_toml = || {
        let read = format!("value = {value}").parse::<toml::Table>().ok()?;
        serde_json::to_value(read.get("value")?).ok()
    };
    let value = serde_json::from_str::<Row>(value).ok().or_else(of_toml);
    json!({"key": key, "value": value, "origin": origin})
}

struct Shown {
    file: String,
    places: BTreeMap<String, Place>,
    lines: Vec<(String, String)>,
}

impl Shown {
    fn agent(&mut self, config: &Config, nats: Option<&str>) -> Result<(), Failure> {
        let agent = &config.agent;
        self.add("agent", "name", quoted(agent.name.as_str()));
        match (nats, &agent.nats) {
            (Some(url), _) => {
                let url = nats_for_agent(url, config)?;
                let flag = |arg: String| arg == NATS_FLAG || arg.starts_with("--nats=");
                let by_flag = env::args_os().any(|arg| arg.into_string().is_ok_and(flag));
                let origin = if by_flag {
                    format!("flag {NATS_FLAG}")
                } else {
                    format!("variable {NATS_VARIABLE}")
                };
                self.lines
                    .push((format!("agent.nats = {}", quoted(&url.url)), origin));
            }
            (None, Some(url)) => self.add("agent", "nats", quoted(url.as_str())),
            (None, None) => {}
        }
        self.add("agent", "allow_plaintext", agent.allow_plaintext);
        let file = |file: &PathBuf| quoted(&file.display().to_string());
        self.add_some("agent", "credentials", agent.credentials.as_ref().map(file));
        self.add_some("agent", "ca", agent.ca.as_ref().map(file));
        self.add("agent", "heartbeat", duration(agent.heartbeat));
        self.hours("agent", "quiet_hours", &agent.quiet_hours);
        Ok(())
    }

    fn provider(&mut self, path: &str, provider: &ProviderConfig) {
        self.add(path, "name", quoted(provider.name.as_str()));
        self.add(path, "base_url", quoted(&provider.base_url.to_string()));
        let file = |file: &PathBuf| quoted(&file.display().to_string());
        self.add_some(path, "ca", provider.trust.file.as_ref().map(file));
        if provider.base_url.is_https() {
            self.add(path, "insecure_skip_verify", provider.trust.skip_verify);
        }
        self.add_some(
            path,
            "api_key",
            provider.api_key.as_ref().map(|_| quoted(REDACTED)),
        );
        if let Some(models) = &provider.models {
            let models: Vec<_> = models.iter().map(model).collect();
            self.add(path, "models", format!("[{}]", models.join(", ")));
        }
        let answer_model = provider.answer_model.map(|name| match name {
            AnswerModelName::Backend => quoted("backend"),
            AnswerModelName::Public => quoted("public"),
        });
        self.add_some(path, "answer_model", answer_model);
        self.add(path, "answer_timeout", duration(provider.answer_timeout));
        self.add_some(
            path,
            "first_byte_timeout",
            provider.first_byte_timeout.map(duration),
        );
        if !provider.extra_paths.is_empty() {
            let paths = provider.extra_paths.iter().map(|extra| quoted(extra.as_str()));
            let paths: Vec<_> = paths.collect();
            self.add(path, "extra_paths", format!("[{}]", paths.join(", ")));
        }
        let balancing = &provider.balancing;
        self.add(path, "weight", balancing.weight());
        self.add(path, "priority", balancing.priority());
        self.add_some(path, "max_concurrency", balancing.max_concurrency());
        let cancel_wake = match provider.cancel_wake {
            CancelWake::Never => "never",
            CancelWake::WhenUnwanted => "when_unwanted",
        };
        self.add(path, "cancel_wake", quoted(cancel_wake));
        let probe = &provider.probe;
        self.add(path, "probe.check_models", probe.check_models);
        self.add(path, "probe.path", quoted(&without_query(&probe.path)));
        self.add_some(path, "probe.expect", probe.expect.as_ref());
        self.add(path, "probe.interval", duration(probe.interval));
        self.add(path, "probe.timeout", duration(probe.timeout));
        if let Some(wake) = &provider.wake {
            let path = &format!("{path}.wake");
            self.add(path, "max_wait", duration(wake.max_wait));
            self.add_some(path, "max_per_day", wake.max_per_day);
            if let Some(verify) = &wake.verify {
                let path = &format!("{path}.verify");
                self.add(path, "path", quoted(&without_query(&verify.path)));
                self.add(path, "model", &verify.body["model"]);
                self.add_some(path, "expect", verify.expect.as_ref());
                self.add(path, "timeout", duration(verify.timeout));
            }
            self.steps(path, &wake.steps);
        }
        if let Some(sleep) = &provider.sleep {
            let path = &format!("{path}.sleep");
            self.add_some(path, "idle_after", sleep.idle_after.map(duration));
            self.add(path, "min_awake", duration(sleep.min_awake));
            self.hours(path, "keep_warm", &sleep.keep_warm);
            self.steps(path, &sleep.steps);
        }
        if !provider.exclusive.is_empty() {
            let groups = provider.exclusive.iter();
            self.texts(path, "exclusive", groups.map(|group| group.as_str().to_owned()));
            self.add(path, "persistent", provider.persistent);
            self.add(path, "max_group_wait", duration(provider.max_group_wait));
        }
    }

    fn preset(&mut self, path: &str, preset: &Preset) {
        self.add(path, "name", quoted(preset.name.as_str()));
        self.add(path, "model", quoted(preset.model.as_str()));
        let provider = preset.provider.as_ref();
        self.add_some(
            path,
            "provider",
            provider.map(|provider| quoted(provider.as_str())),
        );
        let system = preset.system.as_ref();
        self.add_some(
            path,
            "system",
            system.map(|system| quoted(&beginning(system.reveal()))),
        );
        for (kind, parameters) in [("parameters", &preset.parameters), ("pinned", &preset.pinned)] {
            for (name, value) in parameters {
                self.add(path, &format!("{kind}.{name}"), value);
            }
        }
        let hash = format!("{path}.hash = {}", quoted(preset.hash().as_str()));
        self.lines
            .push((hash, "what is published of all that it adds".to_owned()));
    }

    fn hours(&mut self, path: &str, key: &str, hours: &Hours) {
        self.texts(path, key, hours.windows().map(ToString::to_string));
    }

    /// The steps, under the keys that the file uses.
    fn steps(&mut self, path: &str, steps: &[Step]) {
        let listed = self.places.contains_key(&format!("{path}.step"));
        for (index, step) in steps.iter().enumerate() {
            let of_step = if listed {
                format!("{path}.step[{index}]")
            } else {
                path.to_owned()
            };
            self.step(&of_step, step);
        }
    }

    fn step(&mut self, path: &str, step: &Step) {
        match &step.action {
            Action::Http(http) => self.http(path, http),
            Action::Wol(wol) => self.wol(path, wol),
            Action::Tcp(address) => {
                self.add(path, "type", quoted("tcp"));
                self.add(path, "address", quoted(address));
            }
            Action::Once(command) => self.command(path, command, Some("once")),
            Action::Detach(command) => self.command(path, command, Some("detach")),
            Action::Serve {
                command,
                stop_grace,
                end,
            } => {
                self.command(path, command, Some("serve"));
                self.add(path, "stop_grace", duration(*stop_grace));
                if let Some(end) = end {
                    let path = &format!("{path}.end");
                    self.command(path, &end.command, None);
                    self.add(path, "timeout", duration(end.timeout));
                }
                return;
            }
        }
        self.add(path, "timeout", duration(step.timeout));
    }

    fn http(&mut self, path: &str, http: &HttpAction) {
        self.add(path, "type", quoted("http"));
        self.add(path, "method", quoted(http.method.as_str()));
        let url = http.address.without_query(REDACTED);
        self.add(path, "url", quoted(&url.to_string()));
        for (name, _) in &http.headers {
            self.add(path, &format!("headers.{name}"), quoted(REDACTED));
        }
        self.add_some(path, "body", http.body.as_ref().map(|_| quoted(REDACTED)));
        if !http.accept.is_empty() {
            self.add(path, "accept", format!("{:?}", http.accept));
        }
    }

    fn wol(&mut self, path: &str, wol: &WakeOnLan) {
        self.add(path, "type", quoted("wol"));
        self.add(path, "mac", quoted(&wol.mac.to_string()));
        self.add(path, "address", quoted(&wol.address.to_string()));
        self.add(path, "port", wol.port);
        self.add_some(path, "interface", wol.interface.as_deref().map(quoted));
        let source = wol.source.map(|source| quoted(&source.to_string()));
        self.add_some(path, "source", source);
        self.add(path, "repeats", wol.repeats);
        self.add(path, "interval", duration(wol.interval));
    }

    /// A command; `run` says how it is run, unless it is the `end` of another.
    fn command(&mut self, path: &str, command: &CommandAction, run: Option<&str>) {
        self.add_some(path, "type", run.map(|_| quoted("command")));
        self.add(path, "command", quoted(&command.program));
        for index in 0..command.args.len() {
            self.add(path, &format!("args[{index}]"), quoted(REDACTED));
        }
        for (name, _) in &command.env {
            self.add(path, &format!("env.{name}"), quoted(REDACTED));
        }
        self.texts(path, "env_pass", command.env_pass.iter().cloned());
        let folder = command.cwd.as_ref();
        self.add_some(
            path,
            "cwd",
            folder.map(|folder| quoted(&folder.display().to_string())),
        );
        self.add_some(path, "run", run.map(quoted));
    }

    /// A list of texts, unless it is empty.
    fn texts(&mut self, path: &str, key: &str, texts: impl Iterator<Item = String>) {
        let texts: Vec<_> = texts.map(|text| quoted(&text)).collect();
        if !texts.is_empty() {
            self.add(path, key, format!("[{}]", texts.join(", ")));
        }
    }

    fn add_some(&mut self, section: &str, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(section, key, value);
        }
    }

    fn add(&mut self, section: &str, key: &str, value: impl fmt::Display) {
        let path = format!("{section}.{key}");
        let place = self.places.get(&path).or_else(|| {
            // Header names are case-insensitive.
            let same = |(key, _): &(&String, &Place)| key.eq_ignore_ascii_case(&path);
            self.places.iter().find(same).map(|(_, place)| place)
        });
        let origin = match place {
            None => "default".to_owned(),
            Some(place) if place.variables.is_empty() => format!("{}:{}", self.file, place.line),
            Some(place) => format!(
                "{}:{}, with the variable {}",
                self.file,
                place.line,
                place.variables.join(", ")
            ),
        };
        self.lines.push((format!("{path} = {value}"), origin));
    }
}

fn model(model: &ModelConfig) -> String {
    let id = quoted(model.id.as_str());
    if model.id == model.public {
        return id;
    }
    format!("{{ id = {id}, as = {} }}", quoted(model.public.as_str()))
}

/// The beginning of a long text, on one line.
fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], text.len()),
        None => line,
    }
}

/// A path with its query hidden.
fn without_query(path: &str) -> String {
    match path.split_once('?') {
        Some((path, _)) => format!("{path}?{REDACTED}"),
        None => path.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1000) {
        format!("\"{}s\"", millis / 1000)
    } else {
        format!("\"{millis}ms\"")
    }
}
