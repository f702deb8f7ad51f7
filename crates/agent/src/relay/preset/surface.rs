//! The kinds of requests that have a place for a preset, and where each has what.

use crate::config::{nested, synonyms};
use serde_json::{Value, json};

/// Where Ollama has most parameters.
pub(super) const OPTIONS: &str = "options";

/// Where a kind of request has the system prompt.
#[derive(Debug, Clone, Copy)]
pub(super) enum SystemPlace {
    /// In the first of its `messages`.
    FirstMessage,
    /// In a field that is a text.
    Text(&'static str),
    /// In a field that is a text or a list of blocks.
    TextOrBlocks(&'static str),
}

/// Which API names the parameters of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Chat,
    Responses,
    Messages,
    Ollama,
    /// It takes none.
    None,
}

/// A kind of request with a place for a preset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surface {
    pub system: SystemPlace,
    pub api: Api,
    /// What it asks with, other than messages.
    pub prompt: Option<&'static str>,
}

/// A place of one parameter: a field of the request, or of an object in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot<'a> {
    pub object: Option<&'static str>,
    pub name: &'a str,
}

/// Parameters that every API has by the same name.
const EVERYWHERE: [&str; 3] = ["temperature", "top_k", "top_p"];
/// Those that Ollama has among its options.
const OPTION_NAMES: [&str; 17] = [
    "frequency_penalty",
    "main_gpu",
    "min_p",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_thread",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];
/// Those that it has beside them.
const OLLAMAS_OWN: [&str; 3] = ["format", "keep_alive", "think"];

impl Surface {
    pub fn of_path(path: &str) -> Option<Self> {
        use SystemPlace::{FirstMessage, Text, TextOrBlocks};
        let (system, api, prompt) = match path {
            "/v1/chat/completions" | "/apply-template" => (FirstMessage, Api::Chat, None),
            "/v1/responses" => (Text("instructions"), Api::Responses, None),
            "/v1/messages" => (TextOrBlocks("system"), Api::Messages, None),
            "/v1/messages/count_tokens" => (TextOrBlocks("system"), Api::None, None),
            "/api/chat" => (FirstMessage, Api::Ollama, None),
            "/api/generate" => (Text("system"), Api::Ollama, Some("prompt")),
            _ => return None,
        };
        Some(Self { system, api, prompt })
    }

    /// The fields that make its prompt.
    pub fn own_fields(self) -> Vec<&'static str> {
        let messages = match self.api {
            Api::Chat | Api::Messages | Api::None => Some("messages"),
            Api::Ollama if self.prompt.is_none() => Some("messages"),
            Api::Responses | Api::Ollama => None,
        };
        [Some(self.system.field()), self.prompt, messages]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl SystemPlace {
    pub const fn field(self) -> &'static str {
        match self {
            Self::FirstMessage => "messages",
            Self::Text(field) | Self::TextOrBlocks(field) => field,
        }
    }
}

impl Api {
    /// Where it has a parameter of a preset by its own word; `None` where it has no such thing.
    pub fn home(self, parameter: &str) -> Option<Spot<'_>> {
        let top = |name| Some(Spot { object: None, name });
        let of = |object, name| {
            Some(Spot {
                object: Some(object),
                name,
            })
        };
        match (self, parameter) {
            (Self::None, _) => None,
            (Self::Responses, "max_tokens") => top("max_output_tokens"),
            (Self::Responses, "reasoning_effort") => of("reasoning", "effort"),
            (Self::Messages, "max_tokens") => top("max_tokens"),
            (Self::Messages, "stop") => top("stop_sequences"),
            (Self::Ollama, "max_tokens") => of(OPTIONS, "num_predict"),
            (Self::Ollama, name) if OPTION_NAMES.contains(&name) => of(OPTIONS, name),
            (Self::Ollama, name) if OLLAMAS_OWN.contains(&name) => top(name),
            (Self::Responses | Self::Messages, name) if EVERYWHERE.contains(&name) => top(name),
            (Self::Chat, name) => top(name),
            (Self::Responses | Self::Messages | Self::Ollama, _) => None,
        }
    }

    /// Where a pinned parameter has to be: there, and by its own name at the top level, where most backends would take another value for
    /// it whichever API it is.
    pub fn pinned(self, parameter: &str) -> Vec<Spot<'_>> {
        let own = Spot {
            object: None,
            name: parameter,
        };
        match self.home(parameter) {
            _ if self == Self::None => vec![],
            None => vec![own],
            Some(home) if self == Self::Ollama && home != own => vec![home, own],
            Some(home) => vec![home],
        }
    }

    /// All places where some backend reads a parameter.
    pub fn everywhere(parameter: &str) -> Vec<Spot<'_>> {
        let names = synonyms(parameter).into_iter();
        let named = names.flat_map(|name| [None, Some(OPTIONS)].map(|object| Spot { object, name }));
        let nested = nested(parameter).map(|(object, name)| Spot {
            object: Some(object),
            name,
        });
        named.chain(nested).collect()
    }
}

impl Spot<'_> {
    /// A parameter's value as it is written there.
    pub fn value(self, value: &Value) -> Value {
        let is_list = self.name == "stop_sequences" || self.object == Some(OPTIONS) && self.name == "stop";
        match value {
            Value::String(_) if is_list => json!([value]),
            _ => value.clone(),
        }
    }
}
