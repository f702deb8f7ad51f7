//! The disk of `up`'s data directory is full, and then has space again.
//!
//! The disk is a small tmpfs in a mount namespace of the test's own, which ends with the processes in it.

use crate::scene::{LLM, SOON};
use reveille_tests::{AgentConfig, Api, Exit, WakeController, World, hold_for, wait_until};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const SIZE: &str = "size=32m";
/// Mounts the disk at its first argument, and becomes the command that the others are.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@""#;
/// More wakes than have room in what a full disk has left.
const MOST_WAKES: usize = 40;

/// What keeps this machine from having such a disk.
fn obstacle() -> Option<String> {
    let probe = [
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/mnt",
    ];
    let tried = Command::new("unshare").args(probe).output();
    let works = tried.is_ok_and(|output| output.status.success());
    (!works).then(|| format!("`unshare {}` doesn't work here", probe.join(" ")))
}

/// `up` with its data on a small disk.
struct SmallDisk {
    up: Api,
    /// The disk, as it is seen from outside of the namespace.
    folder: PathBuf,
}

impl SmallDisk {
    fn start(world: &World, config: &str) -> Self {
        let mount = world.folder().join("disk");
        fs::create_dir(&mount).expect("a folder");
        let file = world.folder().join("up.toml");
        fs::write(&file, config).expect("a config");
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let launch = world
            .reveille("up")
            .args(["--config", &text(&file), "--data-dir", &text(&mount.join("data"))])
            .under(
                "unshare",
                &[
                    "--map-root-user",
                    "--mount",
                    "sh",
                    "-c",
                    ON_A_SMALL_DISK,
                    SIZE,
                    &text(&mount),
                ],
            );
        let up = world.api_of(launch);
        let root = PathBuf::from(format!("/proc/{}/root", up.process().pid()));
        let folder = root.join(mount.strip_prefix("/").expect("an absolute path"));
        Self { up, folder }
    }

    fn fill(&self) {
        let mut file = File::create(self.folder.join("fill")).expect("a file");
        for size in [64 * 1024, 4096, 1] {
            let bytes = vec![0; size];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.folder.join("fill")).expect("it was there");
    }

    /// Waits until `/readyz` gives a reason with these words.
    async fn not_ready(&self, words: &str) {
        wait_until(&format!("it isn't ready: {words}"), SOON, async || {
            let answer = self.up.get("/readyz").await;
            let said = answer.status == 503 && answer.text().contains(words);
            said.then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_when_there_is_space_again_everything_goes_on() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let world = World::new().await;
    let (awake, sleeper) = (world.backend(&[]), world.backend(&[]));
    awake.start_and_wait().await;
    let controller = WakeController::starting(&sleeper, Duration::ZERO).await;
    let config = AgentConfig::new("gpu-box")
        .provider("vllm", "qwen", &awake)
        .provider("other", "phi", &sleeper)
        .woken_by_http(&controller.url())
        .to_toml();
    let disk = SmallDisk::start(&world, &config);
    let up = &disk.up;
    up.wait_until_ready().await;
    up.wait_for_status(LLM, "active", SOON).await;
    up.wait_for_status("gpu-box/phi", "hibernating", SOON).await;
    assert_eq!(up.chat("phi").await.status, 200);

    disk.fill();
    let mut refused = None;
    for _ in 0..MOST_WAKES {
        sleeper.kill9();
        let answer = up.chat("phi").await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the journal took more commits than there was room for");
    assert_eq!(
        (refused.status, refused.error_code()),
        (503, "journal_unavailable".to_owned())
    );
    assert!(refused.text().contains("disk"), "{}", refused.text());
    assert!(refused.took < Duration::from_secs(25), "{:?}", refused.took);
    disk.not_ready("No space left on device").await;
    hold_for("what is awake is served", Duration::from_secs(3), async || {
        up.chat("qwen").await.status == 200
    })
    .await;
    let log = up.process().log();
    assert!(
        log.contains("ERROR") && log.contains("No space left on device"),
        "{log}"
    );

    disk.free();
    // Before anybody tries.
    up.wait_until_ready().await;
    wait_until("what sleeps is woken again", SOON, async || {
        (up.chat("phi").await.status == 200).then_some(())
    })
    .await;
    let log = up.process().log();
    assert!(log.contains("the disk can be written: restarting it"), "{log}");
    assert!(log.contains("the journal takes commits again"), "{log}");
    let data = disk.folder.join("data");
    let doctor = world.reveille("doctor").arg("--data-dir").arg(&data);
    let doctor = doctor.args(["--api", &up.url()]).start();
    doctor.wait_for_exit(SOON).await;
    assert!(
        doctor.log().contains("nats-server was restarted at "),
        "{}",
        doctor.log()
    );
    up.process().sigterm();
    assert_eq!(up.process().wait_for_exit(SOON).await, Exit::Code(0));
}
