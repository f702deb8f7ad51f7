//! The order of each crate's modules: a module imports only from rows below its own, and never from its own row.
//!
//! A name is a module of the crate; `a/b` is a child of `a` with a row of its own, and any other child belongs to its
//! parent's row.

/// The layers of one crate.
pub struct Layers {
    /// The folder below `crates/`.
    pub name: &'static str,
    /// The rows, the highest first.
    pub from_top: &'static [&'static [&'static str]],
}

pub const CRATES: &[Layers] = &[PROJECTOR];

const PROJECTOR: Layers = Layers {
    name: "projector",
    from_top: &[
        &["rebuild"],
        &["run"],
        &["heartbeats", "scratch"],
        &["projection"],
        &["rows"],
        &["archive", "llms", "wakes"],
        &["commits", "order"],
        &["backoff", "columns", "error"],
    ],
};

/// Where a module is in the order.
pub struct Row {
    /// The name in the table.
    pub name: &'static str,
    /// 1 for the lowest row.
    pub height: usize,
}

impl Layers {
    /// The row of a module: that of the longest name which is the module or a parent of it.
    pub fn row(&self, module: &[String]) -> Option<Row> {
        let named = |name: &str| {
            let name: Vec<&str> = name.split('/').collect();
            let is_in = name.len() <= module.len() && name.iter().zip(module).all(|(a, b)| a == b);
            is_in.then_some(name.len())
        };
        let rows = self.from_top.iter().rev().enumerate();
        let rows = rows.flat_map(|(index, row)| row.iter().map(move |name| (index + 1, *name)));
        rows.filter_map(|(height, name)| Some((named(name)?, Row { name, height })))
            .max_by_key(|(length, _)| *length)
            .map(|(_, row)| row)
    }

    /// Every name of the table.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.from_top.iter().flat_map(|row| row.iter().copied())
    }
}
