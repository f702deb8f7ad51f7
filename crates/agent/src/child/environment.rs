//! What a command sees of the agent's environment: what this list names, so that the agent's secrets stay its own.
//!
//! The agent's environment holds the variables that its config fills in (keys of backends, above all), Reveille's own
//! (passwords of databases are in URLs) and a service manager's. Backends need none of that. They do need to find
//! programs, homes, caches, libraries, GPUs and the user's session.

use std::ffi::{OsStr, OsString};

/// Passed by name.
const NAMES: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    // Where libraries are: those of CUDA and ROCm often aren't where the system looks.
    "LD_LIBRARY_PATH",
    // What `systemctl --user` talks to.
    "DBUS_SESSION_BUS_ADDRESS",
    // Who is trusted, for backends that fetch models.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GPU_DEVICE_ORDINAL",
    "OMP_NUM_THREADS",
    "HF_HOME",
];
/// Passed by how the name begins: locale, folders of the user, and what chooses and tunes GPUs.
const PREFIXES: [&str; 11] = [
    "LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "ZE_", "ONEAPI_",
];
/// Reveille's own variables. None reaches a command, whatever a config says.
pub(crate) const OWN: &str = "REVEILLE_";

/// What is passed of the agent's variables to a command whose config names `more` of them.
pub(super) fn passed(
    agents: impl Iterator<Item = (OsString, OsString)>,
    more: &[String],
) -> impl Iterator<Item = (OsString, OsString)> {
    agents.filter(move |(name, _)| passes(name, more))
}

fn passes(name: &OsStr, more: &[String]) -> bool {
    let Some(name) = name.to_str() else { return false };
    let known = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    !name.starts_with(OWN) && (known || more.iter().any(|more| more == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_or_named_passes_and_nothing_of_reveilles_does() {
        let more = ["VLLM_KEY", "REVEILLE_NATS_URL"].map(str::to_owned);
        for name in NAMES
            .into_iter()
            .chain(["LC_ALL", "XDG_RUNTIME_DIR", "CUDA_VISIBLE_DEVICES", "VLLM_KEY"])
        {
            assert!(passes(name.as_ref(), &more), "{name}");
        }
        for name in [
            "REVEILLE_NATS_URL",
            "REVEILLE_DATABASE_URL",
            "START_KEY",
            "NOTIFY_SOCKET",
            "path",
            "PATHS",
            "",
        ] {
            assert!(!passes(name.as_ref(), &more), "{name}");
        }
    }
}
