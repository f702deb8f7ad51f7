//! `reveille config show`: the effective config, defaults included, and where each value comes from.
//!
//! Secrets are hidden: API keys, and the headers, bodies, arguments, variables and URL queries of recipes.

use super::load;
use crate::{client::line, failure::Failure, hub::nats_for_agent};
use anyhow::Context;
use clap::Args;
use reveille_agent::config::{
    Action, CommandAction, Config, Hours, HttpAction, ModelConfig, Place, ProviderConfig, SleepConfig, Step,
    WakeConfig, places,
};
use reveille_agent::wol::WakeOnLan;
use std::{collections::BTreeMap, env, fmt, fs, path::PathBuf, time::Duration};

/// Shown in place of a secret.
const REDACTED: &str = "[redacted]";
/// The flag that overrides the file, and its variable.
const NATS_FLAG: &str = "--nats";
const NATS_VARIABLE: &str = "REVEILLE_NATS_URL";

/// `reveille config show`.
#[derive(Debug, Args)]
pub struct ConfigShow {
    /// The config file.
    #[arg(env = "REVEILLE_CONFIG")]
    pub file: PathBuf,
    /// Show where each value comes from.
    #[arg(long)]
    pub origin: bool,
    /// The hub's NATS servers [default: those in the config].
    #[arg(long, env = "REVEILLE_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
}

/// Prints each value on its own line.
pub fn run(args: &ConfigShow) -> Result<(), Failure> {
    let config = load(&args.file)?;
    let text =
        fs::read_to_string(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let mut shown = Shown {
        file: args.file.display().to_string(),
        places: places(&text),
        lines: vec![],
    };
    shown.agent(&config, args.nats.as_deref())?;
    for (index, provider) in config.providers.iter().enumerate() {
        shown.provider(&format!("provider[{index}]"), provider);
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
        for (key, file) in [("credentials", &agent.credentials), ("ca", &agent.ca)] {
            if let Some(file) = file {
                self.add("agent", key, quoted(&file.display().to_string()));
            }
        }
        self.add("agent", "heartbeat", duration(agent.heartbeat));
        self.hours("agent", "quiet_hours", &agent.quiet_hours);
        Ok(())
    }

    fn provider(&mut self, path: &str, provider: &ProviderConfig) {
        self.add(path, "name", quoted(provider.name.as_str()));
        self.add(path, "base_url", quoted(&provider.base_url.to_string()));
        if provider.api_key.is_some() {
            self.add(path, "api_key", quoted(REDACTED));
        }
        if let Some(models) = &provider.models {
            self.add(path, "models", list(models.iter().map(model)));
        }
        self.add(path, "answer_timeout", duration(provider.answer_timeout));
        let probe = &provider.probe;
        self.add(path, "probe.path", quoted(&probe.path));
        if let Some(expect) = &probe.expect {
            self.add(path, "probe.expect", expect);
        }
        self.add(path, "probe.interval", duration(probe.interval));
        self.add(path, "probe.timeout", duration(probe.timeout));
        if let Some(WakeConfig {
            steps,
            max_wait,
            verify,
            max_per_day,
        }) = &provider.wake
        {
            let path = &format!("{path}.wake");
            self.add(path, "max_wait", duration(*max_wait));
            if let Some(most) = max_per_day {
                self.add(path, "max_per_day", most);
            }
            if let Some(verify) = verify {
                let path = &format!("{path}.verify");
                self.add(path, "path", quoted(&verify.path));
                self.add(path, "model", &verify.body["model"]);
                if let Some(expect) = &verify.expect {
                    self.add(path, "expect", expect);
                }
                self.add(path, "timeout", duration(verify.timeout));
            }
            self.steps(path, steps);
        }
        if let Some(SleepConfig {
            steps,
            idle_after,
            min_awake,
            keep_warm,
        }) = &provider.sleep
        {
            let path = &format!("{path}.sleep");
            if let Some(idle_after) = idle_after {
                self.add(path, "idle_after", duration(*idle_after));
            }
            self.add(path, "min_awake", duration(*min_awake));
            self.hours(path, "keep_warm", keep_warm);
            self.steps(path, steps);
        }
        if !provider.exclusive.is_empty() {
            let groups = provider.exclusive.iter();
            self.add(
                path,
                "exclusive",
                list(groups.map(|group| quoted(group.as_str()))),
            );
            self.add(path, "persistent", provider.persistent);
            self.add(path, "max_group_wait", duration(provider.max_group_wait));
        }
    }

    fn hours(&mut self, path: &str, key: &str, hours: &Hours) {
        if hours.windows().next().is_some() {
            self.add(
                path,
                key,
                list(hours.windows().map(|window| quoted(&window.to_string()))),
            );
        }
    }

    /// The steps, under the keys that the file uses.
    fn steps(&mut self, path: &str, steps: &[Step]) {
        let listed = self.places.contains_key(&format!("{path}.step"));
        for (index, step) in steps.iter().enumerate() {
            if listed {
                self.step(&format!("{path}.step[{index}]"), step);
            } else {
                self.step(path, step);
            }
        }
    }

    fn step(&mut self, path: &str, step: &Step) {
        match &step.action {
            Action::Http(HttpAction {
                method,
                url,
                headers,
                body,
                accept,
            }) => {
                self.add(path, "type", quoted("http"));
                self.add(path, "method", quoted(method.as_str()));
                let mut url = url.clone();
                if url.query().is_some() {
                    url.set_query(Some(REDACTED));
                }
                self.add(path, "url", quoted(url.as_str()));
                for (name, _) in headers {
                    self.add(path, &format!("headers.{name}"), quoted(REDACTED));
                }
                if body.is_some() {
                    self.add(path, "body", quoted(REDACTED));
                }
                if !accept.is_empty() {
                    self.add(path, "accept", format!("{accept:?}"));
                }
                self.add(path, "timeout", duration(step.timeout));
            }
            Action::Wol(wol) => {
                self.wol(path, wol);
                self.add(path, "timeout", duration(step.timeout));
            }
            Action::Tcp(address) => {
                self.add(path, "type", quoted("tcp"));
                self.add(path, "address", quoted(address));
                self.add(path, "timeout", duration(step.timeout));
            }
            Action::Once(command) => {
                self.command(path, command, "once");
                self.add(path, "timeout", duration(step.timeout));
            }
            Action::Serve { command, stop_grace } => {
                self.command(path, command, "serve");
                self.add(path, "stop_grace", duration(*stop_grace));
            }
        }
    }

    fn wol(&mut self, path: &str, wol: &WakeOnLan) {
        self.add(path, "type", quoted("wol"));
        self.add(path, "mac", quoted(&wol.mac.to_string()));
        self.add(path, "address", quoted(&wol.address.to_string()));
        self.add(path, "port", wol.port);
        if let Some(interface) = &wol.interface {
            self.add(path, "interface", quoted(interface));
        }
        if let Some(source) = wol.source {
            self.add(path, "source", quoted(&source.to_string()));
        }
        self.add(path, "repeats", wol.repeats);
        self.add(path, "interval", duration(wol.interval));
    }

    fn command(&mut self, path: &str, command: &CommandAction, run: &str) {
        self.add(path, "type", quoted("command"));
        self.add(path, "command", quoted(&command.program));
        for index in 0..command.args.len() {
            self.add(path, &format!("args[{index}]"), quoted(REDACTED));
        }
        for (name, _) in &command.env {
            self.add(path, &format!("env.{name}"), quoted(REDACTED));
        }
        if !command.env_pass.is_empty() {
            self.add(
                path,
                "env_pass",
                list(command.env_pass.iter().map(|name| quoted(name))),
            );
        }
        self.add(path, "run", quoted(run));
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

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
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
