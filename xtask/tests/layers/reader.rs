//! Reads the modules of a crate and the paths by which each names others, from its source files.

use crate::tokens::{Token, tokens};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// How many re-exports may lead from a path to the module that defines what it names.
const MOST_REEXPORTS: usize = 16;

/// A module, and what it imports from its own crate.
pub struct Module {
    /// Its path below the crate; empty for the root.
    pub path: Vec<String>,
    /// Its file below the crate's `src`.
    pub file: String,
    pub imports: Vec<Import>,
}

/// An import from the same crate.
pub struct Import {
    /// The path as the file has it.
    pub written: Vec<String>,
    /// The module that defines what it names; empty for the root.
    pub module: Vec<String>,
}

/// The modules below a crate's `src`, without those that are for tests only.
pub fn read(source: &Path) -> Vec<Module> {
    let root = ["lib.rs", "main.rs"]
        .into_iter()
        .find(|root| source.join(root).is_file());
    let root = root.unwrap_or_else(|| panic!("{} has no lib.rs and no main.rs", source.display()));
    let mut files = vec![(vec![], root.to_owned())];
    let mut found = vec![];
    while let Some((path, file)) = files.pop() {
        let text = fs::read_to_string(source.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut scan = Scan::default();
        scan.module(&tokens(&text), 0, &path);
        for child in scan.declared {
            files.push((child.clone(), file_of(source, &child)));
        }
        found.extend(scan.modules.into_iter().map(|found| (file.clone(), found)));
    }
    let names = Names::of(found.iter().map(|(_, module)| module));
    let module = |(file, module): (String, Found)| Module {
        imports: module
            .paths
            .iter()
            .filter_map(|used| {
                let path = names.absolute(&module.path, used)?;
                let written = used.segments.clone();
                Some(Import {
                    written,
                    module: names.defining(path),
                })
            })
            .collect(),
        path: module.path,
        file,
    };
    found.into_iter().map(module).collect()
}

fn file_of(source: &Path, module: &[String]) -> String {
    let path = module.join("/");
    let file = format!("{path}.rs");
    if source.join(&file).is_file() {
        file
    } else {
        format!("{path}/mod.rs")
    }
}

/// A module as its file has it.
struct Found {
    path: Vec<String>,
    paths: Vec<Used>,
}

/// A path that a module names.
struct Used {
    segments: Vec<String>,
    /// The name that a `use` gives it here.
    name: Option<String>,
}

/// What each module of the crate declares.
struct Names {
    modules: BTreeSet<Vec<String>>,
    uses: BTreeMap<Vec<String>, Vec<String>>,
}

impl Names {
    fn of<'a>(found: impl Iterator<Item = &'a Found> + Clone) -> Self {
        let mut names = Self {
            modules: found.clone().map(|module| module.path.clone()).collect(),
            uses: BTreeMap::new(),
        };
        for module in found {
            for used in &module.paths {
                if let (Some(name), Some(path)) = (&used.name, names.absolute(&module.path, used)) {
                    names.uses.insert(child(&module.path, name), path);
                }
            }
        }
        names
    }

    /// The path from the crate's root; `None` for one that leads out of the crate.
    fn absolute(&self, module: &[String], used: &Used) -> Option<Vec<String>> {
        let mut path = module.to_vec();
        let mut segments = used.segments.iter().map(String::as_str).peekable();
        match segments.peek()? {
            &"crate" => path.clear(),
            &"self" | &"super" => {}
            first if used.name.is_some() && self.modules.contains(&child(module, first)) => {}
            _ => return None,
        }
        for segment in segments {
            match segment {
                "crate" | "self" => {}
                "super" => {
                    path.pop();
                }
                name => path.push(name.to_owned()),
            }
        }
        Some(path)
    }

    /// The module that defines what a path names, through the re-exports on its way.
    fn defining(&self, mut path: Vec<String>) -> Vec<String> {
        for _ in 0..MOST_REEXPORTS {
            let known = (0..=path.len())
                .rev()
                .find(|end| self.modules.contains(&path[..*end]));
            let known = known.unwrap_or(0);
            let next = path.get(..=known).and_then(|named| self.uses.get(named));
            match next {
                Some(target) => path = [target, &path[known + 1..]].concat(),
                None => return path[..known].to_vec(),
            }
        }
        path
    }
}

fn child(module: &[String], name: &str) -> Vec<String> {
    [module, &[name.to_owned()]].concat()
}

/// Walks the tokens of a file.
#[derive(Default)]
struct Scan {
    modules: Vec<Found>,
    /// The modules that have files of their own.
    declared: Vec<Vec<String>>,
}

impl Scan {
    /// Reads one module from `here` to its end, and returns where that is.
    fn module(&mut self, tokens: &[Token], mut here: usize, path: &[String]) -> usize {
        let mut found = Found {
            path: path.to_vec(),
            paths: vec![],
        };
        let mut depth = 0_usize;
        while here < tokens.len() {
            let word = |offset: usize| tokens.get(here + offset).and_then(Token::word);
            let sign = |offset: usize, sign: char| tokens.get(here + offset) == Some(&Token::Sign(sign));
            let follows_path = here > 0 && tokens[here - 1] == Token::Path;
            match word(0) {
                Some("mod") if word(1).is_some() && sign(2, ';') => {
                    self.declared.push(child(path, word(1).unwrap_or_default()));
                    here += 3;
                }
                Some("mod") if word(1).is_some() && sign(2, '{') => {
                    let name = word(1).unwrap_or_default();
                    here = self.module(tokens, here + 3, &child(path, name));
                }
                Some("use") => here = tree(tokens, here + 1, &[], true, &mut found.paths),
                Some("crate" | "super" | "self")
                    if !follows_path && tokens.get(here + 1) == Some(&Token::Path) =>
                {
                    here = tree(tokens, here, &[], false, &mut found.paths);
                }
                None if sign(0, '#') && sign(1, '[') => {
                    let end = closing(tokens, here + 1);
                    here = if is_for_tests(&tokens[here + 2..end]) {
                        item_end(tokens, end + 1)
                    } else {
                        here + 2
                    };
                }
                None if sign(0, '{') => {
                    depth += 1;
                    here += 1;
                }
                None if sign(0, '}') => {
                    here += 1;
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                }
                _ => here += 1,
            }
        }
        self.modules.push(found);
        here
    }
}

/// Whether an attribute is `cfg(test)`, or `cfg(all(…))` with it.
fn is_for_tests(attribute: &[Token]) -> bool {
    let words: Vec<_> = attribute.iter().filter_map(Token::word).collect();
    matches!(words.as_slice(), ["cfg", "test"])
        || matches!(words.as_slice(), ["cfg", "all", rest @ ..] if rest.contains(&"test"))
}

/// The index of the sign that closes the bracket at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('[' | '{' | '(') => depth += 1,
            Token::Sign(']' | '}' | ')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len()
}

/// Where the item that begins here has ended: after its semicolon or its block.
fn item_end(tokens: &[Token], mut here: usize) -> usize {
    while here < tokens.len() {
        match &tokens[here] {
            Token::Sign(';') => return here + 1,
            Token::Sign('{') => {
                let end = closing(tokens, here) + 1;
                // `use a::{b};` goes on after its block.
                return if tokens.get(end) == Some(&Token::Sign(';')) {
                    end + 1
                } else {
                    end
                };
            }
            Token::Sign('[' | '(') => here = closing(tokens, here) + 1,
            _ => here += 1,
        }
    }
    here
}

/// Reads the path or tree of paths that begins here, and returns where it ends.
fn tree(tokens: &[Token], mut here: usize, before: &[String], is_use: bool, paths: &mut Vec<Used>) -> usize {
    let mut segments = before.to_vec();
    let mut name = None;
    loop {
        match tokens.get(here) {
            Some(Token::Word(word)) => {
                here += 1;
                if word != "self" || segments.is_empty() {
                    segments.push(word.clone());
                }
                name = segments.last().cloned();
            }
            Some(Token::Sign('*')) if is_use => {
                here += 1;
                name = Some("*".to_owned());
            }
            Some(Token::Sign('{')) if is_use => {
                here += 1;
                while here < tokens.len() && tokens[here] != Token::Sign('}') {
                    here = tree(tokens, here, &segments, is_use, paths);
                    if tokens.get(here) == Some(&Token::Sign(',')) {
                        here += 1;
                    }
                }
                return here + 1;
            }
            _ => break,
        }
        if tokens.get(here) == Some(&Token::Path) {
            here += 1;
        } else {
            break;
        }
    }
    if is_use && tokens.get(here).and_then(Token::word) == Some("as") {
        name = tokens.get(here + 1).and_then(Token::word).map(str::to_owned);
        here += 2;
    }
    if here == 0 || segments.len() == before.len() && name.is_none() {
        return here + 1;
    }
    paths.push(Used {
        segments,
        name: name.filter(|_| is_use),
    });
    here
}
