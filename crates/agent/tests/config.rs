//! The config file: what is understood, and what every mistake is answered with.

use reveille_agent::config::{Action, Config, ConfigError, NatsUrl, Secret};
use reveille_domain::RecipeKind;
use std::time::Duration;

/// A value that no error may show.
const CANARY: &str = "canary-5ecr3t";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "agent.toml", &|name| {
        (name == "KEY").then(|| CANARY.to_owned())
    })
}

#[test]
fn the_example_of_the_documentation_is_understood() {
    let config = parse(
        r#"
        [agent]
        name = "gpu-box"
        nats = "tls://hub.example:4222"

        [[provider]]
        name = "vllm"
        base_url = "http://127.0.0.1:8000/v1"
        api_key = "${KEY}"
        models = [{ id = "Qwen/Qwen3-8B", as = "qwen3-8b" }, "plain"]
        probe = { path = "/is_sleeping", expect = { is_sleeping = false } }

        [provider.wake]
        type = "http"
        url = "http://127.0.0.1:8000/wake_up?key=${KEY}"
        headers = { Authorization = "Bearer ${KEY}" }
        verify = { body = { prompt = "${KEY}" }, path = "/v1/completions", timeout = "10s" }
        timeout = "5s"
        max_wait = "1m 30s"

        [provider.sleep]
        idle_after = "15m"
        type = "http"
        url = "http://127.0.0.1:8000/sleep?level=1"

        [[provider]]
        name = "llama"
        base_url = "http://10.0.0.7:8080"
        [provider.wake]
        max_wait = "60s"
        [[provider.wake.step]]
        type = "command"
        command = "wakeonlan"
        args = ["00:11:22:33:44:55"]
        timeout = "500ms"
        [[provider.wake.step]]
        type = "command"
        command = "/opt/llama-server"
        env = { TOKEN = "${KEY}" }
        run = "serve"
        stop_grace = "3s"
        end = { command = "docker", args = ["rm", "-f", "llama"], timeout = "10s" }
        [provider.sleep]
        idle_after = "1h"
        "#,
    )
    .expect("a good config");
    assert_eq!(config.agent.name.as_str(), "gpu-box");
    assert_eq!(
        config.agent.nats.as_ref().map(NatsUrl::as_str),
        Some("tls://hub.example:4222")
    );
    let [vllm, llama] = &config.providers[..] else {
        panic!("two providers")
    };

    let models = vllm.models.as_ref().expect("models");
    let names: Vec<_> = models
        .iter()
        .map(|model| (model.id.as_str(), model.public.as_str()))
        .collect();
    assert_eq!(names, [("Qwen/Qwen3-8B", "qwen3-8b"), ("plain", "plain")]);
    assert_eq!(vllm.api_key.as_ref().map(Secret::reveal), Some(CANARY));
    assert_eq!(vllm.probe.expect, Some(serde_json::json!({"is_sleeping": false})));
    let wake = vllm.wake_spec().expect("a wake recipe");
    assert_eq!((wake.kind, wake.budget_ms), (RecipeKind::Http, 105_000));
    let sleep = vllm.sleep.as_ref().expect("a sleep recipe");
    assert_eq!(
        (sleep.idle_after, sleep.steps.len()),
        (Some(Duration::from_secs(900)), 1)
    );

    assert_eq!(
        (sleep.min_awake, vllm.min_awake()),
        (Duration::from_secs(5), Duration::from_secs(5))
    );

    assert_eq!(llama.models, None, "discovered");
    let wake = llama.wake_spec().expect("a wake recipe");
    assert_eq!((wake.kind, wake.budget_ms), (RecipeKind::Steps, 75_500));
    let serve = &llama.wake.as_ref().expect("a recipe").steps[1].action;
    assert!(matches!(serve, Action::Serve { stop_grace, .. } if *stop_grace == Duration::from_secs(3)));
    let programs: Vec<_> = serve.commands().map(|command| command.program.as_str()).collect();
    assert_eq!(programs, ["/opt/llama-server", "docker"]);
    assert!(
        !format!("{config:?}").contains(CANARY),
        "a secret in Debug: {config:?}"
    );
}

#[test]
fn a_providers_trust_holds_for_its_steps_too_and_unverified_is_only_its_own_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(folder.path().join("box.pem"), certificate).expect("written");
    let file = folder.path().join("agent.toml").display().to_string();
    let text = r#"
        [[provider]]
        name = "box"
        base_url = "https://box.lan:8443/v1"
        ca = "box.pem"
        insecure_skip_verify = true
        [provider.wake]
        [[provider.wake.step]]
        type = "http"
        url = "https://box.lan/start"
        [[provider.wake.step]]
        type = "http"
        url = "https://controller.lan/start"
        [provider.sleep]
        type = "http"
        url = "unix:///var/run/docker.sock:/v1.45/containers/llm/stop"
        "#;
    let read = |text: &str| Config::parse(text, &file, &|_| None);
    let config = read(text).expect("a good config");
    let provider = &config.providers[0];
    assert_eq!(
        provider.trust.file.as_deref(),
        Some(&*folder.path().join("box.pem"))
    );
    let wake = provider.wake.iter().flat_map(|wake| &wake.steps);
    let steps: Vec<_> = wake
        .chain(provider.sleep.iter().flat_map(|sleep| &sleep.steps))
        .collect();
    let trust = steps.iter().map(|step| match &step.action {
        Action::Http(http) => (http.trust.certificates.len(), http.trust.skip_verify),
        other => panic!("{other:?}"),
    });
    assert_eq!(trust.collect::<Vec<_>>(), [(1, true), (1, false), (1, false)]);

    for (wrong, key, reason) in [
        (
            text.replace("box.pem", "none.pem"),
            "provider[0].ca",
            "none.pem can't be read: No such file or directory",
        ),
        (text.replace("box.pem", ""), "provider[0].ca", "names no file"),
        (
            text.replace("box.pem", "agent.toml"),
            "provider[0].ca",
            "can't be read",
        ),
        (
            text.replace("https://box.lan:8443", "http://box.lan:8443"),
            "provider[0].insecure_skip_verify",
            "https://",
        ),
    ] {
        let error = read(&wrong).expect_err("refused");
        assert_eq!(error.key.as_deref(), Some(key), "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }
}

#[test]
fn a_budget_holds_the_time_of_every_step_and_of_the_verification() {
    let text = r#"
        [[provider]]
        name = "pc"
        base_url = "http://192.168.1.20:8000"
        models = [{ id = "Qwen/Qwen3-8B", as = "qwen3-8b" }]
        [provider.wake]
        max_wait = "20s"
        verify = { timeout = "7s" }
        [[provider.wake.step]]
        type = "wol"
        mac = "00-11-22-33-44-55"
        [[provider.wake.step]]
        type = "tcp"
        address = "[::1]:22"
        timeout = "2m"
        "#;
    let config = parse(text).expect("a good config");
    let spec = config.providers[0].wake_spec().expect("a recipe");
    assert_eq!(
        (spec.kind, spec.budget_ms),
        (RecipeKind::Steps, 5_000 + 120_000 + 20_000 + 7_000)
    );
    let verify = config.providers[0]
        .wake
        .as_ref()
        .and_then(|wake| wake.verify.as_ref());
    let verify = verify.expect("a verification");
    assert_eq!(verify.path, "/v1/chat/completions");
    assert_eq!(
        (&verify.body["model"], &verify.body["max_tokens"]),
        (&"Qwen/Qwen3-8B".into(), &1.into())
    );
}

#[test]
fn two_providers_of_an_agent_may_publish_the_same_model_and_share_its_requests() {
    let text = "[[provider]]\nname = \"gpu0\"\nbase_url = \"http://h:1\"\nmodels = [\"m\"]\n\
                weight = 3\npriority = 2\nmax_concurrency = 8\n\
                [[provider]]\nname = \"gpu1\"\nbase_url = \"http://h:2\"\nmodels = [\"m\"]\n";
    let providers = parse(text).expect("legal").providers;
    let shares: Vec<_> = providers
        .iter()
        .map(|provider| {
            let balancing = &provider.balancing;
            (
                balancing.weight(),
                balancing.priority(),
                balancing.max_concurrency(),
            )
        })
        .collect();
    assert_eq!(shares, [(3, 2, Some(8)), (1, 0, None)]);
    assert_eq!(providers[0].models, providers[1].models);
}

#[test]
fn an_empty_file_is_an_agent_without_providers() {
    let config = parse("").expect("nothing is required");
    assert!(config.providers.is_empty());
    assert!(!config.agent.name.as_str().is_empty(), "named after the machine");
}

const PROVIDER: &str = "[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";

/// A broken config, the line and key of its error, and a part of the reason.
type Mistake = (String, usize, &'static str, &'static str);

fn mistakes() -> Vec<Mistake> {
    let provider = |rest: &str| format!("{PROVIDER}{rest}");
    let wake = |rest: &str| format!("{PROVIDER}[provider.wake]\n{rest}");
    let http = |rest: &str| {
        wake(&format!(
            "type = \"http\"\nurl = \"http://127.0.0.1:1/w\"\n{rest}"
        ))
    };
    let wol = |rest: &str| wake(&format!("type = \"wol\"\nmac = \"00:11:22:33:44:55\"\n{rest}"));
    let tcp = |address: &str| wake(&format!("type = \"tcp\"\naddress = {address:?}"));
    let command = |rest: &str| wake(&format!("type = \"command\"\ncommand = \"true\"\n{rest}"));
    let member = |terms: &str| {
        let served = "[provider.wake]\ntype = \"command\"\ncommand = \"true\"\nrun = \"serve\"";
        provider(&format!("{terms}\n{served}"))
    };
    vec![
        (
            "[agents]\n".into(),
            1,
            "agents",
            "unknown table, did you mean `[agent]`? Known here: [agent], [[provider]]",
        ),
        (
            "[[providers]]\nname = \"p\"\n[provider.wake]\ntype = \"http\"".into(),
            1,
            "providers",
            "unknown table, did you mean `[[provider]]`?",
        ),
        (
            format!("{PROVIDER}[provder.wake]\ntype = \"http\""),
            4,
            "provder",
            "did you mean `[provider.wake]`?",
        ),
        (
            "[[agent]]\nname = \"a\"".into(),
            1,
            "agent",
            "is a single table: write [agent], in single brackets",
        ),
        (
            format!("{PROVIDER}[[provider.wake]]\ntype = \"http\""),
            4,
            "provider[0].wake",
            "write [provider.wake], in single brackets",
        ),
        (
            wake("[provider.wake.step]\ntype = \"http\""),
            5,
            "provider[0].wake.step",
            "write [[provider.wake.step]], in double brackets",
        ),
        (
            wake("[[provider.wake.steps]]\ntype = \"http\""),
            5,
            "provider[0].wake.steps",
            "did you mean `[[provider.wake.step]]`?",
        ),
        (
            provider("[provider.wakes]\ntype = \"http\""),
            4,
            "provider[0].wakes",
            "unknown table, did you mean `[provider.wake]`?",
        ),
        (
            provider("[wake]\ntype = \"http\""),
            4,
            "wake",
            "unknown table here: did you mean `[provider.wake]`?",
        ),
        (
            provider("[verify]\nprompt = \"hi\""),
            4,
            "verify",
            "unknown table here: did you mean `[provider.wake.verify]`?",
        ),
        (
            provider("[[models]]\nid = \"m\""),
            4,
            "models",
            "unknown table here: did you mean `[[provider.models]]`?",
        ),
        (
            provider("[quiet_hours]\nfrom = \"23:00\""),
            4,
            "quiet_hours",
            "unknown table here: did you mean the key `quiet_hours` in `[agent]`?",
        ),
        (
            provider("[nats]\nurl = \"nats://hub\""),
            4,
            "nats",
            "unknown table here: did you mean the key `nats` in `[agent]`?",
        ),
        (
            provider("[idle_after]\nminutes = 5"),
            4,
            "idle_after",
            "unknown table here: did you mean the key `idle_after` in `[provider.sleep]`?",
        ),
        (
            provider("idle_after = \"15m\""),
            4,
            "provider[0].idle_after",
            "unknown key here: did you mean it in `[provider.sleep]`?",
        ),
        (
            "[agent]\nheartbeet = \"5s\"".into(),
            2,
            "agent.heartbeet",
            "did you mean `heartbeat`?",
        ),
        (
            wake("type = \"comand\"\ncommand = \"true\""),
            5,
            "provider[0].wake.type",
            "must be \"http\", \"command\", \"wol\" or \"tcp\"; did you mean \"command\"?",
        ),
        (
            command("run = \"served\""),
            7,
            "provider[0].wake.run",
            "must be \"once\", \"detach\" or \"serve\"; did you mean \"serve\"?",
        ),
        (
            provider("extra_paths = [\"/x\", \"/audio/speech\"]"),
            4,
            "provider[0].extra_paths[1]",
            "is relayed in any case: leave it out",
        ),
        (
            provider("extra_paths = [\"/metrics\"]"),
            4,
            "provider[0].extra_paths[0]",
            "is a path of Reveille's own",
        ),
        (
            provider("extra_paths = [\"/models/load\"]"),
            4,
            "provider[0].extra_paths[0]",
            "no request for it reaches a backend",
        ),
        (
            provider("extra_paths = [\"/completions/x\"]"),
            4,
            "provider[0].extra_paths[0]",
            "is read with one `/v1` before it",
        ),
        (
            provider("answer_model = \"Public\""),
            4,
            "provider[0].answer_model",
            "must be \"backend\" or \"public\"; did you mean \"public\"?",
        ),
        (
            wake("type = \"command\"\ncommand = \"true\"\n[provider.sleep]\nidle_after = \"1m\""),
            7,
            "provider[0].sleep",
            "add run = \"serve\" there",
        ),
        (
            "[agent]\nname = \"GPU-Box\"".into(),
            2,
            "agent.name",
            "beginning with a letter or digit; did you mean `gpu-box`?",
        ),
        (
            "[agent]\nname = \"${KEY} \"".into(),
            2,
            "agent.name",
            "beginning with a letter or digit",
        ),
        (
            "[[provider]]\nname = \"p\"\nbaseurl = \"canary-5ecr3t\"".into(),
            3,
            "provider[0].baseurl",
            "did you mean `base_url`?",
        ),
        (
            provider("models = [{ name = \"canary-5ecr3t\" }]"),
            4,
            "provider[0].models[0].name",
            "unknown key; known here: id, as",
        ),
        (
            command("run = \"serve\"\nend = { cmd = \"b\" }"),
            8,
            "provider[0].wake.end.cmd",
            "unknown key; known here: command, args",
        ),
        (
            wake("typ = \"http\"\nurl = \"http://127.0.0.1:1/w\""),
            5,
            "provider[0].wake.typ",
            "did you mean `type`?",
        ),
        (
            wake("step = [{ type = \"http\", uri = \"canary-5ecr3t\" }]"),
            5,
            "provider[0].wake.step[0].uri",
            "unknown key",
        ),
        (
            command("run = \"serve\"\n[provider.sleep]\nidleafter = \"1m\""),
            9,
            "provider[0].sleep.idleafter",
            "did you mean `idle_after`?",
        ),
        ("[agent]\nname = \"Box\"".into(), 2, "agent.name", "a-z"),
        (
            "[agent]\nname = 7".into(),
            2,
            "agent.name",
            "must be a string, not integer",
        ),
        (
            "[agent]\nheartbeat = \"5m\"".into(),
            2,
            "agent.heartbeat",
            "between 100ms and 3m",
        ),
        (
            "[agent]\nquiet_hours = \"23:00-07:00\"".into(),
            2,
            "agent.quiet_hours",
            "must be an array, not string",
        ),
        (
            "[agent]\nquiet_hours = [\n \"23:00-07:00\",\n \"canary-5ecr3t\"]".into(),
            4,
            "agent.quiet_hours[1]",
            "is not a window of hours",
        ),
        (
            provider(
                "sleep = { type = \"http\", url = \"http://127.0.0.1:1\", keep_warm = [\"08:00-18:00\"] }",
            ),
            4,
            "provider[0].sleep.keep_warm",
            "with `idle_after`",
        ),
        (
            "[agent]\nallow_plaintext = \"yes\"".into(),
            2,
            "agent.allow_plaintext",
            "true or false",
        ),
        (
            "[agent]\nnats = \"nats://hub.example\"".into(),
            2,
            "agent.nats",
            "plaintext",
        ),
        (
            "[agent]\nnats = \"tls://u:canary-5ecr3t@hub\"".into(),
            2,
            "agent.nats",
            "user or password",
        ),
        (
            "[[provider]]\nbase_url = \"http://127.0.0.1:1\"".into(),
            1,
            "provider[0]",
            "`name` is missing",
        ),
        (
            "[[provider]]\nname = \"p\"".into(),
            1,
            "provider[0]",
            "`base_url` is missing",
        ),
        (
            "\n[provider]\nname = \"p\"".into(),
            2,
            "provider",
            "is one of a list: write [[provider]], in double brackets",
        ),
        (
            provider("color = \"canary-5ecr3t\""),
            4,
            "provider[0].color",
            "unknown key; known here: name, base_url",
        ),
        (provider(PROVIDER), 5, "provider[1].name", "same name"),
        (
            provider("api_key = \"${UNSET}\""),
            4,
            "provider[0].api_key",
            "variable UNSET is not set",
        ),
        (
            provider("api_key = \"${KEY}\\n\""),
            4,
            "provider[0].api_key",
            "header",
        ),
        (
            provider("weight = 0"),
            4,
            "provider[0].weight",
            "between 1 and 100",
        ),
        (
            provider("priority = 101"),
            4,
            "provider[0].priority",
            "between 0 and 100",
        ),
        (
            provider("max_concurrency = 0"),
            4,
            "provider[0].max_concurrency",
            "between 1 and 10000",
        ),
        (provider("models = []"), 4, "provider[0].models", "names no model"),
        (
            provider("models = [\"a\",\n \"b\",\n \"a\"]"),
            6,
            "provider[0].models[2]",
            "same public name",
        ),
        (
            provider("models = [{ id = \"\" }]"),
            4,
            "provider[0].models[0].id",
            "model name",
        ),
        (
            provider("probe = { path = \"models\" }"),
            4,
            "provider[0].probe.path",
            "begins with /",
        ),
        (
            provider("probe = { check_models = \"no\" }"),
            4,
            "provider[0].probe.check_models",
            "must be true or false",
        ),
        (
            provider("probe = { interval = \"0s\" }"),
            4,
            "provider[0].probe.interval",
            "more than zero",
        ),
        (
            provider("probe = { timeout = \"-3s\" }"),
            4,
            "provider[0].probe.timeout",
            "more than zero",
        ),
        (
            provider("probe = { timeout = 3 }"),
            4,
            "provider[0].probe.timeout",
            "in quotes",
        ),
        (
            provider("probe = { timeout = \"25h\" }"),
            4,
            "provider[0].probe.timeout",
            "at most 24h",
        ),
        (
            provider("probe = { timeout = \"canary-5ecr3t\" }"),
            4,
            "provider[0].probe.timeout",
            "not a duration",
        ),
        (
            provider("probe = { expect = 2020-01-01 }"),
            4,
            "provider[0].probe.expect",
            "JSON",
        ),
        (wake(""), 4, "provider[0].wake", "`type` is missing"),
        (
            wake("type = \"canary-5ecr3t\""),
            5,
            "provider[0].wake.type",
            "\"wol\" or \"tcp\"",
        ),
        (wake("type = \"http\""), 4, "provider[0].wake", "`url` is missing"),
        (
            wake("type = \"http\"\nurl = \"file:///canary-5ecr3t\""),
            6,
            "provider[0].wake.url",
            "http://",
        ),
        (
            wake("type = \"http\"\nurl = \"http://canary-5ecr3t@h/\""),
            6,
            "provider[0].wake.url",
            "user or password",
        ),
        (
            http("method = \"G T\""),
            7,
            "provider[0].wake.method",
            "HTTP method",
        ),
        (
            http("headers = { \"a b\" = \"canary-5ecr3t\" }"),
            7,
            "provider[0].wake.headers.a b",
            "header's name",
        ),
        (
            http("headers = { a = \"${KEY}\\u0000\" }"),
            7,
            "provider[0].wake.headers.a",
            "header value",
        ),
        (
            http("accept = [200]"),
            7,
            "provider[0].wake.accept[0]",
            "between 300 and 599",
        ),
        (
            http("verify = {}"),
            7,
            "provider[0].wake.verify",
            "`model` is missing",
        ),
        (
            http("verify = { model = \"m\", path = \"v1\" }"),
            7,
            "provider[0].wake.verify.path",
            "begins with /",
        ),
        (
            http("verify = { model = \"m\", body = { stream = true } }"),
            7,
            "provider[0].wake.verify.body",
            "stream",
        ),
        (
            http("verify = { model = \"m\", timeout = \"24h\" }"),
            4,
            "provider[0].wake",
            "sum to more",
        ),
        (wake("type = \"wol\""), 4, "provider[0].wake", "`mac` is missing"),
        (
            wake("type = \"wol\"\nmac = \"canary-5ecr3t\""),
            6,
            "provider[0].wake.mac",
            "not a MAC address",
        ),
        (
            wake("type = \"wol\"\nmac = \"ff:ff:ff:ff:ff:ff\""),
            6,
            "provider[0].wake.mac",
            "not the MAC address of a single network card",
        ),
        (
            wol("address = \"pc.lan\""),
            7,
            "provider[0].wake.address",
            "not an IP address",
        ),
        (wol("port = 0"), 7, "provider[0].wake.port", "between 1 and 65535"),
        (
            wol("repeats = 0"),
            7,
            "provider[0].wake.repeats",
            "between 1 and 100",
        ),
        (
            wol("interval = \"0s\""),
            7,
            "provider[0].wake.interval",
            "more than zero",
        ),
        (
            wol("interface = \"nosuch0\""),
            7,
            "provider[0].wake.interface",
            "can't be used for sending",
        ),
        // An address of a network for documentation (RFC 5737): no machine has it.
        (
            wol("source = \"192.0.2.1\""),
            7,
            "provider[0].wake.source",
            "can't be used for sending",
        ),
        (
            wol("source = \"::1\""),
            7,
            "provider[0].wake.source",
            "another version of IP",
        ),
        (
            wol("repeats = 6\ninterval = \"1s\""),
            4,
            "provider[0].wake",
            "longer than the step's `timeout`",
        ),
        (tcp("pc.lan"), 6, "provider[0].wake.address", "host:port"),
        (tcp("pc.lan:0"), 6, "provider[0].wake.address", "port"),
        (tcp(":80"), 6, "provider[0].wake.address", "no host"),
        (
            provider("[provider.sleep]\ntype = \"wol\"\nmac = \"00:11:22:33:44:55\""),
            4,
            "provider[0].sleep",
            "put nothing to sleep",
        ),
        (http("run = \"once\""), 7, "provider[0].wake.run", "unknown key"),
        (http("timeout = \"24h\""), 4, "provider[0].wake", "sum to more"),
        (
            wake("type = \"command\"\ncommand = \"python3 -m canary-5ecr3t/x\""),
            6,
            "provider[0].wake.command",
            "put the words after it into `args`",
        ),
        (
            command("env_pass = [\"HF_*\", \"$HOME\"]"),
            7,
            "provider[0].wake.env_pass[1]",
            "such as HF_*",
        ),
        (
            command("env_pass = [\"*\"]"),
            7,
            "provider[0].wake.env_pass[0]",
            "is not a variable's name",
        ),
        (
            command("run = \"detach\"\n[provider.sleep]\nidle_after = \"15m\""),
            8,
            "provider[0].sleep",
            "only a backend with run = \"serve\"",
        ),
        (
            wake("type = \"command\"\ncommand = \"./canary-5ecr3t\""),
            6,
            "provider[0].wake.command",
            "absolute",
        ),
        (
            wake("type = \"command\"\ncommand = \"bin/canary-5ecr3t\""),
            6,
            "provider[0].wake.command",
            "absolute",
        ),
        (
            wake("type = \"command\"\ncommand = \"\""),
            6,
            "provider[0].wake.command",
            "no program",
        ),
        (
            command("run = \"canary-5ecr3t\""),
            7,
            "provider[0].wake.run",
            "\"once\", \"detach\" or \"serve\"",
        ),
        (
            command("run = \"detach\"\nstop_grace = \"1s\""),
            8,
            "provider[0].wake.stop_grace",
            "serve",
        ),
        (
            command("end = { command = \"b\" }"),
            7,
            "provider[0].wake.end",
            "serve",
        ),
        (
            command("run = \"serve\"\nend = { command = \"b\", run = \"once\" }"),
            8,
            "provider[0].wake.end.run",
            "unknown key",
        ),
        (
            command("cwd = \"models\""),
            7,
            "provider[0].wake.cwd",
            "absolute path",
        ),
        (
            command("stop_grace = \"1s\""),
            7,
            "provider[0].wake.stop_grace",
            "serve",
        ),
        (
            command("run = \"serve\"\ntimeout = \"1s\""),
            8,
            "provider[0].wake.timeout",
            "max_wait",
        ),
        (
            command("args = \"-x\""),
            7,
            "provider[0].wake.args",
            "must be an array",
        ),
        (
            command("args = [\"a\\u0000b\"]"),
            7,
            "provider[0].wake.args[0]",
            "NUL",
        ),
        (
            command("env = { \"A=B\" = \"x\" }"),
            7,
            "provider[0].wake.env.A=B",
            "variable's name",
        ),
        (
            command("[[provider.wake.step]]\ntype = \"http\""),
            4,
            "provider[0].wake",
            "both",
        ),
        (wake("step = []"), 5, "provider[0].wake.step", "no steps"),
        (
            wake(
                "[[provider.wake.step]]\ntype = \"command\"\ncommand = \"a\"\nrun = \"serve\"\n\
                  [[provider.wake.step]]\ntype = \"command\"\ncommand = \"a\"",
            ),
            4,
            "provider[0].wake",
            "only the last step",
        ),
        (
            provider("exclusive = \"gpu0\""),
            4,
            "provider[0].exclusive",
            "can be woken",
        ),
        (
            member("exclusive = \"GPU 0\""),
            4,
            "provider[0].exclusive",
            "a name is",
        ),
        (member("exclusive = []"), 4, "provider[0].exclusive", "no group"),
        (
            member("exclusive = [\"gpu0\", \"gpu0\"]"),
            4,
            "provider[0].exclusive[1]",
            "twice",
        ),
        (
            member("persistent = true"),
            4,
            "provider[0].persistent",
            "`exclusive`",
        ),
        (
            member("max_group_wait = \"1s\""),
            4,
            "provider[0].max_group_wait",
            "`exclusive`",
        ),
        (
            member("exclusive = \"gpu0\"\nmax_group_wait = \"24h\""),
            1,
            "provider[0]",
            "more than",
        ),
        (
            provider("[provider.sleep]\nidle_after = \"15m\"\ntype = \"http\"\nurl = \"http://127.0.0.1:1\""),
            5,
            "provider[0].sleep.idle_after",
            "with [provider.wake]",
        ),
        (
            provider("[provider.sleep]\nmin_awake = \"15m\""),
            4,
            "provider[0].sleep",
            "`type` is missing",
        ),
        (
            provider("[provider.sleep]\ntype = \"command\"\ncommand = \"a\"\nrun = \"serve\""),
            4,
            "provider[0].sleep",
            "can't put",
        ),
    ]
}

#[test]
fn every_mistake_names_its_line_key_and_reason_and_shows_no_value() {
    for (text, line, key, reason) in mistakes() {
        let error = parse(&text).expect_err(&text);
        let shown = error.to_string();
        assert_eq!(
            (error.line, error.key.as_deref()),
            (Some(line), Some(key)),
            "{shown}\n{text}"
        );
        assert!(error.reason.contains(reason), "{shown}\n{text}");
        assert!(
            shown.starts_with(&format!("agent.toml:{line}: {key}: ")),
            "{shown}"
        );
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_at_once_in_the_order_of_its_lines() {
    let text = "\
[agent]
name = \"GPU-Box\"
heartbeat = \"1h\"
[[provider]]
name = \"a\"
baseurl = \"http://127.0.0.1:1\"
answer_timeout = \"soon\"
[[provider]]
name = \"b\"
base_url = \"http://127.0.0.1:2\"
modles = [\"m\"]
[provider.wake]
typ = \"http\"
max_wait = 5
[provider.sleep]
idle_after = \"15m\"
[[provider]]
[[provider]]
name = \"a\"
base_url = \"ftp://x\"
[provider.probe]
interval = \"0s\"
pth = \"/\"
";
    let error = parse(text).expect_err("it can't be used");
    let all = std::iter::once(&error).chain(&error.others);
    let places: Vec<_> = all
        .map(|error| {
            (
                error.line.expect("a line"),
                error.key.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (2, "agent.name"),
            (3, "agent.heartbeat"),
            (6, "provider[0].baseurl"),
            (7, "provider[0].answer_timeout"),
            (11, "provider[1].modles"),
            (12, "provider[1].wake"),
            (13, "provider[1].wake.typ"),
            (14, "provider[1].wake.max_wait"),
            (15, "provider[1].sleep"),
            (17, "provider[2]"),
            (17, "provider[2]"),
            (19, "provider[3].name"),
            (20, "provider[3].base_url"),
            (22, "provider[3].probe.interval"),
            (23, "provider[3].probe.pth"),
        ],
        "{error}"
    );
    assert_eq!(error.to_string().lines().count(), places.len(), "{error}");
}

/// Mistakes of every kind of field. A line's comment is what is told of that line: parts of reasons, with `|` between those of
/// several. Of the other lines nothing is told.
const MISTAKES: &str = r#"
[agent]
name = "GPU-Box"                    # did you mean `gpu-box`
nats = "nats://hub.example"
allow_plaintext = "no"              # true or false
credentials = "key"                 # absolute path
ca = 3                              # must be a string
heartbeat = "1h"                    # between 100ms and 3m
quiet_hours = [
  "23:00-07:00",
  "soon",                           # not a window of hours
  5,                                # must be a string
]

[[provider]]
name = "served"
base_url = "ftp://127.0.0.1:1"      # must begin with
ca = "none.pem"                     # can't be read
insecure_skip_verify = "no"         # true or false
api_key = ""                        # fits into a header
answer_model = "Public"             # did you mean "public"
answer_timeout = 5                  # in quotes
exclusive = [
  "gpu0",
  "GPU 1",                          # a name is
  "gpu0",                           # twice
  7,                                # must be a string
]
persistent = 1                      # true or false
max_group_wait = "0s"               # more than zero
[[provider.models]]
id = ""                             # model name
as = 4                              # must be a string
[[provider.models]]                 # `id` is missing
name = "m"                          # known here: id, as
[provider.probe]
path = "models"                     # begins with /
expect = { a = 2020-01-01, b = 2020-01-02 } # a date has | a date has
check_models = "no"                 # true or false
interval = "0s"                     # more than zero
timeout = "25h"                     # at most 24h
[provider.wake]
max_wait = 5                        # in quotes
max_per_day = 0                     # between 1 and
verify = { path = "v1", timeout = 1, model = 2, body = { stream = true }, expect = nan } # / | in quotes | string | stream | number
[[provider.wake.step]]
type = "http"
url = "127.0.0.1"                   # http://
method = "G T"                      # HTTP method
headers = { "a b" = "x", c = 1, content-length = "1" } # header's name | string | agent itself
body = 5                            # string
accept = [200, 404, "500"]          # between 300 and 599 | whole number
timeout = "x"                       # not a duration
[[provider.wake.step]]
type = "wol"
mac = "00"                          # MAC address
address = "pc.lan"                  # IP address
port = 0                            # between 1 and 65535
repeats = 0                         # between 1 and 100
interval = 1                        # in quotes
source = "x"                        # IP address
[[provider.wake.step]]
typ = "tcp"                         # did you mean `type`
addres = "pc.lan"                   # did you mean `address` | host:port
[[provider.wake.step]]
type = "comand"                     # did you mean "command"
command = "bin/server"              # absolute path
args = ["x", 3, 4]                  # string | string
env = { A = 1, "B=C" = "x", D = 2 } # string | variable's name | string
env_pass = ["$HOME", "REVEILLE_X"]  # such as HF_* | own variables
cwd = 3                             # string
run = "served"                      # did you mean "serve"
timeout = "1s"                      # max_wait
stop_grace = "soon"                 # not a duration
end = { command = "", args = [1], timeout = 2, run = "once" } # no program | string | in quotes | unknown key
[provider.sleep]                    # can't put a backend to sleep
idle_after = 15                     # in quotes
min_awake = "soon"                  # not a duration
keep_warm = ["always", "soon"]      # window | window
type = "command"
args = [1, 2]                       # string | string
command = "ollama serve"            # into `args`
run = "serve"

[[provider]]
name = "served"                     # same name
base_url = "http://127.0.0.1:2"
exclusive = "GPU"                   # can be woken | a name is
persistent = "yes"                  # true or false
[provider.sleep]
idle_after = 5                      # with [provider.wake] | in quotes
step = [
  { type = "http", url = 1 },       # string
  7,                                # must be a table
  { command = "a b", cwd = "x" },   # `type` is missing | into `args` | absolute path
]

[[provider]]
name = "third"
baseurl = "ftp://x"                 # did you mean `base_url` | must begin with
persistent = true                   # with `exclusive`
max_group_wait = 3                  # with `exclusive` | in quotes
probe = 3                           # must be a table
models = "m"                        # must be an array
[[provider.wake]]                   # in single brackets | `type` is missing
args = ["x", 3]                     # string
env = { A = 1 }                     # string
cwd = 3                             # string
stop_grace = 5                      # run = "serve" | in quotes
verify = {}
[provider.sleep]                    # only a backend with run = "serve"
keep_warm = [5]                     # with `idle_after` | string
"#;

#[test]
fn every_mistake_of_a_file_is_told_in_one_round_and_nothing_that_only_follows_from_it() {
    let error = parse(MISTAKES).expect_err("it can't be used");
    let all: Vec<_> = std::iter::once(&error).chain(&error.others).collect();
    for (line, text) in MISTAKES.lines().enumerate() {
        let reasons: Vec<_> = match text.split_once(" # ") {
            Some((_, reasons)) => reasons.split(" | ").map(str::trim).collect(),
            None => vec![],
        };
        let told: Vec<_> = all
            .iter()
            .filter(|error| error.line == Some(line + 1))
            .map(|error| error.reason.as_str())
            .collect();
        let fits = told.len() == reasons.len()
            && reasons
                .iter()
                .all(|reason| told.iter().any(|told| told.contains(reason)));
        assert!(fits, "{text}\nis told as {told:#?}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line_and_without_its_text() {
    for text in [
        "[agent]\nname = \"canary-5ecr3t",
        "a = 1\nb = canary-5ecr3t\n",
        "a = 1\na = \"canary-5ecr3t\"\n",
    ] {
        let error = parse(text).expect_err(text);
        let mut all = std::iter::once(&error).chain(&error.others);
        let broken = all.find(|error| error.key.is_none()).expect("no TOML");
        assert_eq!(broken.line, Some(2), "{error}");
        assert!(!error.to_string().contains(CANARY), "{error}");
        assert!(!broken.reason.is_empty());
    }
}

#[test]
fn limits_are_answered() {
    let many = |count: usize, entry: &str| {
        (0..count)
            .map(|n| entry.replace('#', &n.to_string()))
            .collect::<Vec<_>>()
            .join("")
    };
    let provider = "[[provider]]\nname = \"p#\"\nbase_url = \"http://127.0.0.1:1\"\n";
    assert_eq!(
        parse(&many(64, provider)).expect("64 providers").providers.len(),
        64
    );
    let step = "[[provider.wake.step]]\ntype = \"command\"\ncommand = \"true\"\n";
    assert!(parse(&format!("{PROVIDER}{}", many(16, step))).is_ok());
    for (text, reason) in [
        (many(65, provider), "at most 64 entries"),
        (format!("{PROVIDER}{}", many(17, step)), "at most 16 entries"),
        (
            format!("{PROVIDER}models = [{}]", many(257, "\"m#\",")),
            "at most 256 entries",
        ),
        ("#".repeat(1024 * 1024 + 1), "larger than"),
    ] {
        let error = parse(&text).expect_err("too much");
        assert!(error.reason.contains(reason), "{error}");
    }
}

/// Reading a pipe would wait for whoever writes into it.
#[test]
fn what_isnt_a_file_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a directory");
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("a pipe");
    let link = folder.path().join("link.toml");
    std::os::unix::fs::symlink(&pipe, &link).expect("a link");
    let (tell, told) = std::sync::mpsc::channel();
    let places = [folder.path().to_owned(), pipe, link];
    std::thread::spawn(move || {
        for place in places {
            let _ = tell.send(Config::load(&place).expect_err("no file").reason);
        }
    });
    for _ in 0..3 {
        let reason = told.recv_timeout(Duration::from_secs(10));
        assert_eq!(reason.as_deref(), Ok("cannot be read: it isn't a file"));
    }
    let ca = "[[provider]]\nname = \"p\"\nbase_url = \"https://127.0.0.1:1\"\nca = \"pipe\"\n";
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, ca).expect("written");
    let error = Config::load(&file).expect_err("no certificates");
    assert!(error.reason.contains("it isn't a file"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("none.toml");
    let error = Config::load(&path).expect_err("no such file");
    assert_eq!(error.file, path.display().to_string());
    assert!(error.reason.contains("cannot be read"), "{error}");
    std::fs::write(&path, "[agent]\nname = \"box\"\n").expect("written");
    assert_eq!(Config::load(&path).expect("a file").agent.name.as_str(), "box");
}

#[test]
fn what_is_no_toml_is_told_together_with_what_is_wrong_elsewhere_and_nothing_follows_from_it() {
    let text = r#"[agent]
heartbeat = 15m
[[provider]]
name = "P"
base_url = http://127.0.0.1:1
models = ["m"]
[provider.sleep]
idle_afer = "15m"
type = "http"
url = "http://127.0.0.1:1/sleep"
"#;
    let error = Config::parse(text, "agent.toml", &|_| None).expect_err("unusable");
    let lines: Vec<_> = std::iter::once(&error)
        .chain(&error.others)
        .map(|error| error.line.unwrap_or_default())
        .collect();
    assert_eq!(lines, [2, 4, 5, 8], "{error}");

    // What puts it to sleep may be on the line that is no TOML.
    let recipe = r#"[[provider]]
name = "p"
base_url = "http://127.0.0.1:1"
[provider.wake]
type = "command"
command = "true"
[provider.sleep]
type "command"
"#;
    let error = Config::parse(recipe, "agent.toml", &|_| None).expect_err("unusable");
    assert_eq!((error.line, error.others.len()), (Some(8), 0), "{error}");

    // Nobody knows to which table the lines below a broken header belong.
    let broken = "[[provider]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1\"\n";
    let error = Config::parse(broken, "agent.toml", &|_| None).expect_err("unusable");
    assert_eq!((error.line, error.others.len()), (Some(1), 0), "{error}");
}
