//! How this process is restarted, for what a reload can't change.

use std::{fs, process};

/// Where the kernel says which control groups a process is in; systemd names them after its units.
const CONTROL_GROUPS: &str = "/proc/self/cgroup";
const OWN_UNITS: &str = "reveille";

/// The command that restarts this process, as a clause.
pub(crate) fn how_to_restart() -> String {
    let groups = fs::read_to_string(CONTROL_GROUPS).unwrap_or_default();
    restart_in(&groups, process::id())
}

fn restart_in(groups: &str, process: u32) -> String {
    let unit = groups.lines().find_map(|line| {
        let (above, last) = line.rsplit_once('/')?;
        let unit = last.strip_suffix(".service")?;
        let user = if above.contains("/user@") { " --user" } else { "" };
        unit.starts_with(OWN_UNITS)
            .then(|| format!("`systemctl{user} restart {unit}`"))
    });
    unit.unwrap_or_else(|| {
        format!("`kill {process}` ends it, and the command that started it starts it again")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_restarted_by_systemd_and_any_other_process_as_it_was_started() {
        let killed = "`kill 7` ends it, and the command that started it starts it again";
        for (groups, restart) in [
            (
                "0::/system.slice/reveille-agent.service\n",
                "`systemctl restart reveille-agent`",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/reveille-agent.service\n",
                "`systemctl --user restart reveille-agent`",
            ),
            (
                "12:pids:/\n1:name=systemd:/system.slice/reveille.service\n",
                "`systemctl restart reveille`",
            ),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", killed),
            ("0::/system.slice/cron.service\n", killed),
            ("0::/\n", killed),
            ("", killed),
        ] {
            assert_eq!(restart_in(groups, 7), restart, "{groups}");
        }
    }
}
