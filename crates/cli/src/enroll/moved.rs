//! A hub that has moved: the config of a machine that has joined names an address at which the hub no longer is. `join` with a new token
//! finds it, and corrects that line of the config. All else in the file stays as it is.

use super::hub_nats::{self, Hub};
use crate::{failure::Failure, whole_file};
use anyhow::Context;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use reveille_agent::config::{AgentConfig, places};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;
use toml::de::DeTable;

/// Where a NATS server listens whose URL names no port.
const NATS_PORT: u16 = 4222;

/// A config with the hub's new address, which [`Correction::place`] puts in the place of the earlier one.
#[derive(Debug)]
pub struct Correction {
    file: PathBuf,
    corrected: NamedTempFile,
    line: usize,
}

/// The hub's addresses as the config needs them, unless those that it has lead to the hub too: somebody may have chosen them.
pub async fn address(agent: &AgentConfig, hub: &Hub, given: Option<&str>) -> Option<String> {
    let now = given.unwrap_or(&hub.nats);
    let configured = agent.nats.as_ref()?.as_str();
    let known: Vec<_> = configured.split(',').map(host_and_port).collect();
    if now.split(',').any(|url| known.contains(&host_and_port(url))) {
        return None;
    }
    if given.is_some() {
        return Some(now.to_owned());
    }
    // Only such a server can be recognised.
    let pem = hub.ca_pem.as_ref()?;
    if !configured.split(',').all(|url| url.trim().starts_with("tls://")) {
        return None;
    }
    let authority = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let fingerprint = BASE64.encode(Sha256::digest(&authority));
    let found = hub_nats::find(&known, &fingerprint).await;
    found.is_err().then(|| now.to_owned())
}

/// What of a NATS URL says where it leads.
fn host_and_port(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let is_bare = address.ends_with(']') || !has_port;
    match is_bare {
        true => format!("{address}:{NATS_PORT}"),
        false => address.to_owned(),
    }
}

/// Prepares the config with this address of the hub.
///
/// # Errors
/// When the line can't be replaced or the file can't be written.
pub fn correct(file: &Path, nats: &str) -> Result<Correction, Failure> {
    // A link stays, and leads to the corrected file.
    let file = file.canonicalize()?;
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let line = places(&text).get("agent.nats").map_or(1, |place| place.line);
    let cannot = |why: String| {
        Failure::Config(format!(
            "the hub isn't at the address in line {line} of {} any more, and that line can't be corrected here: {why}. Make it\n\
             nats = {}\nand run the same command again",
            file.display(),
            toml::Value::from(nats)
        ))
    };
    let corrected = with_nats(&text, nats).map_err(cannot)?;
    let written = || {
        let metadata = file.metadata()?;
        let mut partial = whole_file::begin(&file, metadata.permissions().mode() & 0o777)?;
        partial.write_all(corrected.as_bytes())?;
        if partial.as_file().metadata()?.uid() != metadata.uid() {
            fchown(partial.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
        }
        std::io::Result::Ok(partial)
    };
    let corrected = written().map_err(|error| cannot(error.to_string()))?;
    Ok(Correction {
        file,
        corrected,
        line,
    })
}

/// The text with another `agent.nats`.
fn with_nats(text: &str, nats: &str) -> Result<String, String> {
    if places(text)
        .get("agent.nats")
        .is_some_and(|place| !place.variables.is_empty())
    {
        return Err("its value comes from the environment".to_owned());
    }
    let span = || {
        let root = DeTable::parse(text).ok()?;
        let agent = root.get_ref().get("agent")?.get_ref().as_table()?;
        Some(agent.get("nats")?.span())
    };
    let span = span().ok_or("it isn't found")?;
    let (Some(before), Some(after)) = (text.get(..span.start), text.get(span.end..)) else {
        return Err("it isn't found".to_owned());
    };
    Ok(format!("{before}{}{after}", toml::Value::from(nats)))
}

impl Correction {
    /// Puts the corrected file in its place, and returns the number of the line that has changed.
    pub fn place(self) -> Result<usize, Failure> {
        let shown = self.file.display().to_string();
        whole_file::place(self.corrected, &self.file, true)
            .with_context(|| format!("cannot write {shown}"))?;
        Ok(self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_changes_in_the_config() {
        let text = "# Mine.\n[agent]\nname = 'pc' # nats = 'no'\nnats = 'tls://10.9.0.1:8422'   # the hub\n\n[[provider]]\nname = 'p' # last";
        let corrected = with_nats(text, "tls://10.9.0.7:8422").unwrap();
        assert_eq!(
            corrected,
            text.replace("'tls://10.9.0.1:8422'", "\"tls://10.9.0.7:8422\"")
        );
        let inline = with_nats("agent = { nats = \"a\", name = \"pc\" }", "b").unwrap();
        assert_eq!(inline, "agent = { nats = \"b\", name = \"pc\" }");
    }

    #[test]
    fn a_line_that_cannot_be_corrected_is_named_with_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("reveille.toml");
        fs::write(&file, "[agent]\nname = 'pc'\nnats = '${HUB}'\n").unwrap();
        let said = correct(&file, "tls://b:1").unwrap_err().to_string();
        for part in [
            "in line 3 of ",
            "comes from the environment",
            "\nnats = \"tls://b:1\"\n",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn the_corrected_file_keeps_its_mode_and_a_link_to_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["own.toml", "reveille.toml"].map(|name| folder.path().join(name));
        fs::write(&file, "[agent]\nname = 'pc'\nnats = 'tls://a:1'\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(correct(&link, "tls://b:1").unwrap().place().unwrap(), 3);
        assert!(link.is_symlink());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let text = fs::read_to_string(&link).unwrap();
        assert_eq!(text, "[agent]\nname = 'pc'\nnats = \"tls://b:1\"\n");
    }

    #[test]
    fn addresses_are_compared_with_their_ports() {
        for (url, address) in [
            ("tls://hub.example/", "hub.example:4222"),
            (" tls://10.0.0.1:8422", "10.0.0.1:8422"),
            ("tls://[fd00::2]", "[fd00::2]:4222"),
            ("tls://[fd00::2]:1", "[fd00::2]:1"),
        ] {
            assert_eq!(host_and_port(url), address);
        }
    }
}
