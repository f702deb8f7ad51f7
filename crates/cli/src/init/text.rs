//! The text of a new config: a provider for each backend, with a fitting recipe and a sentence that explains it.
//!
//! A recipe that is known to fit is active; any other is commented out, for a person to decide.

use super::found::{Found, Server};
use reveille_agent::child::find_program;
use reveille_domain::ModelName;
use std::{collections::HashSet, fmt::Write as _};

const HEAD: &str = "\
# Reveille's config for this machine: its backends, and how they are woken.
# Check it with `reveille config check FILE`; try a recipe with `reveille recipe test PROVIDER --config FILE`.

[agent]
# Must be unique among the hub's agents.
";

const NATS: &str = "\
# The hub's NATS server; without it `reveille up` runs its own on this machine.
# nats = \"tls://hub.example:4222\"
";

const TEMPLATE: &str = "
# No running backend was found. Uncomment this and adapt it to yours:
# [[provider]]
# name = \"vllm\"
# base_url = \"http://127.0.0.1:8000\"
# models = [\"Qwen/Qwen3-8B\"]
#
# [provider.wake]
# type = \"command\"
# run = \"serve\"
# command = \"vllm\"
# args = [\"serve\", \"Qwen/Qwen3-8B\", \"--port\", \"8000\"]
# max_wait = \"5m\"
#
# [provider.sleep]
# idle_after = \"15m\"
";

/// A config, and the reasons for its choices.
pub struct Written {
    /// The file's text.
    pub text: String,
    /// One sentence for each provider.
    pub reasons: Vec<String>,
}

/// The config of a machine with these backends; `hub` is the hub's part of `[agent]`.
pub fn config(agent: &str, hub: Option<&str>, backends: &[Found]) -> Written {
    let mut text = format!("{HEAD}name = {agent:?}\n{}", hub.unwrap_or(NATS));
    let mut reasons = vec![];
    let mut taken = HashSet::new();
    for backend in backends {
        let recipe = recipe(backend);
        let _ = write!(
            text,
            "\n[[provider]]\n# This seems to be {}.\nname = {:?}\nbase_url = \"http://127.0.0.1:{}\"\n",
            backend.server.label(),
            backend.name,
            backend.port
        );
        if backend.needs_key {
            text += "# It requires a key: keep it in an environment variable of the agent.\n# api_key = \
             \"${BACKEND_KEY}\"\n";
        }
        text += &models(backend, &mut taken);
        if backend.sleep_mode {
            text += "# It answers even while asleep, so the probe checks whether it is.\n\
                     probe = { path = \"/is_sleeping\", expect = { is_sleeping = false } }\n";
        }
        let _ = write!(text, "\n# {}\n{}", recipe.why, recipe.text);
        reasons.push(format!("provider `{}`: {}", backend.name, recipe.why));
    }
    if backends.is_empty() {
        text += TEMPLATE;
    }
    Written { text, reasons }
}

/// The `models` of a provider. They are omitted for servers whose list changes as people add models; a name that
/// another provider of this file already has gets a unique alias.
fn models(backend: &Found, taken: &mut HashSet<ModelName>) -> String {
    let changes = matches!(backend.server, Server::Ollama | Server::LmStudio);
    if changes || backend.models.is_empty() {
        return "# Without `models` the agent asks the backend for them whenever it is up, and remembers them.\n"
            .to_owned();
    }
    let mut entries = vec![];
    for model in &backend.models {
        let id = quoted(model.as_str());
        let other = ModelName::parse(&format!("{}@{}", model.as_str(), backend.name));
        if taken.insert(model.clone()) {
            entries.push(id);
        } else if let Ok(other) = other
            && taken.insert(other.clone())
        {
            entries.push(format!("{{ id = {id}, as = {} }}", quoted(other.as_str())));
        }
    }
    if entries.is_empty() {
        return String::new();
    }
    format!("models = [{}]\n", entries.join(", "))
}

struct Recipe {
    why: &'static str,
    text: String,
}

impl Recipe {
    /// A recipe that runs a program: commented out unless the program is in `PATH`.
    fn of_program(program: &str, why: &'static str, why_not: &'static str, text: String) -> Self {
        match find_program(program, None) {
            Ok(_) => Self { why, text },
            Err(_) => Self {
                why: why_not,
                text: commented(&text),
            },
        }
    }
}

fn recipe(backend: &Found) -> Recipe {
    let base = format!("http://127.0.0.1:{}", backend.port);
    if backend.sleep_mode {
        return Recipe {
            why: "It supports sleep mode, so Reveille puts it to sleep and wakes it over HTTP; the process keeps \
             running.",
            text: format!(
                "[provider.wake]\ntype = \"http\"\nurl = \"{base}/wake_up\"\n\n\
                 [provider.sleep]\nidle_after = \"15m\"\ntype = \"http\"\nurl = \"{base}/sleep?level=1\"\n"
            ),
        };
    }
    let port = backend.port.to_string();
    let model = backend.models.first().map_or("MODEL", ModelName::as_str);
    let model_path = backend.model_path.as_deref().unwrap_or("/path/to/model.gguf");
    match backend.server {
        Server::Ollama => Recipe::of_program(
            "ollama",
            "When nothing answers there, Reveille runs `ollama serve` as its child.",
            "Reveille could run it, but `ollama` isn't in PATH: set `command` to the program and uncomment the recipe.",
            format!(
                "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"ollama\"\nargs = [\"serve\"]\n\
                 env = {{ OLLAMA_HOST = \"127.0.0.1:{port}\" }}\n\n\
                 # Stops a server that Reveille started, never one that someone else started.\n\
                 [provider.sleep]\nidle_after = \"15m\"\n"
            ),
        ),
        Server::Vllm => Recipe {
            why: "Its sleep mode is off: start vLLM with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode and run \
                  `reveille init --force` again, or let Reveille run it.",
            text: commented(&served("vllm", &["serve", model, "--port", &port])),
        },
        Server::LlamaCpp => Recipe {
            why: "llama-server can't sleep by itself, so Reveille would start and stop it: check the arguments and \
                  uncomment the recipe.",
            text: commented(&served("llama-server", &["-m", model_path, "--port", &port])),
        },
        Server::LmStudio => Recipe::of_program(
            "lms",
            "LM Studio's own command starts and stops its server, which loads models on request.",
            "LM Studio's command `lms` could start and stop it, but isn't in PATH: install it and uncomment the recipe.",
            format!(
                "[provider.wake]\ntype = \"command\"\ncommand = \"lms\"\nargs = [\"server\", \"start\", \"--port\", \
                 \"{port}\"]\n\n\
                 [provider.sleep]\ntype = \"command\"\ncommand = \"lms\"\nargs = [\"server\", \"stop\"]\n"
            ),
        ),
        Server::Other => Recipe {
            why: "Reveille doesn't know how to start it, so nothing wakes it yet: set `command` to its program and \
             uncomment the recipe.",
            text: commented(&served("/path/to/server", &["--its", "arguments"])),
        },
    }
}

fn served(program: &str, args: &[&str]) -> String {
    let args: Vec<_> = args.iter().map(|arg| quoted(arg)).collect();
    format!(
        "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {program:?}\nargs = [{}]\n\
         max_wait = \"5m\"\n\n[provider.sleep]\nidle_after = \"15m\"\n",
        args.join(", ")
    )
}

fn commented(text: &str) -> String {
    let lines = text.lines().map(|line| match line {
        "" => "#\n".to_owned(),
        line if line.starts_with('#') => format!("{line}\n"),
        line => format!("# {line}\n"),
    });
    lines.collect()
}

/// A TOML string without variables. TOML quotes like JSON.
fn quoted(raw: &str) -> String {
    serde_json::Value::from(raw.replace("${", "$${")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_agent::config::Config;

    fn found(server: Server, port: u16, models: &[&str]) -> Found {
        Found {
            name: format!("p{port}"),
            port,
            server,
            models: models
                .iter()
                .map(|name| ModelName::parse(name).unwrap())
                .collect(),
            needs_key: false,
            sleep_mode: false,
            model_path: Some("/models/a \"b\".gguf".to_owned()),
        }
    }

    fn read(text: &str) -> Config {
        Config::parse(text, "reveille.toml", &|_| None).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Uncomments the recipe.
    fn uncommented(text: &str) -> String {
        let recipe = text.find("# [provider.wake]").expect("a commented recipe");
        let lines = text[recipe..]
            .lines()
            .filter(|line| !line.starts_with("# Stops") && !line.starts_with("# No"));
        let lines: Vec<_> = lines
            .map(|line| line.trim_start_matches("# ").trim_start_matches('#'))
            .collect();
        format!("{}{}", &text[..recipe], lines.join("\n"))
    }

    #[test]
    fn every_kind_of_backend_makes_a_valid_config_commented_or_not() {
        for server in [
            Server::Ollama,
            Server::Vllm,
            Server::LlamaCpp,
            Server::LmStudio,
            Server::Other,
        ] {
            let written = config(
                "gpu-box",
                None,
                &[found(server, 4000, &["Qwen/Qwen3-8B", "${HOME}"])],
            );
            assert_eq!(read(&written.text).providers.len(), 1);
            if written.text.contains("# [provider.wake]") {
                let whole = uncommented(&written.text);
                assert!(read(&whole).providers[0].wake.is_some(), "{whole}");
            }
        }
    }

    #[test]
    fn a_backend_with_the_sleep_mode_is_woken_and_put_to_sleep_over_http() {
        let mut backend = found(Server::Vllm, 8000, &["m"]);
        backend.sleep_mode = true;
        let config = read(&config("gpu-box", None, &[backend]).text);
        let provider = &config.providers[0];
        assert!(provider.wake.is_some() && provider.sleep.is_some() && provider.probe.expect.is_some());
    }

    #[test]
    fn two_backends_with_the_same_model_publish_it_under_two_names() {
        let two = [found(Server::Other, 1, &["m"]), found(Server::Other, 2, &["m"])];
        let config = read(&config("gpu-box", None, &two).text);
        let models: Vec<_> = config
            .providers
            .iter()
            .filter_map(|provider| provider.models.as_ref())
            .collect();
        assert_eq!(models[0][0].public.as_str(), "m");
        assert_eq!(models[1][0].public.as_str(), "m@p2");
        assert_eq!(models[1][0].id.as_str(), "m");
    }

    #[test]
    fn a_machine_without_backends_gets_a_valid_template() {
        assert!(read(&config("gpu-box", None, &[]).text).providers.is_empty());
    }
}
