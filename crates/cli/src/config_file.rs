//! Where the config file is, and what it says of the hub.

use crate::data_dir;
use reveille_agent::config::Config;
use reveille_bus::is_loopback_host;
use std::path::{Path, PathBuf};
use url::Url;

/// The name of a config file, in the working directory or the data directory.
pub const CONFIG_FILE: &str = "reveille.toml";

/// The config file in the working directory.
pub fn file_here() -> Option<PathBuf> {
    let here = Path::new(CONFIG_FILE);
    here.exists().then(|| here.canonicalize().ok()).flatten()
}

/// The config file where none is named: the one in the working directory, or else the one in the data directory.
pub fn default_file(data_dir: Option<&Path>) -> Option<PathBuf> {
    if let Some(here) = file_here() {
        return Some(here);
    }
    let folder = data_dir.map_or_else(|| data_dir::default_path().ok(), |folder| Some(folder.to_owned()));
    let file = folder?.join(CONFIG_FILE);
    file.exists().then(|| file.canonicalize().ok()).flatten()
}

/// The NATS server that a config names, if it is another machine's: that of the hub which this machine has joined.
pub fn hub_elsewhere(file: &Path) -> Option<Url> {
    let nats = Config::load(file).ok()?.agent.nats?;
    let first = Url::parse(nats.as_str().split(',').next()?).ok()?;
    let is_here = first.host_str().is_some_and(is_loopback_host);
    (!is_here).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_hub_is_elsewhere_unless_the_config_names_this_machine_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(CONFIG_FILE);
        for (nats, elsewhere) in [
            ("", None),
            ("nats = \"nats://127.0.0.1:4222\"\n", None),
            (
                "nats = \"tls://10.77.0.1:8422,tls://hub:8422\"\n",
                Some("tls://10.77.0.1:8422"),
            ),
        ] {
            fs::write(&file, format!("[agent]\nname = \"pc\"\n{nats}")).unwrap();
            let found = hub_elsewhere(&file);
            assert_eq!(found.as_ref().map(Url::as_str), elsewhere);
        }
        assert_eq!(hub_elsewhere(&folder.path().join("none")), None);
    }
}
