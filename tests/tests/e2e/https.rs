//! TLS end to end: a private authority, real clients, renewal, and a doctor.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reveille_tests::{AgentConfig, Exit, Launch, Port, Process, World, wait_until};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use crate::{scene::SOON, transcript::curl};

/// A private authority, its file `ca.pem`, and the certificate `cert.pem` with `key.pem` that it has given last.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "a private authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("it is written");
        Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
        }
    }

    /// Gives a certificate for a name that is valid for so many days from now.
    pub fn give(&self, name: &str, days: u64) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        params.not_after =
            (std::time::SystemTime::now() + std::time::Duration::from_secs(days * 24 * 60 * 60)).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        fs::write(self.file("cert.pem"), certificate.pem()).expect("it is written");
        fs::write(self.file("key.pem"), key.serialize_pem()).expect("it is written");
        fs::set_permissions(self.file("key.pem"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn flags(&self) -> [String; 4] {
        [
            "--tls-cert",
            &self.file("cert.pem"),
            "--tls-key",
            &self.file("key.pem"),
        ]
        .map(str::to_owned)
    }
}

/// A command's end, and what it said.
async fn run(launch: Launch) -> (Exit, String) {
    let process: Process = launch.start();
    let exit = process.wait_for_exit(SOON).await;
    (exit, process.log())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn everything_works_over_tls_for_who_trusts_the_authority() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    authority.give("localhost", 90);
    let backend = world.backend(&[]);
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    let port = Port::claim();
    let up = world.reveille("api").args(["--nats", &world.nats_url()]);
    let up = up
        .args(["--listen", &port.address().to_string()])
        .args(authority.flags())
        .start();
    let url = format!("https://localhost:{}", port.number());
    let ca = authority.file("ca.pem");
    wait_until("the API was ready for `reveille health`", SOON, async || {
        assert!(up.is_running(), "{}", up.log());
        let health = world.reveille("health").args(["--api", &url, "--ca", &ca]);
        (run(health).await.0 == Exit::Code(0)).then_some(())
    })
    .await;
    let _agent = world.agent(&config);
    let rows = wait_until("the model was listed", SOON, async || {
        let llms = world.reveille("llms").args(["--api", &url, "-o", "json"]);
        let (exit, said) = run(llms.env("REVEILLE_CA_FILE", &ca)).await;
        (exit == Exit::Code(0) && said.contains("hibernating")).then_some(said)
    })
    .await;
    assert!(rows.contains("gpu-box/qwen"), "{rows}");

    // A wake and its stream, over either protocol.
    let chat = format!("{url}/v1/chat/completions");
    let json = ["-H", "content-type: application/json"];
    let body = r#"{"model":"qwen","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
    for (protocol, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let write = "\n%{http_version}";
        let answer = curl(
            &[
                &["--cacert", &ca, protocol, "-w", write, "-d", body][..],
                &json,
                &[&chat],
            ]
            .concat(),
        );
        let said = stdout(&answer);
        assert!(
            said.contains("data: [DONE]") && said.ends_with(&format!("\n{version}")),
            "{said}"
        );
    }

    // Who doesn't trust the authority is told what to do.
    let (exit, said) = run(world.reveille("llms").args(["--api", &url])).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(said.contains("was rejected") && said.contains("--ca"), "{said}");
    // Neither is a name that the certificate doesn't have.
    let wrong = format!("https://127.0.0.1:{}", port.number());
    let (exit, said) = run(world.reveille("llms").args(["--api", &wrong, "--ca", &ca])).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(
        said.contains("not valid for name") && said.contains("a host name from its certificate"),
        "{said}"
    );
    let (exit, said) = run(world
        .reveille("llms")
        .args(["--api", &url, "--ca", &authority.file("key.pem")]))
    .await;
    assert_eq!(exit, Exit::Code(2));
    assert!(said.contains("--ca") && said.contains("no certificate"), "{said}");

    // And who forgets TLS.
    let plain = curl(&["-i", &url.replace("https", "http")]);
    let said = stdout(&plain);
    assert!(
        said.starts_with("HTTP/1.1 400") && said.contains("https_required"),
        "{said}"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_at_a_hangup_and_a_broken_one_is_not() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    authority.give("localhost", 90);
    let port = Port::claim();
    let data = world.folder().join("data");
    // All of it, whose own looks at its API must work over TLS too.
    let up = world
        .reveille("up")
        .args(["--data-dir", &data.display().to_string()]);
    let up = up
        .args(["--listen", &port.address().to_string()])
        .args(authority.flags())
        .start();
    wait_until("it was up", SOON * 2, async || {
        assert!(up.is_running(), "{}", up.log());
        up.log().contains("reveille is up").then_some(())
    })
    .await;
    assert!(
        up.log().contains(&format!("https://{}/v1", port.address())),
        "{}",
        up.log()
    );
    let url = format!("https://localhost:{}/livez", port.number());
    let ca = authority.file("ca.pem");
    assert!(curl(&["--cacert", &ca, &url]).status.success(), "{}", up.log());

    let before = fs::read(authority.file("cert.pem")).expect("the certificate");
    authority.give("renewed.example", 90);
    up.sighup();
    let renewed = format!("renewed.example:{}:127.0.0.1", port.number());
    let new_url = url.replace("localhost", "renewed.example");
    let asks_new = || {
        curl(&["--cacert", &ca, "--resolve", &renewed, &new_url])
            .status
            .success()
    };
    wait_until("the new certificate was taken up", SOON, async || {
        asks_new().then_some(())
    })
    .await;

    fs::write(authority.file("cert.pem"), before).expect("it is written");
    up.sighup();
    wait_until("the broken pair was refused", SOON, async || {
        up.log().contains("can't use the new certificate").then_some(())
    })
    .await;
    assert!(
        up.log().contains("not the private key of the certificate"),
        "{}",
        up.log()
    );
    assert!(asks_new(), "{}", up.log());
    assert_eq!(up.stop(SOON).await, Exit::Code(0));
}

#[tokio::test]
async fn the_doctor_looks_at_the_certificate() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    authority.give("localhost", 10);
    let port = Port::claim();
    let api = world.reveille("api").args(["--nats", &world.nats_url()]);
    let api = api
        .args(["--listen", &port.address().to_string()])
        .args(authority.flags())
        .start();
    let ca = authority.file("ca.pem");
    let look = async |name: &str| {
        let url = format!("https://{name}:{}", port.number());
        let doctor = world
            .reveille("doctor")
            .args(["--api", &url, "--ca", &ca, "-o", "jsonl"]);
        let (_, said) = run(doctor.args(["--nats", &world.nats_url()])).await;
        let findings: Vec<Value> = said
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        findings
    };
    let findings = wait_until("the doctor found it ready", SOON, async || {
        let findings = look("localhost").await;
        let ready = findings
            .iter()
            .any(|finding| finding["check"] == "API" && finding["level"] == "ok");
        ready.then_some(findings)
    })
    .await;
    let of = |findings: &[Value], check: &str| -> Value {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found
            .unwrap_or_else(|| panic!("nothing of {check}: {findings:?}"))
            .clone()
    };
    let soon = of(&findings, "certificate");
    assert_eq!(soon["level"], "warning", "{soon}");
    assert!(api.log().contains("expires soon"), "{}", api.log());

    let wrong = of(&look("127.0.0.1").await, "API");
    assert_eq!(wrong["level"], "problem", "{wrong}");
    assert!(
        wrong["found"]
            .as_str()
            .is_some_and(|found| found.contains("not valid for name")),
        "{wrong}"
    );
    assert!(
        wrong["remedy"]
            .as_str()
            .is_some_and(|remedy| remedy.contains("name")),
        "{wrong}"
    );

    authority.give("localhost", 90);
    api.sighup();
    wait_until("the doctor was content", SOON, async || {
        (of(&look("localhost").await, "certificate")["level"] == "ok").then_some(())
    })
    .await;
}
