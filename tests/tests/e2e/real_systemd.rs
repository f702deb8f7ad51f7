//! `reveille join --service` with a systemd that runs: in namespaces of the test's own, with nothing of this machine's `/run`, units
//! and services in them.

use reveille_tests::{Folder, Launch, Process, program, wait_until};
use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Output, id},
};

use crate::{hub::Hub, scene::SOON};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// The user whose agent it is: `nobody`.
const USER: u32 = 65_534;
/// Where a unified hierarchy of control groups may be.
const CONTROL_GROUPS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Starts systemd with this machine's programs, `$1` among them. It gets the units that it can't do without, and no others.
const BOOT: &str = r#"
set -e
echo 0 > "$2/cgroup.procs"
exec unshare --cgroup --pid --mount --uts --ipc --fork --kill-child --mount-proc sh -ec '
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
    cp "$1" /usr/local/bin/reveille
    mkdir -p /run/systemd/system /run/home /run/user
    if [ "$3" = --user ]; then
        mkdir -m 700 "/run/user/$4"
        chown "$4" /run/home "/run/user/$4"
        setpriv --reuid "$4" --regid "$4" --clear-groups env -i HOME=/run/home "XDG_RUNTIME_DIR=/run/user/$4" \
            PATH=/usr/local/bin:/usr/bin:/bin SYSTEMD_LOG_TARGET=console "$5" --user --unit=basic.target &
        wait
    else
        mount -t tmpfs -o mode=755 tmpfs /var/lib
        mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
        mkdir /run/units
        for target in sysinit basic shutdown network-online multi-user; do
            printf "[Unit]\nDefaultDependencies=no\n" > "/run/units/$target.target"
        done
        exec env -i container=test PATH=/usr/local/bin:/usr/bin:/bin SYSTEMD_LOG_TARGET=console \
            SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units "$5" --system --unit=multi-user.target
    fi' sh "$@"
"#;

/// A systemd at work: that of a machine, or of a user.
struct Booted {
    process: Process,
    _folder: Folder,
    control_group: PathBuf,
    /// `--user` or `--system`.
    scope: &'static str,
}

impl Booted {
    async fn new(scope: &'static str) -> Self {
        let folder = Folder::new();
        let is_unified = |folder: &&str| Path::new(folder).join("cgroup.procs").exists();
        let root = CONTROL_GROUPS
            .into_iter()
            .find(is_unified)
            .expect("control groups");
        let control_group = Path::new(root).join(format!("reveille-test{scope}-{}", id()));
        fs::create_dir(&control_group).expect("a control group");
        if scope == "--user" {
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                chown(control_group.join(file), Some(USER), Some(USER)).expect("it is ours");
            }
        }
        let process = Launch::new("sh", folder.path().join("systemd.log"))
            .args(["-c", BOOT, "sh"])
            .arg(program("reveille"))
            .arg(&control_group)
            .args([scope, &USER.to_string(), SYSTEMD])
            .start();
        let booted = Self {
            process,
            _folder: folder,
            control_group,
            scope,
        };
        booted.says("systemctl SCOPE is-system-running", "running").await;
        booted
    }

    /// The first process of its namespaces.
    fn init(&self) -> Option<String> {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Some(children.split_whitespace().next()?.to_owned())
    }

    /// Runs a line there, in which `SCOPE` is the flag of systemd's programs, as the user whose systemd it is.
    fn run(&self, line: &str) -> Option<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init()?, "--pid", "--mount", "--cgroup", "--"]);
        let user = USER.to_string();
        if self.scope == "--user" {
            command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        command.args(["env", "-i", "HOME=/run/home", "PATH=/usr/local/bin:/usr/bin:/bin"]);
        command.arg(format!("XDG_RUNTIME_DIR=/run/user/{user}"));
        command.args(["sh", "-c", &line.replace("SCOPE", self.scope)]);
        command.output().ok()
    }

    /// What a line prints that must succeed.
    fn does(&self, line: &str) -> String {
        let output = self.run(line).expect("nsenter runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}\n{printed}");
        printed
    }

    async fn says(&self, line: &str, expected: &str) {
        wait_until(&format!("`{line}` said {expected}"), SOON, async || {
            assert!(self.process.is_running(), "{}", self.process.log());
            let output = self.run(line)?;
            (String::from_utf8_lossy(&output.stdout).trim() == expected).then_some(())
        })
        .await;
    }

    /// A property of the service.
    fn shows(&self, property: &str) -> String {
        let line = format!("systemctl SCOPE show reveille-agent --value --property {property}");
        self.does(&line).trim().to_owned()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.process.kill9();
        // A control group can be removed once its last process has gone.
        let removed = || remove(&self.control_group).is_ok();
        for _ in 0..100 {
            if removed() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn remove(group: &Path) -> std::io::Result<()> {
    for below in fs::read_dir(group)?.filter_map(Result::ok) {
        if below.file_type()?.is_dir() {
            remove(&below.path())?;
        }
    }
    fs::remove_dir(group)
}

/// What keeps a systemd from running here.
fn obstacle() -> Option<String> {
    let probe = ["--cgroup", "--pid", "--mount", "--fork", "--mount-proc", "true"];
    let unshared = Command::new("unshare").args(probe).status();
    if !unshared.is_ok_and(|status| status.success()) {
        return Some("namespaces can't be made here".to_owned());
    }
    let has = |file: &str| Path::new(file).exists();
    let is_unified = |root: &&str| has(&format!("{root}/cgroup.procs"));
    if !has(SYSTEMD) || !CONTROL_GROUPS.iter().any(is_unified) {
        return Some("there is no systemd here, or no unified hierarchy of control groups".to_owned());
    }
    None
}

/// The service that `join` has installed: it runs, comes back when it is killed, takes up its config and stops.
async fn serves(scope: &'static str) {
    if let Some(obstacle) = obstacle() {
        eprintln!("skipped: {obstacle}");
        return;
    }
    let (hub, _agents) = Hub::with_agents().await;
    let (token, _) = hub.token("gpu-box", "15m").await;
    let booted = Booted::new(scope).await;
    let join = format!("reveille join {token} --ports 1 --service");
    let said = booted.does(&join);
    assert!(said.contains("The service is enabled and starts"), "{said}");
    // It says that it is ready once the hub has accepted it.
    let is_active = "systemctl SCOPE is-active reveille-agent";
    booted.says(is_active, "active").await;
    booted
        .says("systemctl SCOPE is-enabled reveille-agent", "enabled")
        .await;

    let first = booted.shows("MainPID");
    booted.does(&format!("kill -KILL {first}"));
    let again = "systemctl SCOPE show reveille-agent --value --property NRestarts";
    booted.says(again, "1").await;
    booted.says(is_active, "active").await;
    assert_ne!(booted.shows("MainPID"), first);
    booted.does("systemctl SCOPE reload reveille-agent");

    // Joining again keeps the config and starts the unit as it is written now.
    let second = booted.shows("MainPID");
    let said = booted.does(&join);
    assert!(said.contains("which stays as it is"), "{said}");
    wait_until("it was restarted", SOON, async || {
        let pid = booted.shows("MainPID");
        (pid != second && pid != "0").then_some(())
    })
    .await;
    booted.says(is_active, "active").await;

    booted.does("systemctl SCOPE stop reveille-agent");
    booted.says(is_active, "inactive").await;
    assert_eq!(booted.shows("Result"), "success");
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn the_service_of_a_machine_runs_comes_back_and_stops() {
    serves("--system").await;
}

#[tokio::test]
#[ignore = "slow: run by cargo xtask test --all"]
async fn the_service_of_a_user_runs_comes_back_and_stops() {
    serves("--user").await;
}
