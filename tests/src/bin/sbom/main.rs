//! `cargo xtask sbom`: what the programs consist of, as a CycloneDX bill of materials.
//!
//! The lock file says which packages there are and what their bytes hash to; `cargo metadata` says under which licence each
//! is, and which of them the `reveille` program is made of. Nothing in the document depends on when or where it was written.

mod lock;

use anyhow::{Context, Result, bail};
use clap::Parser;
use lock::Locked;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version of CycloneDX that is written.
const SPEC_VERSION: &str = "1.6";
/// What the document is about: the package of the program that people run.
const PRODUCT: &str = "reveille";
/// Where it goes unless it is told otherwise, below the project's folder.
const FILE: &str = "target/reveille.cdx.json";

/// Writes a CycloneDX bill of materials of this workspace.
#[derive(Debug, Parser)]
#[command(name = "sbom")]
struct Options {
    /// Where to write it [default: target/reveille.cdx.json].
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

fn main() -> Result<()> {
    let file = Options::parse().file.unwrap_or_else(|| root().join(FILE));
    let bom = of_this_workspace()?;
    let count = bom["components"].as_array().map_or(0, Vec::len);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(&file, serde_json::to_vec_pretty(&bom)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("{count} components in {}", file.display());
    Ok(())
}

/// The folder of the workspace.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The document for the lock file as committed.
fn of_this_workspace() -> Result<Value> {
    let file = root().join("Cargo.lock");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let locked = lock::parse(&text)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--locked"])
        .output();
    let output = output.context("cannot run `cargo metadata`")?;
    if !output.status.success() {
        bail!(
            "`cargo metadata` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata = serde_json::from_slice(&output.stdout).context("`cargo metadata` spoke no JSON")?;
    let bom = document(&metadata, &locked)?;
    check(&bom, &locked)?;
    Ok(bom)
}

/// A package as `cargo metadata` tells of it.
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    licence: Option<String>,
    description: Option<&'a str>,
    repository: Option<&'a str>,
}

impl<'a> Package<'a> {
    fn of(package: &'a Value) -> Result<Self> {
        let text = |key: &str| package[key].as_str();
        // Before SPDX expressions were asked for, a slash stood for "or".
        let licence = text("license").map(|licence| {
            let terms: Vec<_> = licence.split('/').map(str::trim).collect();
            terms.join(" OR ")
        });
        Ok(Self {
            name: text("name").context("a package has no name")?,
            version: text("version").context("a package has no version")?,
            licence,
            description: text("description"),
            repository: text("repository"),
        })
    }

    /// A `+` has a meaning of its own in URLs.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version.replace('+', "%2B"))
    }

    fn component(&self, kind: &str, scope: &str, checksum: Option<&str>) -> Value {
        let mut component = json!({
            "type": kind, "bom-ref": self.purl(), "name": self.name, "version": self.version, "purl": self.purl(), "scope": scope,
        });
        if let Some(checksum) = checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if let Some(licence) = &self.licence {
            component["licenses"] = json!([{ "expression": licence }]);
        }
        if let Some(description) = self.description {
            component["description"] = description.trim().into();
        }
        if let Some(url) = self.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
        }
        component
    }
}

/// The document: the product with the workspace's own crates in it, all packages from elsewhere, and who depends on whom.
fn document(metadata: &Value, locked: &[Locked]) -> Result<Value> {
    let packages = list(metadata, "packages")?;
    let by_id = packages.iter().map(|package| {
        let id = package["id"].as_str().context("a package has no id")?;
        Ok((id, (Package::of(package)?, package)))
    });
    let by_id: BTreeMap<&str, (Package<'_>, &Value)> = by_id.collect::<Result<_>>()?;
    let nodes = list(&metadata["resolve"], "nodes")?;
    let shipped = shipped(nodes, &by_id)?;
    let checksums: BTreeMap<_, _> = locked
        .iter()
        .map(|locked| ((locked.name.as_str(), locked.version.as_str()), locked))
        .collect();

    let (mut own, mut components, mut product) = (vec![], vec![], None);
    for (id, (package, raw)) in &by_id {
        let scope = if shipped.contains(id) {
            "required"
        } else {
            "excluded"
        };
        let found = checksums.get(&(package.name, package.version));
        let found = found.with_context(|| format!("{} is not in the lock file", package.purl()))?;
        let checksum = found.checksum.as_deref();
        if !raw["source"].is_null() {
            components.push(package.component("library", scope, checksum));
        } else if package.name == PRODUCT {
            product = Some(package.component("application", scope, None));
        } else {
            own.push(package.component("library", scope, None));
        }
    }
    let mut product = product.with_context(|| format!("the workspace has no package {PRODUCT}"))?;
    for list in [&mut own, &mut components] {
        list.sort_by_key(|component| component["purl"].to_string());
    }
    product["components"] = own.into();
    Ok(json!({
        "$schema": format!("http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"),
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": { "component": product },
        "components": components,
        "dependencies": dependencies(nodes, &by_id)?,
    }))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    value[key]
        .as_array()
        .map(Vec::as_slice)
        .with_context(|| format!("`cargo metadata` told of no {key}"))
}

/// The packages that become part of the product, or of what builds it: neither the tests' nor the project's own commands'.
fn shipped<'a>(
    nodes: &'a [Value],
    packages: &BTreeMap<&'a str, (Package<'_>, &Value)>,
) -> Result<BTreeSet<&'a str>> {
    let needs: BTreeMap<&str, &[Value]> = nodes
        .iter()
        .map(|node| Ok((node["id"].as_str().unwrap_or_default(), list(node, "deps")?)))
        .collect::<Result<_>>()?;
    let product = packages
        .iter()
        .find(|(_, (package, raw))| package.name == PRODUCT && raw["source"].is_null());
    let mut left: Vec<&str> = product.map(|(id, _)| *id).into_iter().collect();
    let mut shipped = BTreeSet::new();
    while let Some(id) = left.pop() {
        if !shipped.insert(id) {
            continue;
        }
        for needed in needs.get(id).copied().unwrap_or_default() {
            let kinds = list(needed, "dep_kinds")?;
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                left.extend(needed["pkg"].as_str());
            }
        }
    }
    Ok(shipped)
}

fn dependencies(nodes: &[Value], packages: &BTreeMap<&str, (Package<'_>, &Value)>) -> Result<Vec<Value>> {
    let purl = |id: &Value| {
        let found = id.as_str().and_then(|id| packages.get(id));
        found
            .map(|(package, _)| package.purl())
            .context("a dependency is no package")
    };
    let of_node = |node: &Value| {
        let needs = list(node, "dependencies")?.iter().map(purl);
        Ok((purl(&node["id"])?, needs.collect::<Result<BTreeSet<_>>>()?))
    };
    let all: BTreeMap<String, BTreeSet<String>> = nodes.iter().map(of_node).collect::<Result<_>>()?;
    Ok(all
        .into_iter()
        .map(|(of, needs)| json!({ "ref": of, "dependsOn": needs }))
        .collect())
}

/// Whether the document names every package of the lock file that comes from elsewhere, and no other, each with all that
/// makes it one: a document with a gap is worse than none.
fn check(bom: &Value, locked: &[Locked]) -> Result<()> {
    let mut missing: BTreeSet<_> = locked
        .iter()
        .filter(|locked| locked.checksum.is_some())
        .map(|locked| {
            (
                locked.name.as_str(),
                locked.version.as_str(),
                locked.checksum.as_deref(),
            )
        })
        .collect();
    for component in list(bom, "components")? {
        let text = |key: &str| component[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        let hash = component["hashes"][0]["content"].as_str();
        if !missing.remove(&(name, version, hash)) {
            bail!("{name} {version} is not in the lock file with the hash {hash:?}");
        }
        if component["licenses"][0]["expression"]
            .as_str()
            .is_none_or(str::is_empty)
        {
            bail!("{name} {version} names no licence");
        }
        if text("purl") != format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")) {
            bail!("{name} {version} has the purl {}", text("purl"));
        }
    }
    if let Some((name, version, _)) = missing.first() {
        bail!("{name} {version} is in the lock file and not in the document");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
