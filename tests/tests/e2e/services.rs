//! What systemd does for the documented commands: a `systemctl` that notes what it is asked to start, and services that run
//! with the variables, folders and users that their units give them. Users that exist only while a service runs, and
//! restrictions, are left out.

use reveille_tests::Process;

use crate::machine::Machine;

/// Where the asked `systemctl` notes it.
const ASKED: &str = "systemctl.log";

impl Machine {
    /// A `systemctl` that notes what it is asked to do, and a `sudo` that asks nobody.
    pub fn install_systemctl(&self) {
        let log = self.folder.path().join(ASKED);
        let asked = format!(
            "case \"$*\" in *is-system-running) echo running ;; *) echo \"$*\" >> '{}' ;; esac",
            log.display()
        );
        self.script("systemctl", &asked);
        self.script("loginctl", "true");
        self.script("sudo", "exec \"$@\"");
    }

    /// The service that `systemctl` was asked last to start.
    pub fn asked_service(&self) -> String {
        let asked = std::fs::read_to_string(self.folder.path().join(ASKED)).expect("systemctl was asked");
        let starts = |line: &&str| line.contains("enable --now ") || line.contains("restart ");
        let last = asked.lines().rfind(starts).expect("a service is started");
        let service = last.rsplit(' ').next().expect("a name");
        service.trim_end_matches(".service").to_owned()
    }

    /// Starts the service that `systemctl` was asked to start. `packaged` is its unit where the commands wrote none.
    pub fn start_asked_service(&self, packaged: Option<&str>) -> Process {
        let name = self.asked_service();
        let files = format!(
            "for folder in /etc/systemd/system \"$HOME/.config/systemd/user\"; do\n\
             for file in $folder/{name}.service $folder/{name}.service.d/*.conf; do\n\
             [ ! -e $file ] || cat $file\ndone\ndone"
        );
        let unit = format!("{}\n{}", packaged.unwrap_or_default(), self.does(&files));
        self.start(
            &name,
            &command_of(&unit, &self.folder.path().display().to_string()),
        )
    }
}

/// The lines of a shell that do what a unit says.
fn command_of(unit: &str, home: &str) -> String {
    let (mut variables, mut files, mut folders) = (String::new(), String::new(), String::new());
    let (mut user, mut command) = (None, None);
    for (key, value) in unit.lines().filter_map(|line| line.split_once('=')) {
        let value = value.replace("%h", home);
        match key {
            "Environment" => variables += &format!("export {value}\n"),
            "EnvironmentFile" => {
                let file = value.trim_start_matches('-');
                files += &format!("[ ! -e {file} ] || {{ set -a; . {file}; set +a; }}\n");
            }
            "StateDirectory" => folders += &format!(" /var/lib/{value}"),
            "User" => user = Some(value),
            "ExecStart" => command = Some(value),
            _ => {}
        }
    }
    let command = command.expect("a unit runs something");
    let (owner, command) = match user {
        None => ("root".to_owned(), command),
        Some(user) => {
            let command = format!("setpriv --reuid={user} --regid={user} --clear-groups -- {command}");
            (user, command)
        }
    };
    for folder in folders.split_whitespace() {
        variables += &format!("mkdir -p {folder}; chown {owner}: {folder}\n");
    }
    // A file's variables win.
    format!("{variables}{files}{command}")
}
