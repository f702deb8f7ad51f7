//! The recipe for each kind of backend, and a sentence that says what it does or what it lacks.
//!
//! A recipe that holds for the server that was found is active; any other is commented out, for a person to complete. What
//! holds for each kind is in `docs/recipes/`, with whose files the tests compare.

use super::{
    found::{Found, Server},
    installed::Places,
    process::{Arg, Installed, Origin, ServerCommand, Start, Unit},
};
use crate::terminal;
use reveille_agent::child::find_program;
use reveille_domain::ModelName;
use rustix::process::Pid;
use serde_json::{Value, json};
use std::{borrow::Cow, net::SocketAddr, path::Path};

const LMS: &str = "LM Studio's own command, `lms`, starts its server and stops it after 30 idle minutes. LM Studio loads models \
                   on request.";
/// Why llama.cpp's probe is another, and that probe.
const LLAMA_CPP_PROBE: (&str, &str) = (
    "It may list its model before it has loaded it, so the probe checks whether it has.",
    "{ path = \"/health\" }",
);

/// How a provider's backend is woken and put to sleep.
pub struct Recipe {
    /// One or two sentences.
    pub why: String,
    /// The probe, if the default one doesn't do.
    pub probe: Option<Probe>,
    /// TOML, commented out unless the recipe holds; empty if there is none.
    pub text: String,
    /// How the recipe can be tried; `None` if it isn't active.
    pub trial: Option<Trial>,
}

/// A probe in TOML, and a sentence that says why it has to be this one.
pub struct Probe {
    pub why: &'static str,
    pub text: String,
}

/// How `reveille recipe test` can try a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// At once: it puts the backend to sleep first.
    Now,
    /// At once: it starts the backend, which doesn't run.
    Stopped,
    /// Once this process, which Reveille didn't start, has been stopped.
    AfterStopping {
        pid: Pid,
        /// Where it listens.
        address: SocketAddr,
    },
}

impl Recipe {
    /// A recipe that holds.
    fn active(why: impl Into<String>, trial: Trial, text: String) -> Self {
        Self {
            why: why.into(),
            probe: None,
            text,
            trial: Some(trial),
        }
    }

    /// One that somebody has to complete.
    fn incomplete(why: impl Into<String>, text: &str) -> Self {
        Self {
            why: why.into(),
            probe: None,
            text: commented(text),
            trial: None,
        }
    }

    fn probed(self, why: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            probe: Some(Probe { why, text }),
            ..self
        }
    }

    /// The recipe of a backend other than a running Ollama.
    pub fn of(backend: &Found) -> Self {
        if let Some(installed) = backend.installed() {
            return Self::of_installed(backend, installed);
        }
        if backend.sleep_mode {
            return Self::of_sleep_mode(backend);
        }
        match backend.server {
            Server::LmStudio => Self::of_lm_studio(backend.address.port()),
            Server::LlamaCpp => Self::of_process(backend).probed(LLAMA_CPP_PROBE.0, LLAMA_CPP_PROBE.1),
            Server::Vllm => {
                let recipe = Self::of_process(backend);
                Self {
                    why: format!(
                        "{} vLLM's sleep mode would wake it much faster: start it with VLLM_SERVER_DEV_MODE=1 and \
                         --enable-sleep-mode, and run `reveille init --force` again.",
                        recipe.why
                    ),
                    ..recipe
                }
            }
            Server::Ollama | Server::Other => Self::of_process(backend),
        }
    }

    fn of_sleep_mode(backend: &Found) -> Self {
        let base = backend.base_url();
        Self::active(
            "It supports sleep mode: Reveille puts it to sleep after 15 idle minutes and wakes it over HTTP, and its process \
             keeps running.",
            Trial::Now,
            format!(
                "[provider.wake]\ntype = \"http\"\nurl = \"{base}/wake_up\"\n\n\
                 [provider.sleep]\nidle_after = \"15m\"\ntype = \"http\"\nurl = \"{base}/sleep?level=1\"\n"
            ),
        )
        .probed(
            "It answers even while asleep, so the probe checks whether it is.",
            "{ path = \"/is_sleeping\", expect = { is_sleeping = false } }",
        )
    }

    fn of_lm_studio(port: u16) -> Self {
        let program = Places::own().lms().unwrap_or_else(|| "lms".to_owned());
        let text = lms(&program, port);
        if find_program(&program, None).is_ok() {
            return Self::active(LMS, Trial::Now, text);
        }
        Self::incomplete(
            "LM Studio's command, `lms`, could start and stop its server, but isn't in PATH: install it and uncomment the \
             recipe.",
            &text,
        )
    }

    /// The recipe of a backend that doesn't run. The text of one that lacks something is completed by a person.
    fn of_installed(backend: &Found, installed: &Installed) -> Self {
        let mut recipe = match &installed.start {
            Start::Serve {
                program,
                args,
                variables,
            } => {
                let mut variables = variables.clone();
                if backend.server == Server::Ollama {
                    variables.insert(0, ("OLLAMA_HOST", backend.address.to_string()));
                }
                let args: Vec<_> = args.iter().map(|arg| Arg::Plain(arg.clone())).collect();
                let text = served(program, &args, None, &Variables::Set(&variables), backend.server);
                let later = match backend.server {
                    Server::Ollama => " Models that you pull later have to be named here too.",
                    _ => "",
                };
                let why = "Reveille starts it when a request arrives, and stops it after 15 idle minutes.";
                Self::active(format!("{why}{later}"), Trial::Stopped, text)
            }
            Start::Lms(program) => Self::active(LMS, Trial::Stopped, lms(program, backend.address.port())),
            Start::Unit(unit) => Self::active("", Trial::Stopped, switched_by_systemd(unit)),
        };
        if backend.server == Server::LlamaCpp {
            recipe = recipe.probed(LLAMA_CPP_PROBE.0, LLAMA_CPP_PROBE.1);
        }
        if let Some(note) = &installed.note {
            recipe.why = format!("{} {note}", recipe.why);
        }
        if let Some(lacks) = &installed.lacks {
            recipe.why = format!(
                "{} is installed, but doesn't run. {lacks}",
                backend.server.label()
            );
            recipe.trial = None;
        }
        recipe
    }

    /// The recipe of a server that has to be stopped to sleep, by how it was started.
    fn of_process(backend: &Found) -> Self {
        match &backend.origin {
            Origin::Command(command) => Self::of_command(command, backend),
            Origin::Unit(unit) => Self::of_unit(unit),
            Origin::Container => Self::incomplete(
                "It runs in a container: replace NAME by the container's name and uncomment the recipe.",
                &switched("docker", &["start", "NAME"], &["stop", "-t", "30", "NAME"]),
            ),
            Origin::Forwarded(program) => Self::incomplete(
                format!(
                    "`{program}` only passes connections on from this port, so how the server itself is started can't be \
                     seen. Nothing wakes it yet: set `command` to what starts it, and uncomment the recipe."
                ),
                &guessed(backend),
            ),
            Origin::Unknown | Origin::Installed(_) => Self::incomplete(
                "How it was started can't be seen, so nothing wakes it yet: correct `command` and `args`, which are a guess, \
                 and uncomment the recipe.",
                &guessed(backend),
            ),
        }
    }

    fn of_command(command: &ServerCommand, backend: &Found) -> Self {
        let mut doubts = command.doubts.clone();
        if backend.needs_key {
            doubts.push("its probe would fail without the key".to_owned());
        }
        // An unknown server may look for its files in the folder that it was started in.
        let in_folder = command.uses_folder || backend.server == Server::Other;
        let folder = Some(command.folder.as_path())
            .filter(|folder| in_folder && folder.is_dir() && *folder != Path::new("/"));
        let text = served(
            &command.program,
            &command.args,
            folder,
            &Variables::Passed(&command.variables),
            backend.server,
        );
        if doubts.is_empty() {
            let why = "Reveille starts it with the command of the running server, and stops it after 15 idle minutes. It never \
                       stops a server that it hasn't started, so stop the running one yourself once.";
            return Self::active(
                why,
                Trial::AfterStopping {
                    pid: command.pid,
                    address: backend.address,
                },
                text,
            );
        }
        Self::incomplete(
            format!(
                "Reveille could start it with the command of the running server, but {}. See to that, and uncomment the recipe.",
                doubts.join(", and ")
            ),
            &text,
        )
    }

    fn of_unit(unit: &Unit) -> Self {
        let text = switched_by_systemd(unit);
        let condition = if unit.of_user {
            "the agent runs as the same user"
        } else {
            "the agent may start and stop it (by a polkit rule)"
        };
        Self::incomplete(
            format!(
                "It is the systemd unit {}, so a second server beside it would be wrong. If {condition}, uncomment the recipe.",
                unit.name
            ),
            &text,
        )
    }

    /// The recipe of one model of an Ollama, which itself goes on running.
    pub fn of_ollama_model(backend: &Found, model: &ModelName) -> Self {
        let url = format!("{}/api/generate", backend.base_url());
        let body = |keep_alive: i32| literal(&ordered_body(model, keep_alive));
        let text = format!(
            "[provider.wake]\ntype = \"http\"\nurl = \"{url}\"\nbody = {}\ntimeout = \"2m\"\nmax_wait = \"10s\"\n\n\
             [provider.sleep]\nidle_after = \"15m\"\ntype = \"http\"\nurl = \"{url}\"\nbody = {}\n",
            body(-1),
            body(0)
        );
        Self::active(
            "Ollama itself keeps running: a request loads the model, and 15 idle minutes unload it.",
            Trial::Now,
            text,
        )
        .probed(
            "It lists models in memory or not, so the probe checks whether this one is.",
            format!(
                "{{ path = \"/api/ps\", expect = {{ models = [{{ name = {} }}] }} }}",
                quoted(model.as_str())
            ),
        )
    }

    /// The models of an Ollama without recipes of their own.
    pub fn of_other_ollama_models() -> Self {
        Self {
            why: "Ollama loads these models on request and unloads them by itself, so they have no recipe."
                .to_owned(),
            probe: None,
            text: String::new(),
            trial: None,
        }
    }
}

/// An Ollama as the agent's child; `None` where something else certainly runs it.
pub fn ollama_as_child(backend: &Found) -> Option<String> {
    let program = match &backend.origin {
        Origin::Command(command) if command.program.ends_with("/ollama") => command.program.as_str(),
        Origin::Command(_) | Origin::Unknown => "ollama",
        Origin::Unit(_) | Origin::Container | Origin::Forwarded(_) | Origin::Installed(_) => return None,
    };
    Some(format!(
        "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {}\nargs = [\"serve\"]\n\
         env = {{ OLLAMA_HOST = \"{}\" }}\n\n[provider.sleep]\nidle_after = \"15m\"\n",
        quoted(program),
        backend.address
    ))
}

/// With its keys in the order of Ollama's documentation.
fn ordered_body(model: &ModelName, keep_alive: i32) -> String {
    let model = Value::from(model.as_str());
    format!("{{\"model\": {model}, \"keep_alive\": {keep_alive}, \"stream\": false}}")
}

/// What is known of how such a server is started, without having seen it.
fn guessed(backend: &Found) -> String {
    let port = backend.address.port().to_string();
    let model = backend.models.first().map_or("MODEL", ModelName::as_str);
    let file = backend.model_path.as_deref().unwrap_or("/path/to/model.gguf");
    let (program, args) = match backend.server {
        Server::Ollama => ("ollama", vec!["serve"]),
        Server::Vllm => ("vllm", vec!["serve", model, "--port", &port]),
        Server::LlamaCpp => ("llama-server", vec!["--model", file, "--port", &port]),
        Server::LmStudio | Server::Other => ("/path/to/server", vec!["--its", "arguments"]),
    };
    let args: Vec<_> = args.into_iter().map(|arg| Arg::Plain(arg.to_owned())).collect();
    served(program, &args, None, &Variables::Passed(&[]), backend.server)
}

/// The variables of a command.
enum Variables<'a> {
    /// As the agent has them.
    Passed(&'a [String]),
    /// With these values.
    Set(&'a [(&'static str, String)]),
}

/// A server as the agent's child.
fn served(
    program: &str,
    args: &[Arg],
    folder: Option<&Path>,
    variables: &Variables<'_>,
    server: Server,
) -> String {
    let list = |words: Vec<String>| format!("[{}]", words.join(", "));
    let mut text = format!(
        "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {}\n",
        quoted(program)
    );
    if !args.is_empty() {
        text += &format!("args = {}\n", list(args.iter().map(argument).collect()));
    }
    if let Some(folder) = folder {
        text += &format!("cwd = {}\n", quoted(&folder.display().to_string()));
    }
    match variables {
        Variables::Passed([]) | Variables::Set([]) => {}
        Variables::Passed(names) => {
            let names = names.iter().map(|name| quoted(name)).collect();
            text += &format!("env_pass = {}\n", list(names));
        }
        Variables::Set(variables) => {
            let set = variables
                .iter()
                .map(|(name, value)| format!("{name} = {}", quoted(value)));
            text += &format!("env = {{ {} }}\n", set.collect::<Vec<_>>().join(", "));
        }
    }
    // vLLM compiles before it listens.
    let max_wait = if server == Server::Vllm { "10m" } else { "5m" };
    text + &format!("max_wait = \"{max_wait}\"\n\n[provider.sleep]\nidle_after = \"15m\"\n")
}

/// LM Studio's command starts and stops it.
fn lms(program: &str, port: u16) -> String {
    let command = format!(
        "type = \"command\"\nrun = \"detach\"\ncommand = {}\n",
        quoted(program)
    );
    format!(
        "[provider.wake]\n{command}args = [\"server\", \"start\", \"--port\", \"{port}\"]\n\n\
         [provider.sleep]\nidle_after = \"30m\"\n{command}args = [\"server\", \"stop\"]\n"
    )
}

fn switched_by_systemd(unit: &Unit) -> String {
    let user: &[&str] = if unit.of_user { &["--user"] } else { &[] };
    let order = |order| [user, &[order, unit.name.as_str()]].concat();
    switched("systemctl", &order("start"), &order("stop"))
}

/// A server that a manager starts and stops.
fn switched(program: &str, start: &[&str], stop: &[&str]) -> String {
    let list = |words: &[&str]| {
        words
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "[provider.wake]\ntype = \"command\"\ncommand = \"{program}\"\nargs = [{}]\nmax_wait = \"5m\"\n\n\
         [provider.sleep]\nidle_after = \"30m\"\ntype = \"command\"\ncommand = \"{program}\"\nargs = [{}]\ntimeout = \"2m\"\n",
        list(start),
        list(stop)
    )
}

/// Every line as a comment.
pub fn commented(text: &str) -> String {
    let lines = text.lines().map(|line| match line {
        "" => "#\n".to_owned(),
        line => format!("# {line}\n"),
    });
    lines.collect()
}

fn argument(arg: &Arg) -> String {
    match arg {
        Arg::Plain(text) => quoted(text),
        Arg::Secret(before, variable) => in_quotes(&format!("{}${{{variable}}}", escaped(before))),
    }
}

/// A TOML string without variables.
pub fn quoted(raw: &str) -> String {
    in_quotes(&escaped(raw))
}

/// The same, without escapes if it can be.
fn literal(raw: &str) -> String {
    if raw.contains('\'') || !is_plain(raw) {
        return quoted(raw);
    }
    format!("'{}'", escaped(raw))
}

fn escaped(raw: &str) -> String {
    raw.replace("${", "$${")
}

/// TOML quotes like JSON. What a terminal or an editor would hide or obey is escaped too.
fn in_quotes(text: &str) -> String {
    let mut quoted = String::new();
    for c in json!(text).to_string().chars() {
        if is_plain(c.encode_utf8(&mut [0; 4])) {
            quoted.push(c);
        } else {
            quoted += &format!("\\U{:08x}", u32::from(c));
        }
    }
    quoted
}

fn is_plain(text: &str) -> bool {
    matches!(terminal::word(text), Cow::Borrowed(_))
}
