//! The models that programs have on this machine, by the folders that they keep them in.

use super::super::folders::{self, Skipped};
use reveille_domain::{MAX_MODELS, ModelName};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::Path,
};

/// The largest description of a model in a cache that is read.
const MAX_DESCRIPTION_BYTES: u64 = 256 * 1024;
/// Models that are called like those that generate text, but turn speech into it or translate.
const OTHER_ARCHITECTURES: [&str; 5] = ["Whisper", "T5", "MT5", "Bart", "MBart"];

/// The models whose manifests are in a folder of Ollama, by the names that it lists them by.
pub fn pulled(folder: &Path, skipped: &mut Skipped) -> Vec<ModelName> {
    let manifests = folder.join("manifests");
    let files = folders::files(&manifests, 4, skipped);
    let names = files.iter().filter_map(|file| {
        let parts = file.strip_prefix(&manifests).ok()?.iter().map(OsStr::to_str);
        let parts: Option<Vec<_>> = parts.collect();
        let parts = parts.filter(|parts| !parts.iter().any(|part| part.starts_with('.')));
        let name = match parts?[..] {
            ["registry.ollama.ai", "library", model, tag] => format!("{model}:{tag}"),
            ["registry.ollama.ai", user, model, tag] => format!("{user}/{model}:{tag}"),
            [host, user, model, tag] => format!("{host}/{user}/{model}:{tag}"),
            _ => return None,
        };
        ModelName::parse(&name).ok()
    });
    names.collect()
}

/// The models in Hugging Face's cache that generate text, and whose weights are there.
pub fn cached(cache: &Path, skipped: &mut Skipped) -> Vec<ModelName> {
    // models--ORG--NAME/snapshots/COMMIT/config.json
    let files = folders::files(cache, 3, skipped);
    let mut models = vec![];
    for file in files.iter().filter(|file| file.ends_with("config.json")) {
        let id = file
            .ancestors()
            .nth(3)
            .and_then(|folder| folder.file_name()?.to_str()?.strip_prefix("models--"));
        let name = id.and_then(|id| ModelName::parse(&id.replacen("--", "/", 1)).ok());
        let folder = file.parent().unwrap_or(cache);
        let has_weights = files.iter().any(|other| {
            let weights = [".safetensors", ".bin"];
            let name = other.to_string_lossy();
            other.starts_with(folder) && weights.iter().any(|ending| name.ends_with(ending))
        });
        if let Some(name) = name.filter(|name| has_weights && generates(file) && !models.contains(name)) {
            models.push(name);
        }
    }
    models.truncate(MAX_MODELS);
    models
}

/// Whether a model generates text, by its `config.json`.
fn generates(file: &Path) -> bool {
    let mut text = vec![];
    let is_file = fs::metadata(file).is_ok_and(|kind| kind.is_file());
    let read = is_file
        .then(|| File::open(file).and_then(|file| file.take(MAX_DESCRIPTION_BYTES).read_to_end(&mut text)));
    let config: serde_json::Value = match read {
        Some(Ok(_)) => serde_json::from_slice(&text).unwrap_or_default(),
        _ => return false,
    };
    let mut architectures = config["architectures"].as_array().into_iter().flatten();
    architectures.any(|name| {
        let name = name.as_str().unwrap_or_default();
        let is_for_chats = name.ends_with("ForCausalLM") || name.ends_with("ForConditionalGeneration");
        is_for_chats && !OTHER_ARCHITECTURES.iter().any(|other| name.starts_with(other))
    })
}
