//! `[[preset]]`: names for models of the file's providers, with what each adds to requests.

use super::table::{Table, Value};
use crate::config::{
    ConfigError, ModelConfig, Parameters, Preset, ProviderConfig, Secret, parameter_names::mean_the_same,
    preset::is_same_name, regular_file, suggest::nearest,
};
use reveille_domain::{MAX_MODELS, ModelName, ProviderName};
use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

/// The most presets of one agent.
pub(super) const MAX_PRESETS: usize = 64;
/// The longest system prompt, in bytes.
const MAX_SYSTEM_BYTES: usize = 64 * 1024;
const BYTE_ORDER_MARK: char = '\u{feff}';
/// The most parameters of a kind.
const MAX_PARAMETERS: usize = 64;

const PRESET_KEYS: [&str; 6] = ["name", "model", "provider", "system", "parameters", "pinned"];

/// What only the request says.
const OF_THE_REQUEST: [&str; 15] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "tools",
    "functions",
    "input",
    "prompt",
    "suffix",
    "images",
    "context",
    "template",
    "raw",
    "conversation",
    "previous_response_id",
];
/// Where the system prompt goes.
const OF_THE_SYSTEM: [&str; 2] = ["system", "instructions"];
/// Other APIs' names for parameters, and those under which a preset has them.
const OTHER_NAMES: [(&str, &str); 8] = [
    ("max_completion_tokens", "max_tokens"),
    ("max_new_tokens", "max_tokens"),
    ("max_output_tokens", "max_tokens"),
    ("max_tokens_to_sample", "max_tokens"),
    ("n_predict", "max_tokens"),
    ("num_predict", "max_tokens"),
    ("stop_sequence", "stop"),
    ("stop_sequences", "stop"),
];

/// The presets without what is wrong with them, which is noted. Each provider gets its own. `are_all`: no provider of the file is
/// missing among these.
pub(super) fn read_all(
    tables: Vec<Table<'_>>,
    providers: &mut [ProviderConfig],
    are_all: bool,
) -> Vec<Arc<Preset>> {
    let named: BTreeSet<_> = tables.iter().filter_map(|table| table.peek("name")).collect();
    let mut presets: Vec<Arc<Preset>> = Vec::new();
    for table in tables {
        let Some(preset) = read(table, &presets, &named, providers, are_all) else {
            continue;
        };
        let preset = Arc::new(preset);
        for provider in providers.iter_mut().filter(|provider| serves(provider, &preset)) {
            provider.presets.push(preset.clone());
        }
        presets.push(preset);
    }
    presets
}

/// Whether a provider serves a preset as soon as it publishes its model.
fn serves(provider: &ProviderConfig, preset: &Preset) -> bool {
    let is_meant = preset.provider.as_ref().is_none_or(|name| *name == provider.name);
    is_meant && may_have(provider, &preset.model)
}

/// Whether a provider has a model, as far as its config says.
fn may_have(provider: &ProviderConfig, model: &ModelName) -> bool {
    let has = |models: &Vec<_>| public_names(models).any(|public| public == model);
    provider.models.as_ref().is_none_or(has)
}

fn public_names(models: &[ModelConfig]) -> impl Iterator<Item = &ModelName> {
    models.iter().map(|model| &model.public)
}

/// `named`: the names of all presets of the file.
fn read(
    mut table: Table<'_>,
    before: &[Arc<Preset>],
    named: &BTreeSet<String>,
    providers: &[ProviderConfig],
    are_all: bool,
) -> Option<Preset> {
    table.only(&[&PRESET_KEYS]);
    let name = table.required("name", |value| name(value, before, providers));
    let is_full = |provider: &&ProviderConfig| {
        let models = provider.models.as_ref().map_or(0, Vec::len);
        models + provider.presets.len() >= MAX_MODELS
    };
    let adds_any = ["system", "parameters", "pinned"]
        .iter()
        .any(|key| table.has(key));
    if !adds_any {
        table.missing("adds nothing to its model: it needs `system`, `parameters` or `pinned`");
    }
    let has_provider = table.has("provider");
    let provider = table.optional("provider", |value| {
        let name = value.name(ProviderName::parse)?;
        let is_there = providers.iter().any(|provider| provider.name == name);
        if is_there || !are_all {
            return Ok(name);
        }
        let near = nearest(
            name.as_str(),
            providers.iter().map(|provider| provider.name.as_str()),
        );
        Err(value.error(format!("no provider of this file has this name{}", meant(near))))
    });
    let is_at = |other: &&ProviderConfig| provider.as_ref().is_none_or(|name| *name == other.name);
    let knows_where = are_all && has_provider == provider.is_some();
    let model = table.required("model", |value| {
        let asked = value.parsed(ModelName::parse)?;
        let at = providers.iter().filter(is_at);
        if knows_where && !at.clone().any(|provider| may_have(provider, &asked)) {
            return Err(value.error(unknown_model(&asked, named, at)));
        }
        let mut serving = at.filter(|provider| may_have(provider, &asked));
        if serving.any(|provider| is_full(&provider)) {
            let full = format!("its provider has {MAX_MODELS} models and presets, which is the most");
            return Err(value.error(full));
        }
        Ok(asked)
    });
    let system = table.take("system").map(|value| system(&value));
    let parameters = parameters(&mut table, "parameters", &Parameters::new());
    let pinned = self::parameters(&mut table, "pinned", &parameters);
    Some(Preset {
        name: name?,
        model: model?,
        provider,
        system: system.flatten(),
        parameters,
        pinned,
    })
}

fn name(
    value: &Value<'_>,
    before: &[Arc<Preset>],
    providers: &[ProviderConfig],
) -> Result<ModelName, ConfigError> {
    let name = value.parsed(ModelName::parse)?;
    if before.iter().any(|other| other.takes_name(&name)) {
        return Err(value.error("another preset has the same name"));
    }
    let mut models = providers
        .iter()
        .flat_map(|provider| provider.models.iter().flatten());
    if models.any(|model| is_same_name(&name, &model.public)) {
        return Err(value.error("a model has the same name: a preset needs a name of its own"));
    }
    Ok(name)
}

fn unknown_model<'a>(
    asked: &ModelName,
    named: &BTreeSet<String>,
    providers: impl Iterator<Item = &'a ProviderConfig> + Clone,
) -> String {
    if named.contains(asked.as_str()) {
        return "is a preset itself: name the model that is to answer".to_owned();
    }
    let models = providers.flat_map(|provider| provider.models.iter().flatten());
    let by_id = models.clone().find(|model| model.id == *asked);
    let public = models.map(|model| model.public.as_str());
    let near = by_id
        .map(|model| model.public.as_str())
        .or_else(|| nearest(asked.as_str(), public));
    format!(
        "no provider of this file has a model of this public name{}",
        meant(near)
    )
}

fn meant(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default()
}

/// `system`: a text, or a table with a file.
fn system(value: &Value<'_>) -> Option<Secret> {
    let text = if value.is_table() {
        let mut table = value.clone().table()?;
        table.only(&[&["file"]]);
        table.required("file", system_file)?
    } else {
        value.note(value.bounded(MAX_SYSTEM_BYTES))?
    };
    if text.trim().is_empty() {
        value.wrong("is empty: leave it out");
        return None;
    }
    Some(Secret::new(text.trim().to_owned()))
}

fn system_file(value: &Value<'_>) -> Result<String, ConfigError> {
    let file = value.file()?;
    let bytes = regular_file::read(&file, MAX_SYSTEM_BYTES as u64)
        .map_err(|error| value.error(format!("{} can't be read: {error}", file.display())))?;
    if bytes.len() > MAX_SYSTEM_BYTES {
        return Err(value.error(format!(
            "{} is larger than {MAX_SYSTEM_BYTES} bytes",
            file.display()
        )));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| value.error(format!("{} isn't UTF-8", file.display())))?;
    // Editors of Windows write it. The config file itself may begin with one too.
    Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text).to_owned())
}

/// `parameters` or `pinned`; `others` has the names that the other one has.
fn parameters(table: &mut Table<'_>, key: &'static str, others: &Parameters) -> Parameters {
    let before = RefCell::new(Vec::<String>::new());
    let read = table.entries(key, MAX_PARAMETERS, |name, value| {
        if let Some(why) = refused(name) {
            return Err(value.error(why));
        }
        if let Some(other) = others.keys().find(|other| mean_the_same(other, name)) {
            let why = match other == name {
                true => "is in `parameters` too: only one of them can hold".to_owned(),
                false => format!("is `{other}` of `parameters` to some backends: only one of them can hold"),
            };
            return Err(value.error(why));
        }
        if let Some(other) = before.borrow().iter().find(|other| mean_the_same(other, name)) {
            return Err(value.error(format!(
                "is `{other}` to some backends: only one of them can hold"
            )));
        }
        before.borrow_mut().push(name.to_owned());
        Ok((name.to_owned(), value.clone().json()))
    });
    read.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Why a preset can't have a parameter of this name.
fn refused(name: &str) -> Option<String> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if OF_THE_REQUEST.iter().any(|own| is(own)) {
        return Some("is the request's own: a preset can't set it".to_owned());
    }
    if OF_THE_SYSTEM.iter().any(|own| is(own)) {
        return Some("is no parameter: write `system` beside `model`".to_owned());
    }
    if is("options") {
        return Some("is no parameter: write Ollama's options one by one, by their own names".to_owned());
    }
    let other = OTHER_NAMES.iter().find(|(other, _)| is(other));
    other.map(|(_, own)| format!("is written `{own}` here, and sent by the name that each API has for it"))
}
