//! The layers of each crate: a module imports only from the rows below its own in the [`table`].
//!
//! The test reads the sources, so it needs nothing compiled. Code below `#[cfg(test)]` may import what it likes.

mod reader;
mod table;
mod tokens;

use reader::Module;
use std::{collections::BTreeSet, path::Path};
use table::{CRATES, Layers};

#[test]
fn modules_import_only_from_the_layers_below_their_own() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let faults: Vec<String> = CRATES
        .iter()
        .flat_map(|layers| {
            let source = format!("crates/{}/src", layers.name);
            let modules = reader::read(&workspace.join(&source));
            faults(layers, &modules)
                .into_iter()
                .map(move |fault| format!("{source}/{fault}"))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "{} imports break the order of xtask/tests/layers/table.rs:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// What breaks the table, one line each, beginning with the file below the crate's `src`.
fn faults(layers: &Layers, modules: &[Module]) -> Vec<String> {
    let mut faults = BTreeSet::new();
    let mut used = BTreeSet::new();
    for module in modules {
        // The crate's root declares the modules, and may use them all.
        if module.path.is_empty() {
            continue;
        }
        let path = module.path.join("/");
        let Some(own) = layers.row(&module.path) else {
            faults.insert(format!(
                "{}: the module `{path}` has no row in the table; put it above everything that it imports",
                module.file
            ));
            continue;
        };
        used.insert(own.name);
        for import in &module.imports {
            let what = import.written.join("::");
            match layers.row(&import.module) {
                Some(theirs) if theirs.name == own.name || theirs.height < own.height => {}
                Some(theirs) => {
                    faults.insert(format!(
                        "{}: `{}` (layer {}) imports `{what}`, which is in `{}` (layer {})",
                        module.file, own.name, own.height, theirs.name, theirs.height
                    ));
                }
                None if import.module.is_empty() => {
                    faults.insert(format!(
                        "{}: `{what}` is defined in the crate's root, above every layer; move it into a module",
                        module.file
                    ));
                }
                // The imported module's own fault says that it has no row.
                None => {}
            }
        }
    }
    for name in layers.names().filter(|name| !used.contains(name)) {
        faults.insert(format!("{name}: the table names this module, but there is none"));
    }
    faults.into_iter().collect()
}

/// Circles that are planted, so that the test is known to find them.
#[cfg(test)]
mod planted {
    use super::*;
    use std::fs;

    const LAYERS: Layers = Layers {
        name: "planted",
        from_top: &[&["shop"], &["till", "stock"], &["stock/shelf"], &["money"]],
    };

    /// The faults of a crate with these files.
    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let source = std::env::temp_dir().join(format!(
            "reveille-layers-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let _ = fs::remove_dir_all(&source);
        for (name, text) in [
            (
                "lib.rs",
                "mod money;\nmod shop;\nmod stock;\nmod till;\npub use money::Coin;\n",
            ),
            ("shop.rs", "use crate::{money::Coin, stock::Item, till};\n"),
            ("till.rs", "use crate::money;\n"),
            (
                "stock/mod.rs",
                "mod shelf;\npub use shelf::Item;\nuse crate::Coin;\n",
            ),
            (
                "stock/shelf.rs",
                "pub struct Item;\nfn price() -> crate::Coin {}\n",
            ),
            ("money.rs", "pub struct Coin;\n"),
        ]
        .iter()
        .chain(files)
        {
            let file = source.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let found = faults(&LAYERS, &reader::read(&source));
        fs::remove_dir_all(&source).unwrap();
        found
    }

    #[test]
    fn an_order_that_holds_has_no_faults() {
        assert_eq!(check(&[]), Vec::<String>::new());
    }

    #[test]
    fn an_import_from_a_higher_layer_is_found_however_it_is_written() {
        for text in [
            "use crate::shop::Shop;",
            "use crate::{\n    shop::{self, Shop},\n};",
            "use super::shop::Shop as Other;",
            "pub use super::super::money::super::shop::Shop;",
            "fn sell() { let _ = crate::shop::Shop { open: true }; }",
            "fn sell<'a>(at: &'a u8) -> char { super::shop::sell::<u8>('\"') }",
            "mod inner { use super::super::shop::Shop; }",
            "#[derive(Debug)]\nstruct Till(crate::shop::Shop);",
        ] {
            let found = check(&[("till.rs", text)]);
            assert!(!found.is_empty(), "{text}");
            for fault in found {
                assert!(
                    fault.starts_with("till.rs: `till` (layer 3) imports ")
                        && fault.ends_with("which is in `shop` (layer 4)"),
                    "{text}: {fault}"
                );
            }
        }
    }

    #[test]
    fn an_import_from_the_same_layer_is_found() {
        let found = check(&[("till.rs", "use crate::stock::take;\n")]);
        assert_eq!(
            found,
            ["till.rs: `till` (layer 3) imports `crate::stock::take`, which is in `stock` (layer 3)"]
        );
    }

    #[test]
    fn a_child_with_a_row_of_its_own_does_not_import_its_parent() {
        let found = check(&[("stock/shelf.rs", "pub struct Item;\nuse super::take;\n")]);
        assert_eq!(found.len(), 1, "{found:?}");
        let below = check(&[("till.rs", "use crate::stock::Item;\n")]);
        assert_eq!(
            below,
            Vec::<String>::new(),
            "a re-export stands for what it names"
        );
    }

    #[test]
    fn tests_comments_and_texts_import_what_they_like() {
        for text in [
            "// use crate::shop::Shop;\n/* /* */ crate::shop::a */\n/// See [`crate::shop::Shop`].\nfn a() {}",
            "const A: &str = \"crate::shop::Shop\";\nconst B: &str = r#\"\"crate::shop::b\"#;",
            "#[cfg(test)]\nmod tests {\n    use crate::shop::Shop;\n    fn a() {}\n}\n",
            "#[cfg(test)]\n#[path = \"x\"]\nmod tests;\n",
            "#[cfg(all(test, unix))]\nuse crate::shop::Shop;\n",
        ] {
            assert_eq!(check(&[("till.rs", text)]), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_module_without_a_row_and_a_row_without_a_module_are_named() {
        let root = "mod money;\nmod shop;\nmod stock;\nmod bell;\npub use money::Coin;\n";
        let found = check(&[("lib.rs", root), ("shop.rs", ""), ("bell.rs", "")]);
        assert_eq!(
            found,
            [
                "bell.rs: the module `bell` has no row in the table; put it above everything that it imports",
                "till: the table names this module, but there is none",
            ]
        );
    }

    #[test]
    fn what_the_root_defines_is_above_every_layer() {
        let found = check(&[("money.rs", "pub struct Coin;\nuse crate::Price;\n")]);
        assert_eq!(
            found,
            [
                "money.rs: `crate::Price` is defined in the crate's root, above every layer; move it into a module"
            ]
        );
    }
}
