//! The pages of the documentation, and the snippets in them.

use super::root;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where no page of ours is.
const NOT_OURS: [&str; 3] = ["target", ".tools", ".git"];

/// A fenced block of a page.
#[derive(Debug)]
pub(super) struct Block {
    /// The page, from the project's folder.
    pub(super) page: String,
    line: usize,
    /// What stands behind the fence.
    pub(super) language: String,
    /// Without the indentation of the list that it stands in.
    pub(super) text: String,
}

impl Block {
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

/// Every page, by its path from the project's folder.
pub(super) fn pages() -> Vec<(String, String)> {
    let mut files = vec![];
    find(root(), &mut files);
    files.sort();
    assert!(files.len() > 10, "the pages were not found: {files:?}");
    let page = |file: PathBuf| {
        let name = file.strip_prefix(root()).expect("a page of the project");
        let text = fs::read_to_string(&file).expect("a page");
        (name.display().to_string(), text)
    };
    files.into_iter().map(page).collect()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of pages") {
        let path = entry.expect("a file").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !NOT_OURS.contains(&name.as_str()) {
            find(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            files.push(path);
        }
    }
}

/// Every block of every page, but for those that a program writes: a test of that program compares them.
pub(super) fn blocks() -> Vec<Block> {
    pages()
        .iter()
        .flat_map(|(page, text)| blocks_in(page, text))
        .collect()
}

fn blocks_in(page: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = vec![];
    let mut open: Option<Block> = None;
    let (mut after_empty, mut generated) = (true, false);
    for (index, line) in text.lines().enumerate() {
        generated = line.starts_with("<!-- generated: ") || generated && line != "<!-- end of generated -->";
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                open = Some(Block {
                    page: page.to_owned(),
                    line: index + 1,
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take().filter(|_| !generated)),
            (Some(block), None) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => assert!(
                !(after_empty && line.starts_with("    ")),
                "{page}:{}: a snippet by indentation alone is not seen by the tests; use a fence",
                index + 1
            ),
        }
        after_empty = line.is_empty();
    }
    assert!(open.is_none(), "{page}: a block has no end: {open:?}");
    blocks.iter_mut().for_each(without_indentation);
    blocks
}

fn without_indentation(block: &mut Block) {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let lines = block.text.lines().filter(|line| !line.is_empty());
    let least = lines.map(indentation).min().unwrap_or_default();
    let lines = block
        .text
        .lines()
        .map(|line| line.get(least..).unwrap_or_default());
    block.text = lines.collect::<Vec<_>>().join("\n");
}

/// How numbers are written on the pages.
const NUMBERS: [&str; 21] = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// How many commands a person runs for these blocks, in words. What only sets variables is none.
pub fn commands(blocks: &[&str]) -> &'static str {
    let count: usize = blocks.iter().map(|block| commands_in(block)).sum();
    NUMBERS.get(count).expect("a number with a word")
}

fn commands_in(block: &str) -> usize {
    let sets = |word: &str| word == "export" || word.contains('=');
    let mut lines = block.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line.split_whitespace().all(sets) {
            continue;
        }
        count += 1;
        if let Some((_, end)) = line.split_once("<<") {
            lines.by_ref().find(|line| *line == end);
        }
        let mut continues = line.ends_with('\\');
        while continues {
            continues = lines.next().is_some_and(|line| line.ends_with('\\'));
        }
    }
    count
}

/// Fails unless a page has this sentence, wherever its lines break.
pub fn assert_says(page: &str, sentence: &str) {
    let text = fs::read_to_string(root().join(page)).expect("a page");
    let words: Vec<_> = text.split_whitespace().collect();
    let said = words.join(" ").to_lowercase();
    assert!(
        said.contains(&sentence.to_lowercase()),
        "{page} doesn't say: {sentence}"
    );
}
