//! The table of the paths that reach a backend, from the API's own.

use super::markdown;
use reveille_api::{ServedPath, served_paths};

pub(super) fn table() -> String {
    let row = |path: ServedPath| {
        let paths = path.paths.iter().map(|path| format!("`{path}`"));
        let paths: Vec<_> = paths.collect();
        let required = path.required.map(|field| format!("`{field}`"));
        vec![
            format!("{} {}", path.method, paths.join(", ")),
            path.family.to_owned(),
            path.model.to_owned(),
            required.unwrap_or_default(),
            if path.wakes { "yes" } else { "no" }.to_owned(),
            path.streams.to_owned(),
            path.keepalive.to_owned(),
        ]
    };
    let heading = [
        "path",
        "API",
        "`model` in",
        "required",
        "wakes",
        "streams",
        "keep-alive",
    ];
    markdown(&heading, served_paths().into_iter().map(row))
}
