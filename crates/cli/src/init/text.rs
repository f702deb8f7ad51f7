//! The text of a new config: a provider for each backend, or for each model of an Ollama, with a fitting recipe and a
//! sentence that explains it.

use super::{
    found::{Found, Server, name_for},
    recipe::{self, Recipe, Trial, commented, quoted},
};
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

/// The longest line of a comment, in bytes.
const COMMENT_WIDTH: usize = 110;

/// Templates for servers that don't run, by their program. The first is for a machine with none of them.
const TEMPLATES: [(&str, &str); 3] = [
    (
        "ollama",
        r#"[[provider]]
name = "ollama"
base_url = "http://127.0.0.1:11434"
models = ["qwen2.5:7b"]

[provider.wake]
type = "command"
run = "serve"
command = "ollama"
args = ["serve"]

[provider.sleep]
idle_after = "15m"
"#,
    ),
    (
        "llama-server",
        r#"[[provider]]
name = "llama-cpp"
base_url = "http://127.0.0.1:8080"
models = ["qwen3-8b"]
probe = { path = "/health" }

[provider.wake]
type = "command"
run = "serve"
command = "llama-server"
args = ["--model", "/models/qwen3-8b.gguf", "--alias", "qwen3-8b", "--port", "8080"]
max_wait = "5m"

[provider.sleep]
idle_after = "15m"
"#,
    ),
    (
        "vllm",
        r#"[[provider]]
name = "vllm"
base_url = "http://127.0.0.1:8000"
models = ["Qwen/Qwen3-8B"]

[provider.wake]
type = "command"
run = "serve"
command = "vllm"
args = ["serve", "Qwen/Qwen3-8B", "--port", "8000"]
max_wait = "10m"

[provider.sleep]
idle_after = "15m"
"#,
    ),
];

/// The programs that are looked for.
pub const PROGRAMS: &str = "`ollama`, `llama-server`, `vllm` and `lms`";

/// A config, and the reasons for its choices.
pub struct WrittenConfig {
    /// The file's text.
    pub text: String,
    /// One sentence or two for each provider.
    pub reasons: Vec<String>,
    /// The providers whose recipes can be tried.
    pub trials: Vec<(String, Trial)>,
    /// The servers that run and have no model yet, each with its provider's name.
    pub without_models: Vec<(String, Server)>,
}

/// A provider that publishes all or some models of a backend.
struct Provider {
    name: String,
    models: Models,
    recipe: Recipe,
}

enum Models {
    /// These.
    Listed(Vec<ModelName>),
    /// Whatever the backend lists.
    LookedUp,
}

/// The config of a machine with these backends; `hub` is the hub's part of `[agent]`.
pub fn config(agent: &str, hub: Option<&str>, backends: &[Found]) -> WrittenConfig {
    let mut written = WrittenConfig {
        text: format!("{HEAD}name = {agent:?}\n{}", hub.unwrap_or(NATS)),
        reasons: vec![],
        trials: vec![],
        without_models: vec![],
    };
    let (mut names, mut models) = (HashSet::new(), HashSet::new());
    for backend in backends {
        for provider in providers(backend, &mut names) {
            written.add(backend, &provider, &mut models);
        }
        if backend.server == Server::Ollama && backend.installed().is_none() {
            written.text += &alternatives(backend);
        }
    }
    if backends.is_empty() {
        written.text += &template();
    }
    written
}

impl WrittenConfig {
    fn add(&mut self, backend: &Found, provider: &Provider, taken: &mut HashSet<ModelName>) {
        let Provider { name, recipe, .. } = provider;
        if let Some(lacks) = backend
            .installed()
            .and_then(|installed| installed.lacks.as_deref())
        {
            // It isn't a provider yet, so it takes no name from one.
            let block = block(backend, provider, &mut HashSet::new());
            let _ = write!(self.text, "\n{}#\n{}", comment(&recipe.why), commented(&block));
            self.reasons.push(format!("{}: {lacks}", backend.server.label()));
            return;
        }
        if backend.models.is_empty() && backend.installed().is_none() && !backend.requires_key() {
            self.without_models.push((name.clone(), backend.server));
        }
        self.text += &head(backend, name);
        self.text += &models(backend, provider, taken);
        if let Some(probe) = &recipe.probe {
            let _ = write!(self.text, "# {}\nprobe = {}\n", probe.why, probe.text);
        }
        let _ = write!(self.text, "\n{}{}", comment(&recipe.why), recipe.text);
        let key = if backend.requires_key() {
            " It requires a key: set BACKEND_KEY for the agent and uncomment `api_key`."
        } else {
            ""
        };
        self.reasons
            .push(format!("provider `{name}`: {}{key}", recipe.why));
        self.trials
            .extend(recipe.trial.map(|trial| (name.clone(), trial)));
    }
}

/// A provider without comments in it.
fn block(backend: &Found, provider: &Provider, taken: &mut HashSet<ModelName>) -> String {
    let models = models(backend, provider, taken);
    let models = if models.starts_with('#') { "" } else { &models };
    let probe = provider.recipe.probe.as_ref();
    let probe = probe
        .map(|probe| format!("probe = {}\n", probe.text))
        .unwrap_or_default();
    format!(
        "[[provider]]\nname = {:?}\nbase_url = \"{}\"\n{models}{probe}\n{}",
        provider.name,
        backend.base_url(),
        provider.recipe.text
    )
}

/// Sentences as a comment of several lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut width = COMMENT_WIDTH;
    for word in text.split(' ') {
        width += word.len() + 1;
        if width > COMMENT_WIDTH {
            lines += if lines.is_empty() { "#" } else { "\n#" };
            width = word.len() + 2;
        }
        lines += " ";
        lines += word;
    }
    lines + "\n"
}

fn head(backend: &Found, name: &str) -> String {
    let what = match backend.installed() {
        Some(_) => format!(
            "This is {}, which is installed but didn't run.",
            backend.server.label()
        ),
        None => format!("This seems to be {}.", backend.server.label()),
    };
    let mut text = format!(
        "\n[[provider]]\n# {what}\nname = {name:?}\nbase_url = \"{}\"\n",
        backend.base_url()
    );
    if backend.requires_key() {
        text += "# It requires a key: keep it in an environment variable of the agent.\n# api_key = \"${BACKEND_KEY}\"\n";
    }
    text
}

/// One provider for a backend. An Ollama has one more for each model in memory, since it is the model that sleeps; the only
/// model of an Ollama is there too.
fn providers(backend: &Found, names: &mut HashSet<String>) -> Vec<Provider> {
    let mut name = |wanted: &str| {
        let mut free = wanted.to_owned();
        for number in 2.. {
            if names.insert(free.clone()) {
                break;
            }
            free = format!("{wanted}-{number}");
        }
        free
    };
    let own = name(&backend.name);
    if backend.server != Server::Ollama || backend.installed().is_some() {
        let looked_up = backend.server == Server::LmStudio || backend.models.is_empty();
        let models = if looked_up {
            Models::LookedUp
        } else {
            Models::Listed(backend.models.clone())
        };
        let recipe = Recipe::of(backend);
        return vec![Provider {
            name: own,
            models,
            recipe,
        }];
    }
    let of_model = |name: String, model: &ModelName| Provider {
        name,
        models: Models::Listed(vec![model.clone()]),
        recipe: Recipe::of_ollama_model(backend, model),
    };
    if let ([only], [_]) = (&*backend.in_memory, &*backend.models) {
        return vec![of_model(own, only)];
    }
    let others = Provider {
        name: own,
        models: Models::LookedUp,
        recipe: Recipe::of_other_ollama_models(),
    };
    let in_memory = backend.in_memory.iter();
    let in_memory = in_memory.map(|model| of_model(name(&name_for(&backend.name, model)), model));
    std::iter::once(others).chain(in_memory).collect()
}

/// What else may be done with an Ollama, commented out.
fn alternatives(backend: &Found) -> String {
    let mut text = String::new();
    let mut samples = backend
        .models
        .iter()
        .filter(|model| !model.as_str().contains("embed"));
    if backend.in_memory.is_empty()
        && backend.models.len() > 1
        && let Some(model) = samples.next()
    {
        let recipe = Recipe::of_ollama_model(backend, model);
        let provider = format!(
            "[[provider]]\nname = {:?}\nbase_url = \"{}\"\nmodels = [{}]\nprobe = {}\n\n{}",
            name_for(&backend.name, model),
            backend.base_url(),
            quoted(model.as_str()),
            recipe.probe.map(|probe| probe.text).unwrap_or_default(),
            recipe.text
        );
        let _ = write!(
            text,
            "\n# With a provider of its own, Reveille loads and unloads a model, and knows whether it is in memory:\n#\n{}",
            commented(&provider)
        );
    }
    if let Some(recipe) = recipe::ollama_as_child(backend).filter(|_| !backend.models.is_empty()) {
        let models: Vec<_> = backend
            .models
            .iter()
            .map(|model| quoted(model.as_str()))
            .collect();
        let provider = format!(
            "[[provider]]\nname = {:?}\nbase_url = \"{}\"\nmodels = [{}]\n\n{recipe}",
            backend.name,
            backend.base_url(),
            models.join(", ")
        );
        let _ = write!(
            text,
            "\n# If nothing else starts Ollama (no service, no desktop program), Reveille can run it as its own child, and stop all \
             of it.\n# Then this takes the place of the above; stop the running Ollama yourself once.\n#\n{}",
            commented(&provider)
        );
    }
    text
}

/// The `models` of a provider. They are omitted for servers whose list changes as people add models; a name that
/// another provider of this file already has gets a unique alias.
fn models(backend: &Found, provider: &Provider, taken: &mut HashSet<ModelName>) -> String {
    let listed = match &provider.models {
        Models::Listed(models) => models,
        Models::LookedUp => {
            return "# Without `models` the agent asks the backend for them whenever it is up, and remembers them.\n".to_owned();
        }
    };
    let mut entries = vec![];
    for model in listed {
        let id = quoted(model.as_str());
        let short = short_name(model);
        let other = ModelName::parse(&format!("{}@{}", short.as_str(), backend.name));
        let names = std::iter::once(short).chain(other);
        let mut free = names.filter(|name| taken.insert(name.clone()));
        match free.next() {
            Some(name) if name == *model => entries.push(id),
            Some(name) => entries.push(format!("{{ id = {id}, as = {} }}", quoted(name.as_str()))),
            None => {}
        }
    }
    if entries.is_empty() {
        return String::new();
    }
    format!("models = [{}]\n", entries.join(", "))
}

/// llama.cpp names a model after its file, perhaps with the whole path.
fn short_name(model: &ModelName) -> ModelName {
    let file = model
        .as_str()
        .strip_suffix(".gguf")
        .and_then(|path| path.rsplit(['/', '\\']).next());
    let short = file.and_then(|name| ModelName::parse(name).ok());
    short.unwrap_or_else(|| model.clone())
}

/// The program of a known server that is installed, if any is.
pub fn installed() -> Option<&'static str> {
    let mut programs = TEMPLATES.iter().map(|(program, _)| *program);
    programs.find(|program| find_program(program, None).is_ok())
}

fn template() -> String {
    let installed = installed();
    let fits = TEMPLATES.iter().find(|(program, _)| Some(*program) == installed);
    let (_, provider) = fits.unwrap_or(&TEMPLATES[0]);
    format!(
        "\n# No backend was found. Uncomment this and adapt it to yours:\n#\n{}",
        commented(provider)
    )
}
