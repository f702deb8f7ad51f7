//! `reveille hub init`: a hub's keys, certificates for its servers, and config files that name both.

pub mod certificates;

use crate::{client::line, failure::Failure};
use anyhow::Context;
use clap::{Args, Subcommand};
use reveille_bus::{access::HubKeys, private_file};
use std::{
    fs,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  reveille hub init hub                                     keys only, for servers on loopback
  reveille hub init hub --host hub.example --host 192.0.2.1  keys, a certificate authority and a server certificate

`up` with its own NATS server needs none of this.";

/// `reveille hub …`.
#[derive(Debug, Subcommand)]
pub enum HubCommand {
    /// Create a hub's keys and the files that its NATS servers' configs include; adds what is missing when run again.
    Init(HubInit),
}

/// `reveille hub init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HubInit {
    /// The folder to create them in.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// A host name or address of the servers, for a new TLS certificate; may be repeated. Without it an existing one is kept.
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
}

/// The file that a server's config includes.
const SERVER_CONFIG: &str = "nats-hub.conf";
/// The file that the `cluster` block of a server's config includes.
const ROUTES_CONFIG: &str = "nats-routes.conf";
const WRITTEN: &str = "# Written by `reveille hub init`, for NATS servers' configs to include.\n";
/// The folder of the keys.
const KEYS: &str = "keys";

/// Creates what is missing, and lists the files.
pub fn run(args: &HubInit) -> Result<(), Failure> {
    let folder = &args.folder;
    let cannot = || format!("cannot use {}", folder.display());
    private_file::make_folder(folder).with_context(cannot)?;
    let folder = folder.canonicalize().with_context(cannot)?;
    let keys = HubKeys::make(&folder.join(KEYS))?;
    let mut config = format!(
        "{WRITTEN}# It contains public keys only.\n\n{}",
        keys.server_config()?
    );
    let mut routes = WRITTEN.to_owned();
    let tls = match &args.hosts[..] {
        [] => certificates::earlier(&folder)?,
        hosts => Some(certificates::make(&folder, hosts)?),
    };
    let has_tls = tls.is_some();
    if let Some(tls) = tls {
        config += &tls.for_clients;
        routes += &tls.for_routes;
    } else {
        routes += "# There is no certificate, so routes are in plaintext and open to anyone: keep them on \
         loopback.\n";
    }
    for (name, text) in [(SERVER_CONFIG, config), (ROUTES_CONFIG, routes)] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    tell(&folder, has_tls)
}

fn tell(folder: &Path, tls: bool) -> Result<(), Failure> {
    let files = [
        (SERVER_CONFIG, "included by the configs of the NATS servers"),
        (ROUTES_CONFIG, "included by their cluster blocks, in a cluster"),
        ("keys/", "for --nats-keys; each process needs only its own files:"),
        ("  api.nk, issuer.nk, system.nk", "an API replica"),
        ("  projector.nk", "a projector, and `reveille rows rebuild`"),
        ("  admin.nk", "`reveille journal` and `reveille doctor`"),
        ("  subscriber.nk", "subscribers of reveille.facts.>"),
    ];
    let certificates = [
        ("ca.pem", "for --nats-ca, and for other TLS clients"),
        (
            "server.pem, server.key",
            "the servers' certificate; for --tls-cert and --tls-key too",
        ),
        ("ca.key", "signs certificates: keep it secret"),
    ];
    line(&format!("{}:", folder.display()))?;
    let certificates = if tls { &certificates[..] } else { &[] };
    for (file, what) in files.iter().chain(certificates) {
        line(&format!("  {file:<32} {what}"))?;
    }
    Ok(())
}
