//! What a person types first: `init`, `config show`, `config schema`, and what they refuse.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Runs the program without the variables of whoever runs the tests, but with these.
fn reveille_with(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REVEILLE_") {
            command.env_remove(name);
        }
    }
    let command = command.args(args).envs(variables.iter().copied());
    command.output().expect("the program can be run")
}

fn reveille(args: &[&str]) -> Output {
    reveille_with(args, &[])
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has one").port().to_string()
}

fn root() -> &'static Path {
    let cli = Path::new(env!("CARGO_MANIFEST_DIR"));
    cli.ancestors().nth(2).expect("the workspace's folder")
}

#[test]
fn init_without_a_backend_writes_a_legal_template_says_what_to_do_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reveille.toml");
    let path = file.display().to_string();
    let init = ["init", "--config", &path, "--ports", &closed_port()];
    let first = reveille(&init);
    assert!(first.status.success(), "{}", err(&first));
    for part in [
        "nothing listens",
        "The file is a template",
        "reveille init --force",
    ] {
        assert!(err(&first).contains(part), "{part} is not in: {}", err(&first));
    }
    assert!(reveille(&["config", "check", &path]).status.success());
    assert_eq!(
        file.metadata().unwrap().permissions().mode() & 0o777,
        0o600,
        "it may come to hold keys"
    );

    fs::write(&file, "# mine\n").unwrap();
    let second = reveille(&init);
    assert_eq!(second.status.code(), Some(2));
    assert!(err(&second).contains("--force"), "{}", err(&second));
    assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\n");
    let forced = reveille(&[&init[..], &["--force"]].concat());
    assert!(forced.status.success(), "{}", err(&forced));
    assert!(fs::read_to_string(&file).unwrap().contains("[agent]"));
}

const CONFIG: &str = r#"[agent]
name = "gpu-box"
nats = "nats://127.0.0.1:4222"

[[provider]]
name = "vllm"
base_url = "http://127.0.0.1:8000"
api_key = "${VLLM_KEY}"
models = [{ id = "Qwen/Qwen3-8B", as = "qwen" }]

[provider.wake]
type = "http"
url = "http://127.0.0.1:8000/wake_up?key=hidden-query"
headers = { Authorization = "Bearer hidden-header" }
body = "hidden-body"

[[provider]]
name = "served"
base_url = "http://127.0.0.1:8001"
probe = { path = "/is_sleeping?token=hidden-probe" }

[provider.wake]
max_wait = "90s"
verify = { path = "/v1/completions?token=hidden-verify", model = "m" }

[[provider.wake.step]]
type = "command"
command = "true"
args = ["hidden-argument"]
env = { TOKEN = "hidden-variable" }
"#;

#[test]
fn config_show_tells_each_value_with_its_origin_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml").display().to_string();
    fs::write(&file, CONFIG).unwrap();
    let key = [("VLLM_KEY", "hidden-key")];
    let shown = reveille_with(&["config", "show", "--origin", &file], &key);
    let said = out(&shown);
    assert!(shown.status.success(), "{}", err(&shown));
    assert!(!said.contains("hidden"), "a secret is shown:\n{said}");
    let origin = |setting: &str| {
        let line = said.lines().find(|line| line.starts_with(setting));
        let line = line.unwrap_or_else(|| panic!("{setting} is not in:\n{said}"));
        line.split_once('#').expect("an origin").1.trim().to_owned()
    };
    assert_eq!(origin("agent.name = \"gpu-box\""), format!("{file}:2"));
    assert_eq!(origin("agent.heartbeat = \"10s\""), "default");
    assert_eq!(
        origin("provider[0].api_key = \"[redacted]\""),
        format!("{file}:8, with the variable VLLM_KEY")
    );
    assert_eq!(
        origin("provider[0].wake.headers.authorization = \"[redacted]\""),
        format!("{file}:14")
    );
    assert_eq!(
        origin("provider[1].wake.max_wait = \"90s\""),
        format!("{file}:23")
    );
    assert_eq!(origin("provider[1].wake.step[0].command"), format!("{file}:28"));
    origin("provider[1].probe.path = \"/is_sleeping?[redacted]\"");
    assert_eq!(origin("provider[1].wake.step[0].timeout = \"30s\""), "default");

    let other = "nats://127.0.0.1:5222";
    let by_flag = reveille_with(&["config", "show", "--origin", &file, "--nats", other], &key);
    assert!(out(&by_flag).contains("# flag --nats"), "{}", out(&by_flag));
    let by_variable = reveille_with(
        &["config", "show", "--origin", &file],
        &[key[0], ("REVEILLE_NATS_URL", other)],
    );
    let line = out(&by_variable);
    let line = line.lines().find(|line| line.starts_with("agent.nats"));
    let line = line.expect("the hub");
    assert!(
        line.contains(other) && line.contains("# variable REVEILLE_NATS_URL"),
        "{line}"
    );
    let plain = reveille_with(&["config", "show", &file], &key);
    assert!(!out(&plain).contains('#'), "{}", out(&plain));
}

fn validator() -> jsonschema::Validator {
    let schema = reveille(&["config", "schema"]);
    let schema = serde_json::from_slice(&schema.stdout).expect("the schema is JSON");
    jsonschema::validator_for(&schema).expect("the schema is one")
}

fn as_json(text: &str) -> serde_json::Value {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}:\n{text}"));
    serde_json::to_value(table).expect("JSON")
}

fn examples() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("docs/recipes")).expect("examples");
    files.map(|file| file.expect("a file").path()).collect()
}

fn pages() -> Vec<PathBuf> {
    let folders = [root().to_owned(), root().join("docs")];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("pages"));
    let files = files.map(|file| file.expect("a file").path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

#[test]
fn the_schema_takes_every_config_that_the_documentation_and_these_tests_have() {
    let validator = validator();
    let assert_takes = |what: &str, text: &str| {
        let instance = as_json(text);
        let errors: Vec<_> = validator
            .iter_errors(&instance)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?}\n{text}");
    };
    assert_takes("this test", CONFIG);
    assert_takes("an empty file", "");
    let mut checked = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for block in page.split("\n```toml\n").skip(1) {
            let block = block.split("\n```").next().unwrap_or_default();
            assert_takes(&path.display().to_string(), block);
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} configs were found");
    for path in examples() {
        assert_takes(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn what_the_schema_refuses_the_agent_refuses_too() {
    let validator = validator();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml").display().to_string();
    let head = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let wake = format!("{head}[provider.wake]\ntype = \"command\"\ncommand = \"true\"\n");
    for text in [
        "x = 1\n".to_owned(),
        "[agent]\nname = \"A\"\n".to_owned(),
        "[agent]\nheartbeat = 10\n".to_owned(),
        "[[provider]]\nname = \"p\"\n".to_owned(),
        format!("{head}models = []\n"),
        format!("{head}models = [{{ as = \"x\" }}]\n"),
        format!("{head}probe = {{ every = \"1s\" }}\n"),
        format!("{head}[provider.wake]\nmax_wait = \"1s\"\n"),
        format!("{head}[provider.wake]\ntype = \"ssh\"\n"),
        format!("{head}[provider.wake]\nstep = []\n"),
        format!("{wake}url = \"http://127.0.0.1:1\"\n"),
        format!("{wake}verify = {{ every = \"1s\" }}\n"),
        format!("{head}[provider.wake]\ntype = \"wol\"\n"),
        format!("{head}[provider.wake]\ntype = \"wol\"\nmac = \"00:11\"\n"),
        format!("{head}[provider.wake]\ntype = \"wol\"\nmac = \"00:11:22:33:44:55\"\nrepeats = 0\n"),
        format!("{head}[provider.wake]\ntype = \"tcp\"\n"),
        format!("{head}[provider.wake]\ntype = \"http\"\nurl = \"http://127.0.0.1:1\"\naccept = [200]\n"),
        format!("{wake}stop_grace = \"1s\"\n"),
        format!("{wake}run = \"serve\"\ntimeout = \"1s\"\n"),
        format!("{wake}run = \"twice\"\n"),
        format!("{wake}[[provider.wake.step]]\ntype = \"command\"\ncommand = \"true\"\n"),
        format!("{head}[provider.wake]\n[[provider.wake.step]]\ntype = \"http\"\n"),
    ] {
        assert!(!validator.is_valid(&as_json(&text)), "the schema takes:\n{text}");
        fs::write(&file, &text).unwrap();
        let checked = reveille(&["config", "check", &file]);
        assert_eq!(checked.status.code(), Some(2), "the agent takes:\n{text}");
    }
}

#[test]
fn a_recipe_test_of_a_provider_that_is_not_there_or_never_woken_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml").display().to_string();
    fs::write(
        &file,
        "[[provider]]\nname = \"vllm\"\nbase_url = \"http://127.0.0.1:1\"\nmodels = [\"qwen3\"]\n",
    )
    .unwrap();
    for (provider, said) in [
        ("q", "has no provider `q`; it has: vllm"),
        ("vlm", "has no provider `vlm`, did you mean `vllm`?"),
        ("qwen3", "has no provider `qwen3`: that is a model of `vllm`"),
        ("vllm", "has no [provider.wake]"),
    ] {
        let tested = reveille(&["recipe", "test", provider, "--config", &file]);
        assert_eq!(tested.status.code(), Some(2));
        assert!(err(&tested).contains(said), "{}", err(&tested));
    }
}
