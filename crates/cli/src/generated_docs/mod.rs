//! Generates parts of the documentation. The tables of docs/configuration.md: keys from the schema of config files, flags and
//! variables from the command line. That of docs/clients.md: the paths that reach a backend. Tests compare the schema with the agent's reader.

mod flags;
mod keys;
mod paths;
mod reader;

use std::{fmt::Write as _, fs, path::PathBuf};

/// Begins a generated table, whose name follows; [`END`] ends it.
const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";

/// The table with this name.
fn table(name: &str) -> String {
    match name {
        "flags" => flags::table(),
        section => keys::table(section),
    }
}

/// The page with up-to-date parts.
fn written(page: &str, part_of: &dyn Fn(&str) -> String) -> String {
    let mut parts = page.split(BEGIN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(" -->\n").expect("the marker's end");
        let (_, after) = rest.split_once(END).expect("the part's end");
        write!(text, "{BEGIN}{name} -->\n\n{}\n{END}{after}", part_of(name)).expect("a string takes it");
    }
    text
}

/// Asserts that a page, whose path is the repository's, has the parts with these names as `part_of` makes them; updates it if
/// it is told so.
pub fn assert_up_to_date(page: &str, names: &[&str], part_of: &dyn Fn(&str) -> String) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
    let text = fs::read_to_string(&file).unwrap();
    let there: Vec<_> = text
        .split(BEGIN)
        .skip(1)
        .filter_map(|part| part.split(" -->").next())
        .collect();
    assert_eq!(there, names, "each part once, in this order");
    let expected = written(&text, part_of);
    if std::env::var_os("REVEILLE_TEST_UPDATE").is_some() {
        return fs::write(&file, expected).unwrap();
    }
    assert!(
        text == expected,
        "{page} is out of date. To update it:\n  REVEILLE_TEST_UPDATE=1 cargo test -p reveille --bins generated"
    );
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
    let mut names: Vec<_> = keys::SECTIONS.iter().map(|section| section.0).collect();
    names.push("flags");
    assert_up_to_date("docs/configuration.md", &names, &table);
    assert_up_to_date("docs/clients.md", &["paths"], &|_| paths::table());
}
