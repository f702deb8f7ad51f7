//! Generates the tables of docs/configuration.md: keys from the schema of config files, flags and variables from the
//! command line. Tests compare the schema with the agent's reader.

mod flags;
mod keys;
mod reader;

use std::{fmt::Write as _, fs, path::PathBuf};

/// Begins a generated table, whose name follows; [`END`] ends it.
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md")
}

/// The table with this name.
fn table(name: &str) -> String {
    match name {
        "flags" => flags::table(),
        section => keys::table(section),
    }
}

/// The page with up-to-date tables.
fn written(page: &str) -> String {
    let mut parts = page.split(BEGIN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").expect("the marker's end");
        let (_, after) = rest.split_once(END).expect("the table's end");
        write!(text, "{BEGIN}{name} -->\n\n{}\n{END}{after}", table(name)).expect("a string takes it");
    }
    text
}

/// A table's rows below its heading, in Markdown.
fn markdown(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heading: Vec<_> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = line(&heading) + &"|---".repeat(heading.len()) + "|\n";
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        text += &line(&cells);
    }
    text
}

#[test]
fn the_generated_tables_are_up_to_date() {
    let page = fs::read_to_string(page()).unwrap();
    let names: Vec<_> = page
        .split(BEGIN)
        .skip(1)
        .filter_map(|part| part.split(" -->").next())
        .collect();
    let mut expected: Vec<_> = keys::SECTIONS.iter().map(|section| section.0).collect();
    expected.push("flags");
    assert_eq!(names, expected, "each table once, in this order");
    if std::env::var_os("REVEILLE_TEST_UPDATE").is_some() {
        return fs::write(self::page(), written(&page)).unwrap();
    }
    assert!(
        page == written(&page),
        "docs/configuration.md is out of date. To update it:\n  \
         REVEILLE_TEST_UPDATE=1 cargo test -p reveille --bins the_generated_tables"
    );
}
