//! The systemd units are legal, and the services tell a supervisor when they are ready and when they stop: not earlier.

use reveille_tests::{
    AgentConfig, Exit, Folder, Launch, Port, World, hold_for, http_client, program, wait_until,
};
use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::scene::SOON;

/// Where the units expect the programs.
const INSTALLED: [&str; 2] = ["/usr/local/bin/reveille", "/usr/local/lib/reveille/nats-server"];
/// The units of a machine, and those of a user.
const MACHINE_UNITS: &str = "packaging/systemd";
const USER_UNITS: &str = "packaging/systemd/user";
const READY: &str = "READY=1";
const STOPPING: &str = "STOPPING=1";

/// What a supervisor hears from one service.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn listen(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, path }
    }

    /// The next thing that it was told and hasn't read yet.
    fn told(&self) -> Option<String> {
        let mut buffer = [0; 256];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    async fn is_told(&self, what: &str) {
        let told = wait_until(&format!("the supervisor was told {what}"), SOON, async || {
            self.told()
        })
        .await;
        assert_eq!(told, what);
    }

    fn of(&self, service: Launch) -> Launch {
        service.env("NOTIFY_SOCKET", &self.path)
    }
}

async fn is_ready(api: &Port) -> bool {
    let answer = http_client()
        .get(format!("{}/readyz", api.http_url()))
        .send()
        .await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

#[tokio::test]
async fn a_supervisor_is_told_when_the_api_answers_and_when_the_agent_is_accepted() {
    let world = World::new().await;
    let [of_agent, of_api] = ["agent", "api"].map(|name| Supervisor::listen(world.folder(), name));
    let config = world.folder().join("agent.toml");
    fs::write(&config, AgentConfig::new("gpu-box").to_toml()).expect("a config");
    let nats = world.nats.url();
    let agent = world
        .reveille("agent")
        .args(["--nats", &nats, "--config"])
        .arg(&config);
    let agent = of_agent.of(agent).start();
    // There is nobody yet who could accept it.
    hold_for("nothing was told", Duration::from_secs(1), async || {
        of_agent.told().is_none()
    })
    .await;

    let port = Port::claim();
    let api = world.reveille("api");
    let api = api.args(["--nats", &nats, "--listen", &port.address().to_string()]);
    let api = of_api.of(api).start();
    of_api.is_told(READY).await;
    assert!(is_ready(&port).await, "it was told too early");
    of_agent.is_told(READY).await;

    for (process, supervisor) in [(&agent, &of_agent), (&api, &of_api)] {
        process.sigterm();
        supervisor.is_told(STOPPING).await;
        assert_eq!(
            process.wait_for_exit(SOON).await,
            Exit::Code(0),
            "{}",
            process.log()
        );
        assert_eq!(supervisor.told(), None);
    }
}

#[tokio::test]
async fn a_supervisor_is_told_when_everything_on_one_machine_is_up() {
    let world = World::new().await;
    let backend = world.backend(&[]);
    let config = world.folder().join("up.toml");
    let text = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &backend)
        .woken_by_serving(&backend);
    fs::write(&config, text.to_toml()).expect("a config");
    let (supervisor, port) = (Supervisor::listen(world.folder(), "up"), Port::claim());
    let up = world.reveille("up").arg("--config").arg(&config);
    let up = up.args(["--listen", &port.address().to_string(), "--data-dir"]);
    let up = supervisor.of(up.arg(world.folder().join("data"))).start();
    supervisor.is_told(READY).await;
    assert!(is_ready(&port).await, "it was told too early");
    let providers = http_client()
        .get(format!("{}/reveille/v1/providers", port.http_url()))
        .send()
        .await;
    let providers = providers
        .expect("the API answers")
        .text()
        .await
        .expect("an answer");
    assert!(providers.contains("gpu-box"), "{providers}");
    up.sigterm();
    supervisor.is_told(STOPPING).await;
    assert_eq!(up.wait_for_exit(SOON).await, Exit::Code(0), "{}", up.log());
}

#[tokio::test]
async fn a_supervisor_is_told_when_the_projector_goes_on_from_its_checkpoint() {
    let world = World::with_postgres().await;
    let _api = world.api().await;
    let supervisor = Supervisor::listen(world.folder(), "projector");
    let projector = world.reveille("projector").args(["--nats", &world.nats.url()]);
    let projector = projector.args(["--database-url", world.database().url()]);
    let projector = supervisor.of(projector).start();
    supervisor.is_told(READY).await;
    projector.sigterm();
    supervisor.is_told(STOPPING).await;
    assert_eq!(projector.wait_for_exit(SOON).await, Exit::Code(0));
}

#[test]
fn the_systemd_units_are_legal() {
    for (scope, units) in [("--system", MACHINE_UNITS), ("--user", USER_UNITS)] {
        let folder = Folder::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(units);
        for file in units_in(&source) {
            let text = fs::read_to_string(&file).expect("a unit");
            let runs = |installed| text.contains(&format!("ExecStart={installed} "));
            assert!(INSTALLED.into_iter().any(runs), "{}", file.display());
            // The programs aren't installed where the tests run.
            let here = program("reveille").display().to_string();
            let text = INSTALLED
                .iter()
                .fold(text, |text, installed| text.replace(installed, &here));
            fs::write(folder.path().join(file.file_name().expect("a name")), text).expect("a unit");
        }
        are_legal(scope, folder.path());
    }
}

/// The units in a folder.
pub fn units_in(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("the units");
    let files = files.map(|file| file.expect("a unit").path());
    let units: Vec<_> = files.filter(|file| file.is_file()).collect();
    assert!(!units.is_empty(), "no units in {}", folder.display());
    units
}

/// systemd has nothing to say against the units in a folder.
pub fn are_legal(scope: &str, folder: &Path) {
    verify(scope, &units_in(folder));
}

/// Has systemd look at units. `scope` is whose they are.
pub fn verify(scope: &str, units: &[PathBuf]) {
    let folder = Folder::new();
    let verified = Command::new("systemd-analyze")
        .args([scope, "--man=no", "verify"])
        .args(units)
        .env("XDG_RUNTIME_DIR", folder.path())
        .output();
    let verified = match verified {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no systemd-analyze here");
            return;
        }
        verified => verified.expect("systemd-analyze runs"),
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    // What it only warns about, such as a misspelt key, doesn't change its exit code.
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("reveille")).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{said}");
}
