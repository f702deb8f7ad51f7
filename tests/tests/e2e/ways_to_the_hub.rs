//! NATS servers that greet after TLS, that are reached by WebSocket, or that lack what the hub needs.

use std::{fs, path::Path};

use reveille_tests::{AgentConfig, Api, Exit, Launch, Port, Process, World, nats_server, wait_until};

use crate::{https::Authority, scene::SOON};

/// A NATS server with TLS, whose certificate is valid for `localhost`.
struct Server {
    /// Its port for clients, and the one for WebSockets.
    ports: [Port; 2],
    process: Process,
    ca: String,
}

impl Server {
    fn start(folder: &Path, first: &str, authority: &Authority) -> Self {
        let ports = [Port::claim(), Port::claim()];
        let file = |name: &str| folder.join(name).display().to_string();
        let tls = format!(
            "cert_file: \"{}\", key_file: \"{}\"",
            file("cert.pem"),
            file("key.pem")
        );
        authority.give("localhost", 30);
        let process = started(
            folder,
            &format!(
                "listen: \"{}\"\njetstream {{ store_dir: \"{}\" }}\ntls {{ {tls}{first} }}\n\
                 websocket {{ listen: \"{}\", tls {{ {tls} }} }}\n",
                ports[0].address(),
                file("store"),
                ports[1].address(),
            ),
        );
        Self {
            ports,
            process,
            ca: file("ca.pem"),
        }
    }

    fn url(&self, scheme: &str) -> String {
        let port = &self.ports[usize::from(scheme == "wss")];
        format!("{scheme}://localhost:{}", port.number())
    }
}

fn started(folder: &Path, config: &str) -> Process {
    let file = folder.join("server.conf");
    fs::write(&file, config).expect("a config");
    Launch::new(nats_server(), folder.join("server.log"))
        .arg("--config")
        .arg(file)
        .start()
}

/// An API by `to_hub` and an agent by `to_agent`, and a request from the one to the other's backend.
async fn meet(world: &World, server: &Server, to_hub: &str, to_agent: &str) {
    let backend = world.backend(&[]);
    backend.start_and_wait().await;
    let launch = world
        .reveille("api")
        .args(["--nats", &server.url(to_hub), "--nats-ca", &server.ca]);
    let api: Api = world.api_of(launch.args(["--root-key-file", "root.key"]));
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "m", &backend)
        .to_toml();
    let hub = format!(
        "[agent]\nnats = {:?}\nca = {:?}\n",
        server.url(to_agent),
        server.ca
    );
    let file = world.folder().join("agent.toml");
    fs::write(&file, config.replacen("[agent]\n", &hub, 1)).expect("a config");
    let agent = world.reveille("agent").arg("--config").arg(file).start();
    api.wait_until_ready().await;
    api.wait_for_status("gpu-box/m", "active", SOON).await;
    let answer = api.chat("m").await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.process.log());
    for process in [&agent, api.process()] {
        let log = process.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

#[tokio::test]
async fn a_server_that_greets_after_tls_is_reached_like_any_other() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    let server = Server::start(world.folder(), ", handshake_first: true", &authority);
    meet(&world, &server, "tls", "tls").await;
}

#[tokio::test]
async fn a_server_that_greets_before_tls_is_reached_too() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    let server = Server::start(world.folder(), "", &authority);
    meet(&world, &server, "tls", "tls").await;
}

#[tokio::test]
async fn agents_and_hubs_come_in_by_websocket() {
    let world = World::new().await;
    let authority = Authority::new(world.folder());
    let server = Server::start(world.folder(), "", &authority);
    meet(&world, &server, "wss", "wss").await;
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_either_way() {
    let world = World::new().await;
    for (first, scheme) in [("", "tls"), (", handshake_first: true", "tls"), ("", "wss")] {
        let folder = world.folder().join(format!("{scheme}{}", first.len()));
        fs::create_dir(&folder).expect("a folder");
        let mut server = Server::start(&folder, first, &Authority::new(&folder));
        // An authority of the same name and with another key.
        let other = folder.join("other");
        fs::create_dir(&other).expect("a folder");
        drop(Authority::new(&other));
        server.ca = other.join("ca.pem").display().to_string();
        let launch = world
            .reveille("api")
            .args(["--nats", &server.url(scheme), "--nats-ca", &server.ca]);
        let api = world.api_of(launch);
        wait_until("the certificate was refused", SOON, async || {
            api.process()
                .log()
                .contains("certificate isn't from the hub")
                .then_some(())
        })
        .await;
        assert!(
            !api.process().log().contains("connected to NATS"),
            "{}",
            api.process().log()
        );
    }
}

#[tokio::test]
async fn a_server_without_jetstream_ends_a_hub_at_once_with_what_to_do() {
    let world = World::with_postgres().await;
    let port = Port::claim();
    let server = started(world.folder(), &format!("listen: \"{}\"\n", port.address()));
    let url = format!("nats://{}", port.address());
    let config = world.folder().join("up.toml");
    fs::write(&config, AgentConfig::new("gpu-box").to_toml()).expect("a config");
    let up = world
        .reveille("up")
        .arg("--config")
        .arg(&config)
        .args(["--listen", "127.0.0.1:0"]);
    let projector = ["--database-url", world.database().url()];
    for launch in [
        world.reveille("api").args(["--listen", "127.0.0.1:0"]),
        up,
        world.reveille("projector").args(projector),
    ] {
        let process = launch.args(["--nats", &url]).start();
        let exit = process.wait_for_exit(SOON).await;
        let log = process.log();
        assert_eq!(exit, Exit::Code(1), "{log}\n{}", server.log());
        assert!(
            log.contains("JetStream is off") && log.contains("sync_interval: always"),
            "{log}"
        );
        // Each of a process's connections has a few.
        assert!(log.lines().count() < 25, "{log}");
    }
    let doctor = world.reveille("doctor").args(["--nats", &url]).start();
    assert_eq!(doctor.wait_for_exit(SOON).await, Exit::Code(1));
    let said = doctor.log();
    assert!(
        said.contains("JetStream is off") && said.contains("sync_interval: always"),
        "{said}"
    );
    // An agent needs none.
    let file = world.folder().join("agent.toml");
    fs::write(&file, AgentConfig::new("gpu-box").to_toml()).expect("a config");
    let agent = world
        .reveille("agent")
        .args(["--nats", &url])
        .arg("--config")
        .arg(file)
        .start();
    wait_until("the agent was connected", SOON, async || {
        agent.log().contains("connected to NATS").then_some(())
    })
    .await;
    assert!(agent.is_running(), "{}", agent.log());
}
