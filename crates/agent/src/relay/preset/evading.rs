//! The fields by which a request could make a backend leave out the preset's system prompt, or cut it. A request with one of them is
//! refused, on every path: backends take fields of one API on the paths of another, and leave alone what they don't know.

use super::object::{Conflict, Object, names_of};
use Harmless::{AtLeast, Boolean, Empty, Never, Switch, Value};

/// The values of a field that do nothing to the system prompt, beside `null`.
#[derive(Debug, Clone, Copy)]
enum Harmless {
    Never,
    /// Nothing in it: a text or a list.
    Empty,
    /// `false`.
    Switch,
    /// `true` and `false`: what Ollama does with messages that are too many, of which it keeps the system's.
    Boolean,
    /// This one.
    Value(&'static str),
    /// So much or more.
    AtLeast(u32),
}

/// Each field, and who reads it so.
#[rustfmt::skip]
const FIELDS: [(&str, Harmless, &str); 30] = [
    // Another template makes the prompt, or none does.
    ("chat_template",            Never,                   "vLLM, SGLang, llama.cpp"),
    ("chat_template_str",        Never,                   "text-generation-webui"),
    ("chat_instruct_command",    Never,                   "text-generation-webui"),
    ("instruction_template",     Never,                   "text-generation-webui"),
    ("instruction_template_str", Never,                   "text-generation-webui"),
    ("prompt_template",          Never,                   "TabbyAPI"),
    ("template_vars",            Never,                   "TabbyAPI"),
    ("role_mapping",             Never,                   "MLX"),
    ("template",                 Empty,                   "Ollama"),
    ("raw",                      Switch,                  "Ollama"),
    // The prompt isn't made of the messages, or not of these alone.
    ("suffix",                   Empty,                   "Ollama: a text to be filled in has no system prompt"),
    ("context",                  Empty,                   "Ollama: the tokens of an earlier prompt; text-generation-webui"),
    ("custom_system_message",    Never,                   "text-generation-webui"),
    ("messages",                 Empty,                   "those that name it otherwise, or not at all"),
    ("prompt",                   Empty,                   "OpenAI: a stored prompt; those that take it before messages"),
    ("prompt_ids",               Never,                   "TRL"),
    ("prompt_token_ids",         Never,                   "vLLM"),
    ("prompt_embeds",            Never,                   "vLLM"),
    ("input_ids",                Never,                   "SGLang"),
    ("input_embeds",             Never,                   "SGLang"),
    ("session_params",           Never,                   "SGLang: it goes on from another prompt"),
    ("previous_input_messages",  Never,                   "vLLM: responses go on from these"),
    // The beginning of the prompt is cut off.
    ("truncate_prompt_tokens",   Never,                   "vLLM, TGI"),
    ("truncation",               Value("\"disabled\""),   "vLLM, OpenAI: `auto`"),
    ("truncation_side",          Never,                   "vLLM"),
    ("truncation_length",        Never,                   "text-generation-webui"),
    ("truncate",                 Boolean,                 "TGI: so many tokens are left"),
    ("max_context_length",       Never,                   "KoboldCpp"),
    ("transforms",               Empty,                   "OpenRouter"),
    ("num_ctx",                  AtLeast(4096),           "Ollama: the context, which the prompt is cut to; its default, and many clients send one"),
];

/// What templates are given by name.
const ARGUMENTS: &str = "chat_template_kwargs";
/// Those that change how a model thinks, calls tools or reads documents. Templates know any number of others, and take their messages by
/// name too: a request could name others than its own.
const HARMLESS_ARGUMENTS: [&str; 24] = [
    "add_generation_prompt",
    "add_vision_id",
    "builtin_tools",
    "citations",
    "clear_thinking",
    "controls",
    "custom_tools",
    "date_string",
    "documents",
    "enable_thinking",
    "keep_thinking",
    "preserve_thinking",
    "python_tools",
    "reasoning_budget",
    "reasoning_effort",
    "reasoning_mode",
    "skip_think",
    "skip_thinking",
    "think",
    "thinking",
    "thinking_budget",
    "thinking_mode",
    "tools_in_user_message",
    "xml_tools",
];

/// All of them.
pub(super) fn names() -> Vec<&'static str> {
    let fields = FIELDS.iter().map(|(field, ..)| *field);
    fields.chain([ARGUMENTS]).collect()
}

/// Checks that none of them is in a request or among its options, but for those that `may_be` there: what the request asks with, or what
/// the preset replaces anyway.
pub(super) fn check(objects: &[&Object<'_>], may_be: impl Fn(&str) -> bool) -> Result<(), Conflict> {
    for object in objects {
        let evading = FIELDS.iter().find(|(field, harmless, _)| {
            let value = object.get(field).filter(|_| !may_be(field));
            value.is_some_and(|value| !harmless.is(value))
        });
        if let Some((field, ..)) = evading {
            return Err(evades(field));
        }
        let Some(arguments) = object.get(ARGUMENTS).filter(|_| !may_be(ARGUMENTS)) else {
            continue;
        };
        // Some backends read a text as the object that is written in it.
        let given = names_of(arguments).ok_or_else(|| format!("`{ARGUMENTS}` must be an object"))?;
        let is_harmless = |name: &String| HARMLESS_ARGUMENTS.contains(&name.as_str());
        if let Some(other) = given.iter().find(|name| !is_harmless(name)) {
            return Err(evades(&format!("{ARGUMENTS}.{}", shown(other))));
        }
    }
    Ok(())
}

fn evades(field: &str) -> Conflict {
    format!("`{field}` could leave out or cut the preset's system prompt")
}

/// As much of a name as anybody wants to read of what a caller made up.
fn shown(name: &str) -> String {
    name.chars().filter(|char| !char.is_control()).take(64).collect()
}

impl Harmless {
    fn is(self, value: &str) -> bool {
        match self {
            Never => false,
            Empty => value == "\"\"" || value.starts_with('[') && value[1..].trim_start() == "]",
            Switch => value == "false",
            Boolean => matches!(value, "true" | "false"),
            Value(harmless) => value == harmless,
            AtLeast(least) => value.parse().is_ok_and(|value: f64| value >= f64::from(least)),
        }
    }
}
