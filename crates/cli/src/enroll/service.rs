//! `reveille join --service`: the agent as a systemd service, of the machine or of a user.

use crate::{client::line, data_dir, failure::Failure, init::Found, logging::notice, whole_file};
use anyhow::{Context, anyhow};
use std::{
    env, fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt, lchown},
    path::{Path, PathBuf},
    process::Command,
};

/// The unit of the machine's agent, as it is packaged.
const MACHINE_UNIT: &str = include_str!("../../../../packaging/systemd/reveille-agent.service");
/// The unit of a user's agent.
const USER_UNIT: &str = include_str!("../../../../packaging/systemd/user/reveille-agent.service");
const UNIT: &str = "reveille-agent.service";
/// What the packaged units expect, and what `join` puts in its place.
const PACKAGED_PROGRAM: &str = "/usr/local/bin/reveille";
const PACKAGED_CONFIG: &str = "/etc/reveille/agent.toml";
/// The folder of the machine's agent, which its unit gives to the service's own user.
const MACHINE_DATA: &str = "/var/lib/reveille-agent";
/// Where programs are that a service's own user can't run: others' homes, and folders of which it has its own.
const HIDDEN: [&str; 4] = ["/root", "/home", "/tmp", "/var/tmp"];
/// Folders that are emptied now and then.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
const MACHINE_UNITS: &str = "/etc/systemd/system";

/// The data directory of the service.
pub fn data_dir() -> Result<PathBuf, Failure> {
    match is_root() {
        true => Ok(MACHINE_DATA.into()),
        false => Ok(data_dir::default_path()?),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails where no service could be installed, before anything is done.
pub fn check(config: &Path, data_dir: &Path, force: bool) -> Result<(), Failure> {
    let root = is_root();
    let words = if root { "systemctl" } else { "systemctl --user" };
    if !has_systemd(scope(root)) {
        return Err(anyhow!(
            "systemd doesn't run here (`{words} is-system-running`), so nothing was done. Join without --service, and let your \
             own service manager run `reveille agent`"
        )
        .into());
    }
    let program = program()?;
    if root && HIDDEN.iter().any(|folder| program.starts_with(folder)) {
        return Err(anyhow!(
            "{} is in a folder that a service of the machine can't enter: copy it to {PACKAGED_PROGRAM} and run that",
            program.display()
        )
        .into());
    }
    if is_passing(&program) {
        notice(format_args!(
            "{} is in a folder that may be emptied, and the service runs it from there: install Reveille, and join again with that",
            program.display()
        ));
    }
    let unit = Unit::of(config, data_dir)?;
    match fs::read_to_string(&unit.file) {
        Ok(text) if text != unit.text && !force => Err(Failure::Config(format!(
            "{} exists already and differs from what --service writes: keep your changes with `systemctl edit reveille-agent` and \
             remove the file, or use --force to replace it and the config",
            unit.file.display()
        ))),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(anyhow!("cannot read {}: {error}", unit.file.display()).into())
        }
        _ => Ok(()),
    }
}

/// Whether a program is where it may be gone tomorrow, such as in the cache of `uvx`.
fn is_passing(program: &Path) -> bool {
    let cache = absolute("XDG_CACHE_HOME");
    TEMPORARY.iter().any(|folder| program.starts_with(folder))
        || cache.is_some_and(|cache| program.starts_with(cache))
        || program.components().any(|part| part.as_os_str() == ".cache")
}

/// The backends that the agent can run. That of the machine runs as a user of its own, whose home is empty.
pub fn runnable(backends: Vec<Found>, is_service: bool) -> Vec<Found> {
    if !is_service || !is_root() {
        return backends;
    }
    let (installed, running): (Vec<_>, Vec<_>) = backends
        .into_iter()
        .partition(|backend| backend.installed().is_some());
    if !installed.is_empty() {
        notice(
            "What is installed but doesn't run was left out: the service runs as a user of its own, which doesn't have your models. \
             `reveille join` with --service and without sudo installs one that has them.",
        );
    }
    running
}

fn program() -> Result<PathBuf, Failure> {
    Ok(env::current_exe().context("this program's path is unknown")?)
}

const fn scope(root: bool) -> &'static [&'static str] {
    if root { &[] } else { &["--user"] }
}

/// Writes the unit, enables it and starts it.
pub fn install(config: &Path, data_dir: &Path) -> Result<(), Failure> {
    let root = is_root();
    let unit = Unit::of(config, data_dir)?;
    if root {
        give_to_owner_of(data_dir)
            .with_context(|| format!("cannot give the files in {} to its owner", data_dir.display()))?;
    }
    let scope = scope(root);
    let shown = scope.iter().map(|scope| format!("{scope} ")).collect::<String>();
    let folder = whole_file::folder_of(&unit.file);
    fs::create_dir_all(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let file = unit.file.display();
    whole_file::write(&unit.file, &unit.text, 0o644, true).with_context(|| format!("cannot write {file}"))?;
    line(&format!("wrote {file}"))?;
    systemctl(scope, &["daemon-reload"])?;
    // A unit that an earlier run has started goes on with the new one.
    systemctl(scope, &["enable", UNIT])?;
    systemctl(scope, &["restart", "--no-block", UNIT])?;
    line(&format!(
        "The service is enabled and starts: `systemctl {shown}status reveille-agent` shows it."
    ))?;
    if !root {
        line(
            "It runs while you are logged in; `sudo loginctl enable-linger $USER` lets it start with the machine.",
        )?;
    }
    Ok(())
}

/// Gives files that root has added to the user whose folder it is. systemd does that only when the folder itself is another's.
fn give_to_owner_of(folder: &Path) -> io::Result<()> {
    let owner = folder.metadata()?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.metadata()?.uid() != owner.uid() {
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

/// A unit as it is installed.
struct Unit {
    file: PathBuf,
    text: String,
}

impl Unit {
    fn of(config: &Path, data_dir: &Path) -> Result<Self, Failure> {
        let program = program()?;
        let (folder, text) = match is_root() {
            true => (MACHINE_UNITS.into(), machine_unit(&program, config, data_dir)?),
            false => (user_units()?, user_unit(&program, config, data_dir)?),
        };
        Ok(Self {
            file: folder.join(UNIT),
            text,
        })
    }
}

fn has_systemd(scope: &[&str]) -> bool {
    // Its exit code is about units that failed; its text is `offline` where systemd doesn't run.
    let asked = Command::new("systemctl")
        .args(scope)
        .arg("is-system-running")
        .output();
    asked.is_ok_and(|asked| {
        let text = String::from_utf8_lossy(&asked.stdout);
        !matches!(text.trim(), "" | "offline" | "unknown")
    })
}

fn systemctl(scope: &[&str], args: &[&str]) -> Result<(), Failure> {
    let words = [scope, args].concat();
    let done = Command::new("systemctl")
        .args(&words)
        .output()
        .context("cannot run systemctl")?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(anyhow!("`systemctl {}` failed: {said}", words.join(" ")).into())
}

fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

fn user_units() -> Result<PathBuf, Failure> {
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let config = config.context("there is no home directory to write the unit to")?;
    Ok(config.join("systemd/user"))
}

fn machine_unit(program: &Path, config: &Path, data_dir: &Path) -> Result<String, Failure> {
    // The service's first start moves the folder, and leaves a link to it.
    let moved = fs::canonicalize(MACHINE_DATA).unwrap_or_else(|_| MACHINE_DATA.into());
    let within = [Path::new(MACHINE_DATA), &moved]
        .into_iter()
        .find_map(|folder| config.strip_prefix(folder).ok());
    let Some(within) = within.filter(|_| data_dir == Path::new(MACHINE_DATA)) else {
        return Err(Failure::Config(format!(
            "--service as root keeps everything in {MACHINE_DATA}, which it gives to the service's own user: leave out \
             --config and --data-dir"
        )));
    };
    let config = Path::new(MACHINE_DATA).join(within);
    let unit = MACHINE_UNIT.replace(PACKAGED_PROGRAM, word(program)?);
    Ok(unit.replace(PACKAGED_CONFIG, word(&config)?))
}

fn user_unit(program: &Path, config: &Path, data_dir: &Path) -> Result<String, Failure> {
    let unit = USER_UNIT.replace(PACKAGED_PROGRAM, word(program)?);
    let unit = unit.replace("%h/.local/share/reveille/reveille.toml", word(config)?);
    Ok(unit.replace("%h/.local/share/reveille", word(data_dir)?))
}

/// A path that needs no quotes in a unit.
fn word(path: &Path) -> Result<&str, Failure> {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@,:=".contains(c);
    let text = path.to_str().filter(|text| text.chars().all(plain));
    text.ok_or_else(|| {
        Failure::Config(format!(
            "{} has characters that a systemd unit would read in its own way: use another folder",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{REVOKED, SUPERSEDED};

    #[test]
    fn each_unit_runs_this_program_with_the_config_that_was_written() {
        let program = Path::new("/opt/reveille");
        let machine = machine_unit(
            program,
            Path::new("/var/lib/reveille-agent/reveille.toml"),
            Path::new(MACHINE_DATA),
        );
        let user = user_unit(
            program,
            Path::new("/home/me/data/reveille.toml"),
            Path::new("/home/me/data"),
        );
        for (unit, config) in [
            (
                machine.unwrap(),
                "REVEILLE_CONFIG=/var/lib/reveille-agent/reveille.toml",
            ),
            (user.unwrap(), "REVEILLE_CONFIG=/home/me/data/reveille.toml"),
        ] {
            assert!(unit.contains("ExecStart=/opt/reveille agent\n"), "{unit}");
            assert!(unit.contains(&format!("Environment={config}\n")), "{unit}");
            for packaged in [PACKAGED_PROGRAM, "/etc/reveille/agent.toml\n", "%h"] {
                assert!(!unit.contains(packaged), "{packaged}: {unit}");
            }
        }
    }

    #[test]
    fn no_unit_restarts_what_a_restart_does_not_mend() {
        let hub = include_str!("../../../../packaging/systemd/reveille.service");
        for (unit, statuses) in [
            (MACHINE_UNIT, vec![2, SUPERSEDED, REVOKED]),
            (USER_UNIT, vec![2, SUPERSEDED, REVOKED]),
            // It goes on without its own agent once that was revoked.
            (hub, vec![2, SUPERSEDED]),
        ] {
            let line = unit
                .lines()
                .find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
            let listed: Vec<u8> = line
                .unwrap()
                .split(' ')
                .map(|code| code.parse().unwrap())
                .collect();
            assert_eq!(listed, statuses, "{unit}");
        }
    }

    #[test]
    fn a_service_of_the_machine_keeps_its_files_where_its_user_may_read_them() {
        let elsewhere = Path::new("/root/reveille.toml");
        let said = machine_unit(Path::new("/opt/reveille"), elsewhere, Path::new("/root")).unwrap_err();
        assert!(said.to_string().contains(MACHINE_DATA), "{said}");
        assert!(word(Path::new("/home/my folder")).is_err());
    }

    #[test]
    fn a_program_that_may_be_gone_tomorrow_is_known_by_its_folder() {
        for (program, passing) in [
            ("/home/me/.cache/uv/archive-v0/x/bin/reveille", true),
            ("/tmp/venv/bin/reveille", true),
            ("/home/me/.local/bin/reveille", false),
            ("/usr/local/bin/reveille", false),
        ] {
            assert_eq!(is_passing(Path::new(program)), passing, "{program}");
        }
    }

    #[test]
    fn files_that_root_adds_belong_to_the_folders_owner() {
        if !is_root() {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        lchown(folder.path(), Some(61_234), Some(61_234)).unwrap();
        let key = folder.path().join("gpu-box.nk");
        fs::write(&key, "a key").unwrap();
        give_to_owner_of(folder.path()).unwrap();
        let owner = key.metadata().unwrap();
        assert_eq!((owner.uid(), owner.gid()), (61_234, 61_234));
    }
}
