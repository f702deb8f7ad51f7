//! What is written for each backend, read as the agent reads it.

use super::{
    found::{Found, Server},
    process::{Arg, Origin, ServerCommand, Unit},
    recipe::Trial,
    text::{WrittenConfig, config},
};
use reveille_agent::config::{Action, CommandAction, Config, ProviderConfig, Secret};
use reveille_domain::ModelName;
use rustix::process::getpid;
use serde_json::json;
use std::{fs, net::SocketAddr, path::Path, time::Duration};

const SERVERS: [Server; 5] = [
    Server::Ollama,
    Server::Vllm,
    Server::LlamaCpp,
    Server::LmStudio,
    Server::Other,
];

fn found(server: Server, port: u16, models: &[&str]) -> Found {
    Found {
        name: format!("p{port}"),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        server,
        models: models
            .iter()
            .map(|name| ModelName::parse(name).unwrap())
            .collect(),
        left_out: 0,
        needs_key: false,
        sleep_mode: false,
        model_path: Some("/models/a \"b\".gguf".to_owned()),
        in_memory: vec![],
        origin: Origin::Unknown,
    }
}

/// An Ollama with models in memory, or with its only one.
fn ollama(models: &[&str], in_memory: &[&str]) -> Found {
    let mut backend = found(Server::Ollama, 11434, models);
    backend.name = "ollama".to_owned();
    backend.in_memory = in_memory
        .iter()
        .map(|name| ModelName::parse(name).unwrap())
        .collect();
    backend
}

fn started_by(args: &[&str]) -> ServerCommand {
    ServerCommand {
        pid: getpid(),
        program: "/bin/sh".to_owned(),
        args: args.iter().map(|arg| Arg::Plain((*arg).to_owned())).collect(),
        folder: "/usr".into(),
        uses_folder: false,
        variables: vec![],
        doubts: vec![],
    }
}

fn write(backends: &[Found]) -> WrittenConfig {
    config("gpu-box", None, backends)
}

fn read(text: &str) -> Config {
    let variable = |name: &str| (name == "BACKEND_KEY").then(|| "k".to_owned());
    Config::parse(text, "reveille.toml", &variable).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The providers that are active, and those that a person gets by uncommenting one block.
fn providers(text: &str) -> (Vec<ProviderConfig>, Vec<ProviderConfig>) {
    let mut commented = vec![];
    let (mut before, mut block) = (String::new(), String::new());
    for line in text.lines().chain([""]) {
        if let Some(line) = line.strip_prefix('#').filter(|_| !block.is_empty()) {
            block += &format!("{}\n", line.strip_prefix(' ').unwrap_or(line));
            continue;
        }
        if !block.is_empty() {
            let start = if block.starts_with("[[") {
                "[agent]\nname = \"a\"\n"
            } else {
                &before
            };
            commented.extend(read(&format!("{start}{block}")).providers.pop());
            block.clear();
        }
        match line {
            "# [[provider]]" | "# [provider.wake]" => block = format!("{}\n", &line[2..]),
            line => before += &format!("{line}\n"),
        }
    }
    (read(text).providers, commented)
}

/// The only provider, whose recipe is active.
fn active(backend: Found) -> ProviderConfig {
    let written = write(&[backend]);
    let (mut active, _) = providers(&written.text);
    assert_eq!((active.len(), written.trials.len()), (1, 1), "{}", written.text);
    assert!(
        active[0].wake.is_some() && active[0].sleep.is_some(),
        "{}",
        written.text
    );
    active.remove(0)
}

/// The only provider as it is once its recipe is uncommented, and the text. Before, it has none.
fn incomplete(backend: Found) -> (ProviderConfig, String) {
    let written = write(&[backend]);
    let (active, mut commented) = providers(&written.text);
    assert!(
        active[0].wake.is_none() && active[0].sleep.is_none(),
        "{}",
        written.text
    );
    assert_eq!(
        (active.len(), commented.len(), written.trials.len()),
        (1, 1, 0),
        "{}",
        written.text
    );
    (commented.remove(0), written.text)
}

/// The command that a recipe serves.
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

/// A recipe of the documentation.
fn documented(name: &str) -> ProviderConfig {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let text = fs::read_to_string(root.join("docs/recipes").join(name)).unwrap();
    read(&format!("[agent]\nname = \"a\"\n{text}"))
        .providers
        .remove(0)
}

fn is_the_documented_one(written: &ProviderConfig, name: &str) {
    let documented = documented(name);
    assert_eq!(written.probe, documented.probe);
    assert_eq!(written.sleep, documented.sleep);
    let [written, documented] = [written, &documented].map(|provider| provider.wake.as_ref().unwrap());
    assert_eq!(written.steps, documented.steps);
}

#[test]
fn every_backend_makes_a_valid_config_whatever_started_it() {
    let unit = Unit {
        name: "llm.service".to_owned(),
        of_user: false,
    };
    let mut doubted = started_by(&["serve"]);
    doubted.doubts.push("it belongs to another user".to_owned());
    let origins = [
        Origin::Unknown,
        Origin::Command(started_by(&["serve"])),
        Origin::Command(doubted),
        Origin::Unit(unit),
        Origin::Container,
        Origin::Forwarded("ssh"),
    ];
    for (server, origin) in SERVERS
        .iter()
        .flat_map(|server| origins.iter().map(move |origin| (*server, origin)))
    {
        for (needs_key, models) in [(false, &["Qwen/Qwen3-8B", "${HOME}", "a'\"b"][..]), (true, &[])] {
            let mut backend = found(server, 4000, models);
            backend.needs_key = needs_key;
            backend.origin = origin.clone();
            let written = write(&[backend]);
            let (active, commented) = providers(&written.text);
            assert_eq!((active.len(), written.reasons.len()), (1, 1));
            let has_recipe = active[0].wake.is_some();
            assert_eq!(written.trials.len(), usize::from(has_recipe), "{}", written.text);
            let can_have_one = has_recipe || commented.iter().any(|provider| provider.wake.is_some());
            assert!(can_have_one || server == Server::Ollama, "{}", written.text);
            assert_eq!(written.text.contains("# api_key = \"${BACKEND_KEY}\""), needs_key);
            assert_eq!(written.reasons[0].contains("BACKEND_KEY"), needs_key);
            assert!(
                !(needs_key && has_recipe && server == Server::Other),
                "its probe would fail"
            );
        }
    }
}

#[test]
fn a_backend_with_sleep_mode_is_woken_and_put_to_sleep_over_http() {
    let mut backend = found(Server::Vllm, 8000, &["m"]);
    backend.sleep_mode = true;
    // Even if its command is known.
    backend.origin = Origin::Command(started_by(&["serve"]));
    is_the_documented_one(&active(backend), "vllm-level-1.toml");
}

#[test]
fn a_server_is_started_with_the_command_of_the_running_one() {
    let odd = [
        "serve",
        "-m",
        "a \"b\" ${HOME}\n\u{7f}\u{202e}\u{e0041}",
        "--port",
        "8080",
        "$${x}",
        "'''",
    ];
    let mut command = started_by(&odd);
    command.variables = vec!["CUDA_VISIBLE_DEVICES".to_owned()];
    for server in [Server::LlamaCpp, Server::Vllm, Server::Other] {
        let mut backend = found(server, 8080, &["m"]);
        backend.origin = Origin::Command(command.clone());
        let written = active(backend);
        let run = served(&written);
        assert_eq!((run.program.as_str(), args(run)), ("/bin/sh", odd.to_vec()));
        assert_eq!(run.env_pass, ["CUDA_VISIBLE_DEVICES"]);
        // An unknown server may look for files there.
        assert_eq!(run.cwd.is_some(), server == Server::Other);
        assert_eq!(
            written.sleep.as_ref().unwrap().idle_after,
            Some(Duration::from_secs(900))
        );
        let path = if server == Server::LlamaCpp {
            "/health"
        } else {
            "/v1/models"
        };
        assert_eq!(written.probe.path, path);
    }
    command.uses_folder = true;
    let mut backend = found(Server::LlamaCpp, 8080, &["m"]);
    backend.origin = Origin::Command(command);
    let written = write(std::slice::from_ref(&backend));
    assert_eq!(
        written.trials,
        [(
            "p8080".to_owned(),
            Trial::AfterStopping {
                pid: getpid(),
                address: backend.address
            }
        )]
    );
    assert!(
        written.reasons[0].contains("stop the running one yourself"),
        "{}",
        written.reasons[0]
    );
    assert_eq!(served(&active(backend)).cwd.as_deref(), Some(Path::new("/usr")));
}

#[test]
fn llama_cpp_is_probed_as_documented_whether_its_command_is_known_or_not() {
    let probe = documented("llama-cpp.toml").probe;
    let (provider, text) = incomplete(found(Server::LlamaCpp, 8080, &["m"]));
    assert_eq!(provider.probe, probe);
    assert_eq!(read(&text).providers[0].probe.path, probe.path);
    assert_eq!(
        args(served(&provider)),
        ["--model", "/models/a \"b\".gguf", "--port", "8080"]
    );
}

#[test]
fn a_command_with_a_secret_is_left_to_the_person_and_has_a_variable_in_its_place() {
    let mut command = started_by(&["--port", "8080"]);
    command
        .args
        .push(Arg::Secret("--api-key=".to_owned(), "BACKEND_KEY".to_owned()));
    command
        .doubts
        .push("the agent needs `BACKEND_KEY` for a secret argument".to_owned());
    let mut backend = found(Server::Vllm, 8000, &["m"]);
    backend.origin = Origin::Command(command);
    let (provider, text) = incomplete(backend);
    assert_eq!(args(served(&provider)), ["--port", "8080", "--api-key=k"]);
    assert!(text.contains("# api_key = \"${BACKEND_KEY}\""), "{text}");
    assert!(text.contains("VLLM_SERVER_DEV_MODE=1"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
}

#[test]
fn what_a_manager_runs_gets_no_second_server_beside_it() {
    for (origin, program, start) in [
        (Origin::Container, "docker", &["start", "NAME"][..]),
        (
            Origin::Unit(Unit {
                name: "llm.service".to_owned(),
                of_user: true,
            }),
            "systemctl",
            &["--user", "start", "llm.service"],
        ),
        (
            Origin::Unit(Unit {
                name: "llm.service".to_owned(),
                of_user: false,
            }),
            "systemctl",
            &["start", "llm.service"],
        ),
    ] {
        let mut backend = found(Server::LlamaCpp, 8080, &["m"]);
        backend.origin = origin;
        let (provider, _) = incomplete(backend);
        match &provider.wake.unwrap().steps[0].action {
            Action::Once(command) => {
                assert_eq!((command.program.as_str(), &args(command)[..]), (program, start));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut backend = found(Server::Vllm, 8000, &["m"]);
    backend.origin = Origin::Forwarded("ssh");
    let (_, text) = incomplete(backend);
    assert!(text.contains("`ssh` only passes connections on"), "{text}");
}

#[test]
fn lm_studio_is_started_and_stopped_by_commands_that_leave_it_running() {
    let written = write(&[found(Server::LmStudio, 1234, &["qwen3-8b"])]);
    let (active, commented) = providers(&written.text);
    let provider = commented.first().unwrap_or(&active[0]);
    let mut documented = documented("lm-studio.toml");
    assert_eq!(
        provider.sleep.as_ref().unwrap().idle_after,
        documented.sleep.as_ref().unwrap().idle_after
    );
    let program = documented.wake.as_mut().map(|wake| wake.steps.remove(0));
    match (
        &provider.wake.as_ref().unwrap().steps[0].action,
        program.unwrap().action,
    ) {
        (Action::Detach(written), Action::Detach(documented)) => assert_eq!(args(written), args(&documented)),
        other => panic!("{other:?}"),
    }
    match &provider.sleep.as_ref().unwrap().steps[0].action {
        Action::Detach(command) => assert_eq!(args(command), ["server", "stop"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_only_model_of_an_ollama_is_loaded_and_unloaded() {
    for origin in [
        Origin::Unknown,
        Origin::Unit(Unit {
            name: "ollama.service".to_owned(),
            of_user: false,
        }),
        Origin::Command(started_by(&["serve"])),
    ] {
        let mut backend = ollama(&["qwen2.5:7b"], &["qwen2.5:7b"]);
        let by_a_unit = matches!(origin, Origin::Unit(_));
        backend.origin = origin;
        let written = write(std::slice::from_ref(&backend));
        assert_eq!(written.trials, [("ollama".to_owned(), Trial::Now)]);
        let (_, alternatives) = providers(&written.text);
        assert_eq!(alternatives.len(), usize::from(!by_a_unit), "{}", written.text);
        assert!(
            alternatives
                .iter()
                .all(|provider| provider.wake.as_ref().unwrap().serves())
        );
        is_the_documented_one(&active(backend), "ollama.toml");
    }
}

#[test]
fn of_many_models_of_an_ollama_those_in_memory_sleep_and_the_others_are_published_as_they_are() {
    let many: Vec<_> = (0..20).map(|number| format!("m{number}:7b")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let written = write(&[ollama(&many, &["m3:7b", "m4:7b"])]);
    let (active, _) = providers(&written.text);
    let names: Vec<_> = active.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["ollama", "ollama-m3-7b", "ollama-m4-7b"]);
    assert!(active[0].models.is_none() && active[0].wake.is_none() && active[0].sleep.is_none());
    assert_eq!(active[2].models.as_ref().unwrap()[0].id.as_str(), "m4:7b");
    assert_eq!(
        active[2].probe.expect,
        Some(json!({ "models": [{ "name": "m4:7b" }] }))
    );
    let tried: Vec<_> = written.trials.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(tried, names[1..]);

    // None in memory: one is shown how it would be done.
    let written = write(&[ollama(&["all-minilm-embed", "m1:7b", "m2:7b"], &[])]);
    let (active, alternatives) = providers(&written.text);
    assert!(active.len() == 1 && active[0].wake.is_none() && written.trials.is_empty());
    assert_eq!(alternatives[0].name.as_str(), "ollama-m1-7b");
    assert_eq!(alternatives[0].probe.path, "/api/ps");
}

#[test]
fn providers_have_names_of_their_own() {
    let long = "x".repeat(200);
    let models = ["Qwen2.5:7B", "qwen2-5:7b", &long, "模型:latest"];
    let mut second = ollama(&models, &["Qwen2.5:7B"]);
    second.name = "ollama-11435".to_owned();
    let written = write(&[ollama(&models, &models), second]);
    let (active, _) = providers(&written.text);
    let names: Vec<_> = active.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names[..3], ["ollama", "ollama-qwen2-5-7b", "ollama-qwen2-5-7b-2"]);
    let public = &active[6].models.as_ref().unwrap()[0].public;
    assert_eq!(public.as_str(), "Qwen2.5:7B@ollama-11435");
}

#[test]
fn two_backends_with_the_same_model_publish_it_under_two_names() {
    let two = [found(Server::Other, 1, &["m"]), found(Server::Other, 2, &["m"])];
    let config = read(&write(&two).text);
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
fn a_model_that_is_named_after_its_file_has_a_short_name() {
    let config = read(
        &write(&[found(
            Server::LlamaCpp,
            1,
            &["/models/Qwen3-8B-Q4_K_M.gguf", "a/b"],
        )])
        .text,
    );
    let models = config.providers[0].models.as_ref().unwrap();
    assert_eq!(models[0].public.as_str(), "Qwen3-8B-Q4_K_M");
    assert_eq!(models[0].id.as_str(), "/models/Qwen3-8B-Q4_K_M.gguf");
    assert_eq!(models[1].public.as_str(), "a/b");
}

#[test]
fn a_machine_without_backends_gets_a_valid_template() {
    let (active, commented) = providers(&write(&[]).text);
    assert!(active.is_empty());
    assert!(commented[0].wake.as_ref().unwrap().serves());
}

#[test]
fn of_many_models_a_few_are_shown_with_how_many_more_there_are() {
    let names: Vec<_> = (0..3_000).map(|number| format!("m{number}")).collect();
    let parsed = names.iter().map(|name| ModelName::parse(name).unwrap()).collect();
    let (models, left_out) = super::found::capped(parsed);
    let mut backend = found(Server::Other, 8000, &[]);
    (backend.models, backend.left_out) = (models, left_out);
    let described = backend.described();
    let more = "m11 and 2988 more; 2744 of them are left out, since a provider publishes at most 256";
    assert!(described.ends_with(more), "{described}");
    backend.models.truncate(12);
    backend.left_out = 0;
    assert!(backend.described().ends_with(", m11"), "{}", backend.described());
}
