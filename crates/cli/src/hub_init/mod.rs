//! `reveille hub init`: the keys of a hub, certificates for its servers, and the part of their configs that names both.

mod certificates;

use crate::{args::HubInit, client::line, failure::Failure};
use anyhow::Context;
use reveille_bus::access::HubKeys;
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

/// What a server's config includes.
const SERVER_CONFIG: &str = "nats-hub.conf";
/// The folder of the keys.
const KEYS: &str = "keys";
/// The folder belongs to its owner.
const OWNER_ONLY: u32 = 0o700;

/// Makes what is missing and says what is what.
pub fn run(args: &HubInit) -> Result<(), Failure> {
    let folder = &args.folder;
    let cannot = || format!("cannot use {}", folder.display());
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_ONLY)
        .create(folder)
        .with_context(cannot)?;
    let folder = folder.canonicalize().with_context(cannot)?;
    let keys = HubKeys::make(&folder.join(KEYS))?;
    let mut config = format!(
        "# Written by `reveille hub init`. It holds public keys only. A server's config includes it:\n#\n#   include \"{SERVER_CONFIG}\"\n\n{}",
        keys.server_config()?
    );
    if !args.hosts.is_empty() {
        config += &certificates::make(&folder, &args.hosts)?;
    }
    let file = folder.join(SERVER_CONFIG);
    fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    tell(&folder, !args.hosts.is_empty())
}

fn tell(folder: &Path, tls: bool) -> Result<(), Failure> {
    let shown = folder.display();
    line(&format!(
        "{shown}/{SERVER_CONFIG}    for the NATS servers: include it in their configs"
    ))?;
    line(&format!(
        "{shown}/{KEYS}/            for --nats-keys; a process needs its own files only:"
    ))?;
    line("    api.nk, issuer.nk, system.nk   an API replica")?;
    line("    projector.nk                   a projector, and `reveille rows rebuild`")?;
    line("    admin.nk                       `reveille journal` and `reveille doctor`")?;
    line("    subscriber.nk                  whoever follows reveille.facts.>")?;
    if tls {
        line(&format!(
            "{shown}/ca.pem             for --nats-ca, and for whoever connects by TLS"
        ))?;
        line(&format!(
            "{shown}/server.pem, server.key   the servers' certificate: good for --tls-cert and --tls-key too"
        ))?;
        line(&format!(
            "{shown}/ca.key             signs such certificates: keep it to yourself"
        ))?;
    }
    Ok(())
}
