//! The licences of the packages that the program is made of, in one text. Each text stands in it once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::command::{cargo, output_of};

/// How the names of files with a licence begin.
const LICENCES: [&str; 5] = ["license", "licence", "copying", "copyright", "notice"];

/// Of all crates that are compiled into the program.
pub fn of_crates() -> Result<String> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--locked",
        "--package",
        "reveille",
        "--edges",
        "normal,no-proc-macro",
    ]);
    tree.args(["--prefix", "none", "--format", "{p}\t{l}"]);
    let tree = output_of(&mut tree).context("cargo doesn't tell the dependencies")?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let metadata = output_of(&mut metadata).context("cargo doesn't tell where its packages are")?;
    let folders = folders(&metadata);

    let mut list = String::new();
    let mut texts: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let crates: BTreeSet<_> = tree.lines().filter_map(from_elsewhere).collect();
    for (name, version, licence) in crates {
        let package = format!("{name}-{version}");
        let folder = folders
            .get(&package)
            .with_context(|| format!("cargo doesn't tell where {package} is"))?;
        writeln!(list, "{name} {version}: {licence}")?;
        for text in texts_of(folder)? {
            // The same text often has other line ends.
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, of) = texts.entry(words).or_insert_with(|| (text, BTreeSet::new()));
            of.insert(format!("{name} {version}"));
        }
    }
    let mut all = format!("Reveille contains these packages of other authors:\n\n{list}");
    for (text, of) in texts.values() {
        let of: Vec<_> = of.iter().map(String::as_str).collect();
        write!(
            all,
            "\n{}\n{}\n\n{}\n",
            "─".repeat(80),
            of.join(", "),
            text.trim()
        )?;
    }
    Ok(all)
}

/// Name, version and licence of a line of `cargo tree`; none of a package of the workspace, whose line has its folder.
fn from_elsewhere(line: &str) -> Option<(&str, &str, &str)> {
    let (package, licence) = line.split_once('\t')?;
    let (name, version) = package.split_once(" v")?;
    (!version.contains('(')).then_some((name, version, licence.trim_end_matches(" (*)")))
}

/// The folder of each package, by the folder's name, which is the package's with its version. Paths with quotes aren't
/// supported, as in [`crate::test`].
fn folders(metadata: &str) -> BTreeMap<String, PathBuf> {
    let manifests = metadata.split(r#""manifest_path":""#).skip(1);
    let folders = manifests.filter_map(|rest| Path::new(rest.split('"').next()?).parent());
    folders
        .filter_map(|folder| Some((folder.file_name()?.to_str()?.to_owned(), folder.to_owned())))
        .collect()
}

/// The texts of licences in a folder, and in its folders for them.
fn texts_of(folder: &Path) -> Result<Vec<String>> {
    let mut texts = vec![];
    for file in files(folder)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        if !LICENCES.iter().any(|begin| name.starts_with(begin)) || name.ends_with(".rs") {
            continue;
        }
        let files = if file.is_dir() { files(&file)? } else { vec![file] };
        for file in files {
            texts.push(text(&file)?);
        }
    }
    Ok(texts)
}

/// Sorted, so that each run finds them in the same order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || format!("cannot read {}", folder.display());
    let files = fs::read_dir(folder).with_context(read)?;
    let files = files.map(|file| file.map(|file| file.path()));
    let mut files: Vec<_> = files.collect::<Result<_, _>>().with_context(read)?;
    files.sort();
    Ok(files)
}

fn text(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_program_is_named_with_its_licence_and_few_have_no_text() {
        let all = of_crates().expect("cargo knows them");
        let (list, texts) = all.split_once('─').expect("a text follows the list");
        let crates: Vec<_> = list.lines().filter_map(|line| line.split_once(": ")).collect();
        assert!(crates.len() > 200, "only {} crates", crates.len());
        assert!(crates.iter().all(|(_, licence)| !licence.is_empty()), "{list}");
        let without: Vec<_> = crates.iter().filter(|(name, _)| !texts.contains(name)).collect();
        assert!(without.len() < 10, "{without:?}");
        assert!(
            !list.contains("reveille-") && !list.contains("proptest"),
            "{list}"
        );
    }
}
