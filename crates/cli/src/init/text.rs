//! The text of a new config: a provider for each backend, with the wake recipe that fits it and one sentence why.
//!
//! A recipe is working text when it is known to fit; otherwise it stands there as a comment, for a person to decide.

use super::found::{Found, Server};
use reveille_agent::child::find_program;
use reveille_domain::ModelName;
use std::{collections::HashSet, fmt::Write as _};

const HEAD: &str = "\
# Reveille's config of this machine: which backends it has, and how they are woken.
# `reveille config check FILE` says whether it can be used; `reveille recipe test PROVIDER --config FILE` tries a recipe.

[agent]
# Unique among the agents of a hub.
";

const NATS: &str = "\
# The hub; without it `reveille up` runs a NATS server of its own on this machine.
# nats = \"tls://hub.example:4222\"
";

const TEMPLATE: &str = "
# No backend answered when this was written. Take the comments off and fill in what fits yours:
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

/// A config, and why it is as it is.
pub struct Written {
    /// The file's text.
    pub text: String,
    /// One sentence for each provider.
    pub reasons: Vec<String>,
}

/// The config of a machine with these backends; `hub` is what it says of the hub.
pub fn config(agent: &str, hub: Option<&str>, backends: &[Found]) -> Written {
    let mut text = format!("{HEAD}name = {agent:?}\n{}", hub.unwrap_or(NATS));
    let mut reasons = vec![];
    let mut taken = HashSet::new();
    for backend in backends {
        let recipe = recipe(backend);
        let _ = write!(
            text,
            "\n[[provider]]\n# It seems to be {}.\nname = {:?}\nbase_url = \"http://127.0.0.1:{}\"\n",
            backend.server.label(),
            backend.name,
            backend.port
        );
        if backend.needs_key {
            text += "# It wants a key: keep it in a variable of the agent's environment.\n# api_key = \"${BACKEND_KEY}\"\n";
        }
        text += &models(backend, &mut taken);
        if backend.sleep_mode {
            text += "# It answers while it sleeps too, so it is asked whether it does.\n\
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

/// The `models` of a provider. Servers whose list changes as people add models are asked instead; a name that another
/// provider of this file has already becomes a name of its own.
fn models(backend: &Found, taken: &mut HashSet<ModelName>) -> String {
    let changes = matches!(backend.server, Server::Ollama | Server::LmStudio);
    if changes || backend.models.is_empty() {
        return "# Without `models` it is asked for them whenever it is up, and its answer is remembered.\n"
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

fn recipe(backend: &Found) -> Recipe {
    let base = format!("http://127.0.0.1:{}", backend.port);
    if backend.sleep_mode {
        return Recipe {
            why: "It has the sleep mode, so it is put to sleep and woken by HTTP and its process stays.",
            text: format!(
                "[provider.wake]\ntype = \"http\"\nurl = \"{base}/wake_up\"\n\n\
                 [provider.sleep]\nidle_after = \"15m\"\ntype = \"http\"\nurl = \"{base}/sleep?level=1\"\n"
            ),
        };
    }
    let has = |program: &str| find_program(program, None).is_ok();
    match backend.server {
        Server::Ollama => {
            let text = "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = \"ollama\"\nargs = [\"serve\"]\n";
            let sleep = "# Stops the server that Reveille has started, never one that was started otherwise.\n\
                         [provider.sleep]\nidle_after = \"15m\"\n";
            let env = format!("env = {{ OLLAMA_HOST = \"127.0.0.1:{}\" }}\n", backend.port);
            let text = format!("{text}{env}\n{sleep}");
            if has("ollama") {
                Recipe {
                    why: "Whenever nothing answers there, Reveille runs `ollama serve` itself and keeps it as its child.",
                    text,
                }
            } else {
                Recipe {
                    why: "It could be run by Reveille, but there is no `ollama` in PATH: name the program and take the comments off.",
                    text: commented(&text),
                }
            }
        }
        Server::Vllm => Recipe {
            why: "It has no sleep mode now: start vLLM with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode, and run `reveille init --force` again, or let Reveille run it.",
            text: commented(&served(
                "vllm",
                &format!(
                    "\"serve\", {}, \"--port\", \"{}\"",
                    quoted(backend.models.first().map_or("MODEL", ModelName::as_str)),
                    backend.port
                ),
            )),
        },
        Server::LlamaCpp => Recipe {
            why: "llama-server has no sleep of its own, so Reveille would run it; check the arguments and take the comments off.",
            text: commented(&served(
                "llama-server",
                &format!(
                    "\"-m\", {}, \"--port\", \"{}\"",
                    quoted(backend.model_path.as_deref().unwrap_or("/path/to/model.gguf")),
                    backend.port
                ),
            )),
        },
        Server::LmStudio => {
            let text = format!(
                "[provider.wake]\ntype = \"command\"\ncommand = \"lms\"\nargs = [\"server\", \"start\", \"--port\", \"{}\"]\n\n\
                 [provider.sleep]\ntype = \"command\"\ncommand = \"lms\"\nargs = [\"server\", \"stop\"]\n",
                backend.port
            );
            if has("lms") {
                Recipe {
                    why: "LM Studio's own command starts and stops its server, and loads models as they are asked for.",
                    text,
                }
            } else {
                Recipe {
                    why: "LM Studio's command `lms` would start and stop it, but it is not in PATH: install it and take the comments off.",
                    text: commented(&text),
                }
            }
        }
        Server::Other => Recipe {
            why: "How it is started is not known, so nothing wakes it yet: name its program and take the comments off.",
            text: commented(&served("/path/to/server", "\"--its\", \"arguments\"")),
        },
    }
}

fn served(program: &str, args: &str) -> String {
    format!(
        "[provider.wake]\ntype = \"command\"\nrun = \"serve\"\ncommand = {program:?}\nargs = [{args}]\nmax_wait = \"5m\"\n\n\
         [provider.sleep]\nidle_after = \"15m\"\n"
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

/// A string of TOML, in which nothing stands for a variable. Its quoting is JSON's.
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

    /// Takes the comments off the recipe.
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
    fn every_kind_of_backend_makes_a_legal_config_and_so_do_its_comments() {
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
    fn a_machine_without_backends_gets_a_template_that_is_legal() {
        assert!(read(&config("gpu-box", None, &[]).text).providers.is_empty());
    }
}
