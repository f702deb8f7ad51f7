//! What is found on machines that are folders, and what is written for it, read as the agent reads it.

use super::{super::text::config, *};
use crate::init::{found::Server, gguf::tests::header, recipe::Trial};
use reveille_agent::config::{Action, CommandAction, Config, ProviderConfig, Secret};
use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt};

/// A machine: a home, a folder of programs, and everything else below one folder.
struct Machine {
    folder: tempfile::TempDir,
    variables: HashMap<&'static str, String>,
    taken: Vec<u16>,
}

impl Machine {
    fn with(programs: &[&str]) -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            variables: HashMap::new(),
            taken: vec![],
        };
        for program in programs {
            let file = machine.file(&format!("bin/{program}"), b"#!/bin/sh\n");
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    fn file(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        file
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn pulled(&self, folder: &str, names: &[&str]) {
        for name in names {
            self.file(&format!("{folder}/manifests/{name}"), b"{}");
        }
    }

    fn model(&self, path: &str) -> PathBuf {
        self.file(path, &header(&[("general.architecture", "llama")], 15))
    }

    fn look(&self, running: &[Found], ports: &[u16], files: &[Gguf]) -> Stopped {
        let variable = |name: &str| self.variables.get(name).map(OsString::from);
        let is_free = |port: u16| !self.taken.contains(&port);
        let places = Places {
            home: Some(self.path("home")),
            path: Some(self.path("bin").into()),
            root: self.path("root"),
            variable: &variable,
            is_free: &is_free,
        };
        look(&places, running, ports, files)
    }

    fn found(&self) -> Stopped {
        self.look(&[], &USUAL, &[])
    }
}

const USUAL: [u16; 4] = [11434, 8000, 8080, 1234];

fn read(text: &str) -> Vec<ProviderConfig> {
    let config = Config::parse(text, "reveille.toml", &|_| None);
    config.unwrap_or_else(|error| panic!("{error}\n{text}")).providers
}

/// The providers that are written, all with recipes that can be tried as they stand.
fn active(stopped: &Stopped) -> Vec<ProviderConfig> {
    let written = config("gpu-box", None, &stopped.backends);
    let providers = read(&written.text);
    for (provider, trial) in providers.iter().zip(&written.trials) {
        assert_eq!(
            (provider.name.as_str(), Trial::Stopped),
            (trial.0.as_str(), trial.1)
        );
        assert!(
            provider.wake.is_some() && provider.sleep.is_some(),
            "{}",
            written.text
        );
    }
    assert_eq!(
        (providers.len(), written.trials.len()),
        (written.trials.len(), stopped.backends.len()),
        "{}",
        written.text
    );
    providers
}

/// The only provider, which is a comment; and why.
fn commented(stopped: &Stopped) -> (ProviderConfig, String) {
    let written = config("gpu-box", None, &stopped.backends);
    assert!(
        read(&written.text).is_empty() && written.trials.is_empty(),
        "{}",
        written.text
    );
    let (_, block) = written.text.split_once("# [[provider]]").expect("a comment");
    let lines = format!("[[provider]]{block}")
        .replace("\n# ", "\n")
        .replace("\n#", "\n");
    let mut providers = read(&format!("[agent]\nname = \"a\"\n{lines}"));
    assert!(
        providers.len() == 1 && written.reasons.len() == 1,
        "{}",
        written.text
    );
    (providers.remove(0), written.reasons[0].clone())
}

fn served(provider: &ProviderConfig) -> &CommandAction {
    match &provider.wake.as_ref().expect("a recipe").steps[..] {
        [step] => match &step.action {
            Action::Serve { command, .. } => command,
            other => panic!("{other:?}"),
        },
        steps => panic!("{steps:?}"),
    }
}

fn args(command: &CommandAction) -> Vec<&str> {
    command.args.iter().map(Secret::reveal).collect()
}

fn variables(command: &CommandAction) -> Vec<(&str, &str)> {
    command
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.reveal()))
        .collect()
}

fn models(provider: &ProviderConfig) -> Vec<&str> {
    let models = provider.models.iter().flatten();
    models.map(|model| model.public.as_str()).collect()
}

#[test]
fn an_installed_ollama_is_served_with_the_models_that_were_pulled() {
    let mut machine = Machine::with(&["ollama"]);
    let pulled = [
        "registry.ollama.ai/library/qwen2.5/7b",
        "registry.ollama.ai/someone/tuned/latest",
        "hf.co/org/Qwen3-8B-GGUF/Q4_K_M",
        "registry.ollama.ai/library/qwen2.5/.DS_Store",
        "stray",
    ];
    machine.pulled("home/.ollama/models", &pulled);
    let provider = active(&machine.found()).remove(0);
    assert_eq!(
        models(&provider),
        [
            "hf.co/org/Qwen3-8B-GGUF:Q4_K_M",
            "qwen2.5:7b",
            "someone/tuned:latest"
        ]
    );
    let run = served(&provider);
    assert_eq!(
        (run.program.as_str(), args(run)),
        (machine.path("bin/ollama").to_str().unwrap(), vec!["serve"])
    );
    assert_eq!(variables(run), [("OLLAMA_HOST", "127.0.0.1:11434")]);
    assert_eq!(provider.probe.path, "/v1/models");

    machine.pulled("elsewhere", &["registry.ollama.ai/library/gemma3/4b"]);
    let elsewhere = machine.path("elsewhere").display().to_string();
    machine.variables.insert("OLLAMA_MODELS", elsewhere.clone());
    machine
        .variables
        .insert("OLLAMA_HOST", "http://0.0.0.0:11500".to_owned());
    let stopped = machine.look(&[], &[11500], &[]);
    let provider = active(&stopped).remove(0);
    assert_eq!(models(&provider), ["gemma3:4b"]);
    let expected = [
        ("OLLAMA_HOST", "127.0.0.1:11500"),
        ("OLLAMA_MODELS", elsewhere.as_str()),
    ];
    assert_eq!(variables(served(&provider)), expected);

    // Whatever has the port may be Ollama itself.
    machine.taken = vec![11500];
    let stopped = machine.look(&[], &[8000], &[]);
    assert!(stopped.backends.is_empty(), "{:?}", stopped.backends);
    assert!(
        stopped.remarks[0].contains("run `reveille init --ports 11500`"),
        "{:?}",
        stopped.remarks
    );
}

#[test]
fn an_ollama_without_models_or_with_its_own_unit_is_left_to_the_person() {
    let machine = Machine::with(&["ollama"]);
    let (provider, why) = commented(&machine.found());
    assert_eq!(args(served(&provider)), ["serve"]);
    assert!(why.contains("ollama pull"), "{why}");

    machine.file("root/etc/systemd/system/ollama.service", b"");
    machine.pulled(
        "root/usr/share/ollama/.ollama/models",
        &["registry.ollama.ai/library/qwen3/8b"],
    );
    let (provider, why) = commented(&machine.found());
    assert!(
        why.contains("ollama.service") && models(&provider) == ["qwen3:8b"],
        "{why}"
    );
    match &provider.wake.unwrap().steps[0].action {
        Action::Once(command) => assert_eq!(args(command), ["start", "ollama.service"]),
        other => panic!("{other:?}"),
    }

    // Somebody runs it without the unit.
    machine.pulled("home/.ollama/models", &["registry.ollama.ai/library/qwen3/8b"]);
    let stopped = machine.found();
    active(&stopped);
    let written = config("gpu-box", None, &stopped.backends);
    assert!(
        written.reasons[0].contains("keep it disabled"),
        "{:?}",
        written.reasons
    );
}

#[test]
fn given_model_files_are_served_each_on_a_port_of_its_own_by_names_that_are_no_paths() {
    let mut machine = Machine::with(&["llama-server"]);
    let file = |path: &str| Gguf::read(&machine.model(path)).unwrap();
    let (chat, embeds) = (file("models/Qwen3-8B-Q4_K_M.gguf"), {
        let bytes = header(&[("general.architecture", "nomic-bert")], 1);
        Gguf::read(&machine.file("models/nomic.gguf", &bytes)).unwrap()
    });
    let provider = active(&machine.look(&[], &USUAL, std::slice::from_ref(&chat))).remove(0);
    assert_eq!(
        (provider.name.as_str(), models(&provider)),
        ("llama-cpp", vec!["Qwen3-8B-Q4_K_M"])
    );
    assert_eq!(
        (provider.probe.path.as_str(), provider.base_url.to_string()),
        ("/health", "http://127.0.0.1:8080".to_owned())
    );
    let path = machine.path("models/Qwen3-8B-Q4_K_M.gguf");
    let expected = [
        "--model",
        path.to_str().unwrap(),
        "--alias",
        "Qwen3-8B-Q4_K_M",
        "--host",
        "127.0.0.1",
        "--port",
        "8080",
    ];
    assert_eq!(args(served(&provider)), expected);

    machine.taken = vec![8080];
    let stopped = machine.look(&[], &USUAL, &[chat.clone(), embeds]);
    let reasons = config("gpu-box", None, &stopped.backends).reasons;
    assert!(
        reasons.iter().all(|reason| reason.contains("`exclusive = ")),
        "{reasons:?}"
    );
    let two = active(&stopped);
    let names: Vec<_> = two.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["llama-cpp-qwen3-8b-q4_k_m", "llama-cpp-nomic"]);
    assert_eq!(args(served(&two[0])).last(), Some(&"8081"));
    assert_eq!(args(served(&two[1]))[7..], ["8082", "--embeddings"]);

    // Without the program they are a comment.
    let (provider, why) = commented(&Machine::with(&[]).look(&[], &USUAL, &[chat]));
    assert!(
        why.contains("`llama-server`, isn't in PATH") && provider.probe.path == "/health",
        "{why}"
    );
}

#[test]
fn llama_cpp_serves_models_of_its_own_cache_and_those_of_a_missing_lm_studio() {
    let machine = Machine::with(&["llama-server"]);
    let stopped = machine.found();
    assert!(
        stopped.backends.is_empty() && stopped.remarks[0].contains("reveille init MODEL.gguf"),
        "{:?}",
        stopped.remarks
    );
    machine.model("home/.cache/llama.cpp/b.gguf");
    machine.model("home/.lmstudio/models/org/repo/A-Q8_0.gguf");
    machine.file(
        "home/.lmstudio/models/org/repo/mmproj-A.gguf",
        &header(&[("general.architecture", "clip")], 1),
    );
    machine.file("home/.lmstudio/models/org/repo/README.gguf", b"text");
    let providers = active(&machine.found());
    let names: Vec<_> = providers.iter().flat_map(models).collect();
    assert_eq!(names, ["b", "A-Q8_0"]);
    for number in 0..20 {
        machine.model(&format!("home/.cache/lm-studio/models/org/repo/m{number}.gguf"));
    }
    let stopped = machine.found();
    assert_eq!(active(&stopped).len(), MAX_FILES);
    assert!(
        stopped.remarks[0].contains("has 20 model files"),
        "{:?}",
        stopped.remarks
    );
}

#[test]
fn vllm_serves_a_model_that_is_in_its_cache_and_is_a_comment_without_one() {
    let mut machine = Machine::with(&["vllm"]);
    let (provider, why) = commented(&machine.found());
    assert!(
        why.contains("name one") && models(&provider) == ["Qwen/Qwen3-8B"],
        "{why}"
    );
    let cached = |model: &str, architecture: &str, weights: &str| {
        let folder = format!("hub/hub/models--{model}/snapshots/0a");
        let config = format!("{{\"architectures\": [\"{architecture}\"]}}");
        machine.file(&format!("{folder}/config.json"), config.as_bytes());
        machine.file(&format!("{folder}/{weights}"), b"");
    };
    cached(
        "org--Whisper",
        "WhisperForConditionalGeneration",
        "model.safetensors",
    );
    cached("org--Embeds", "BertModel", "model.safetensors");
    cached("org--Half", "Qwen3ForCausalLM", "tokenizer.json");
    cached(
        "Qwen--Qwen3-8B",
        "Qwen3ForCausalLM",
        "model-00001-of-00002.safetensors",
    );
    cached(
        "org--Vision",
        "Gemma3ForConditionalGeneration",
        "model.safetensors",
    );
    let hub = machine.path("hub").display().to_string();
    machine.variables.insert("HF_HOME", hub.clone());
    machine.taken = vec![8000];
    let stopped = machine.found();
    let provider = active(&stopped).remove(0);
    assert_eq!(models(&provider), ["Qwen/Qwen3-8B"]);
    let run = served(&provider);
    assert_eq!(
        args(run),
        ["serve", "Qwen/Qwen3-8B", "--host", "127.0.0.1", "--port", "8001"]
    );
    assert_eq!(variables(run), [("HF_HOME", hub.as_str())]);
    let written = config("gpu-box", None, &stopped.backends);
    assert!(
        written.reasons[0].contains("also has `org/Vision`"),
        "{:?}",
        written.reasons
    );
}

#[test]
fn lm_studio_is_started_by_its_command_wherever_that_is() {
    let machine = Machine::with(&[]);
    machine.model("home/.lmstudio/models/org/repo/A-Q8_0.gguf");
    let (provider, why) = commented(&machine.found());
    assert!(
        why.contains("its command, `lms`, isn't") && provider.wake.is_some(),
        "{why}"
    );
    let lms = machine.file("home/.lmstudio/bin/lms", b"");
    let provider = active(&machine.found()).remove(0);
    assert!(provider.models.is_none());
    match &provider.wake.unwrap().steps[0].action {
        Action::Detach(command) => {
            let expected = (lms.to_str().unwrap(), vec!["server", "start", "--port", "1234"]);
            assert_eq!((command.program.as_str(), args(command)), expected);
        }
        other => panic!("{other:?}"),
    }
    // Its models are its own then, whatever else could serve them.
    let both = Machine::with(&["lms", "llama-server"]);
    both.model("home/.lmstudio/models/org/repo/A-Q8_0.gguf");
    let stopped = both.found();
    assert!(
        stopped.backends.len() == 1 && stopped.backends[0].server == Server::LmStudio,
        "{:?}",
        stopped.backends
    );
}

#[test]
fn what_runs_is_not_proposed_a_second_time() {
    let machine = Machine::with(&["ollama", "llama-server", "vllm", "lms"]);
    machine.pulled("home/.ollama/models", &["registry.ollama.ai/library/qwen2.5/7b"]);
    let model = machine.model("home/.cache/llama.cpp/b.gguf");
    let mut stopped = machine.found();
    assert_eq!(stopped.backends.len(), 4, "{:?}", stopped.backends);
    for backend in &mut stopped.backends {
        backend.origin = Origin::Unknown;
    }
    let mut running = stopped.backends;
    let stopped = machine.look(&running, &USUAL, &[]);
    assert!(
        stopped.backends.is_empty() && stopped.remarks.is_empty(),
        "{:?}",
        stopped.backends
    );
    // A file that is given is, unless the one that runs has it.
    let file = Gguf::read(&model).unwrap();
    let beside = machine.look(&running, &USUAL, std::slice::from_ref(&file));
    assert_eq!(
        (
            beside.backends[0].name.as_str(),
            beside.backends[0].address.port()
        ),
        ("llama-cpp-b", 8081)
    );
    running[1].model_path = Some(model.display().to_string());
    let served = machine.look(&running, &USUAL, &[file]);
    assert!(
        served.backends.is_empty() && served.remarks[0].contains("is served already"),
        "{:?}",
        served.remarks
    );
}

#[test]
fn an_unreadable_folder_is_skipped_with_a_word() {
    let machine = Machine::with(&["llama-server"]);
    // Not even root can list it: its name is too long for any file system.
    let mut machine = machine;
    machine
        .variables
        .insert("LLAMA_CACHE", format!("/{}", "x".repeat(300)));
    let stopped = machine.found();
    assert!(
        stopped.remarks[0].contains("was skipped: "),
        "{:?}",
        stopped.remarks
    );
}
