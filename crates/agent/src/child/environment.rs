//! The part of the agent's environment that a command sees: a list of names, so that the agent's secrets stay with the agent.
//!
//! The agent's environment has the variables that its config refers to (above all keys of backends), Reveille's own (URLs
//! with database passwords) and the service manager's. Backends need none of those. They do need to find programs, homes,
//! caches, libraries, GPUs and the user's session.

use crate::config::OWN_VARIABLES;
use std::ffi::{OsStr, OsString};

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
    // CUDA's and ROCm's libraries often aren't where the system looks.
    "LD_LIBRARY_PATH",
    // For `systemctl --user`.
    "DBUS_SESSION_BUS_ADDRESS",
    // For backends that download models.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GPU_DEVICE_ORDINAL",
    "OMP_NUM_THREADS",
    "HF_HOME",
];
/// Prefixes of further names: the locale, the user's folders, and the choice and tuning of GPUs.
const PREFIXES: [&str; 11] = [
    "LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "HSA_", "ROCR_", "ROCM_", "ZE_", "ONEAPI_",
];
/// The agent's variables that reach a command whose config names `more` of them. Reveille's own never do.
pub(super) fn passed(
    agents: impl Iterator<Item = (OsString, OsString)>,
    more: &[String],
) -> impl Iterator<Item = (OsString, OsString)> {
    agents.filter(move |(name, _)| passes(name, more))
}

/// Whether the agent has a variable that a command doesn't get which names `more` of them.
pub(super) fn is_held_back(name: &str, more: &[String]) -> bool {
    let could_pass = !name.starts_with(OWN_VARIABLES);
    could_pass && std::env::var_os(name).is_some() && !passes(name.as_ref(), more)
}

fn passes(name: &OsStr, more: &[String]) -> bool {
    let Some(name) = name.to_str() else { return false };
    let known = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    !name.starts_with(OWN_VARIABLES) && (known || more.iter().any(|more| names(more, name)))
}

/// Whether an entry of `env_pass` is this name, or the beginning of it in the form `HF_*`.
fn names(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == entry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_or_named_passes_and_nothing_of_reveilles_does() {
        let more = ["VLLM_KEY", "HF_*", "REV*", "REVEILLE_NATS_URL"].map(str::to_owned);
        for name in NAMES.into_iter().chain([
            "LC_ALL",
            "XDG_RUNTIME_DIR",
            "CUDA_VISIBLE_DEVICES",
            "VLLM_KEY",
            "HF_TOKEN",
        ]) {
            assert!(passes(name.as_ref(), &more), "{name}");
        }
        for name in [
            "REVEILLE_NATS_URL",
            "REVEILLE_DATABASE_URL",
            "START_KEY",
            "VLLM_KEYS",
            "HF",
            "NOTIFY_SOCKET",
            "path",
            "PATHS",
            "",
        ] {
            assert!(!passes(name.as_ref(), &more), "{name}");
        }
    }
}
