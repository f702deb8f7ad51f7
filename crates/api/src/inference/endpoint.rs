//! Every path that reaches a backend, in one table. Routes, the plain form of paths, what an unknown path is told, and the
//! table in docs/clients.md are made from it.
//!
//! The agent has a list of its own (`reveille_bus::relay::POST_PATHS`): the hub can't make it relay anything else.

use Family::{Anthropic, LlamaCpp, Ollama, OpenAi, Responses};
use Keepalive::{ChatChunk, ChatLine, Comment, Event, GenerateLine, Ping, TextChunk, Unneeded};
use ModelPlace::{Form, Json, JsonOrQuery, Query, Stored};
use Required::{Array, Field, Nothing};
use Streams::{Never, UnlessFalse, WhenTrue};
use reveille_bus::relay::is_stored_id;
use reveille_domain::ProviderSpec;
use strum::IntoStaticStr;

/// A kind of request that backends answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub verb: Verb,
    /// The paths that backends have it by. A backend gets the one that the client sent.
    pub paths: &'static [&'static str],
    pub family: Family,
    pub model: ModelPlace,
    pub streams: Streams,
    pub keepalive: Keepalive,
    pub required: Required,
    /// Whether it wakes a backend. What only asks about one doesn't, since programs ask again and again.
    pub wakes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
pub(crate) enum Verb {
    Get,
    Post,
    Delete,
}

/// Whose clients ask: how they read errors and streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    OpenAi,
    /// OpenAI's newer API, whose stream has named events.
    Responses,
    Anthropic,
    Ollama,
    /// llama.cpp's own: errors are OpenAI's, and its streams have no end but their last event.
    LlamaCpp,
}

/// Where a request names its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelPlace {
    /// In `model` of its JSON.
    Json,
    /// In the field `model` of its form (`multipart/form-data`).
    Form,
    /// In `model` of the query.
    Query,
    /// In either.
    JsonOrQuery,
    /// Nowhere: an earlier response had it, whose id is in the path.
    Stored,
}

/// Whether the answer is a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    Never,
    /// If `stream` is true.
    WhenTrue,
    /// Unless `stream` is false.
    UnlessFalse,
}

/// What a silent stream gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keepalive {
    /// There is no stream.
    Unneeded,
    /// A comment, or as the caller likes a chunk of a chat or of a completion, or an event of a response.
    ChatChunk,
    TextChunk,
    Event,
    /// Always a comment.
    Comment,
    /// Anthropic's event `ping`.
    Ping,
    /// Ollama's line without text, of a chat or of a completion.
    ChatLine,
    GenerateLine,
}

/// How a stream tells that its answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// By `finish_reason`, and then by `data: [DONE]`.
    Finish,
    /// By the name of its last event.
    Named,
    /// By `stop: true`.
    Stop,
    /// By `done: true`, in its last line.
    Done,
    /// There is no rule for it.
    Unspecified,
}

/// A field without which a request is refused here: no backend is woken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Required {
    Nothing,
    Field(&'static str),
    Array(&'static str),
}

#[rustfmt::skip]
pub(crate) static ENDPOINTS: [Endpoint; 32] = [
    //     paths                                family     model  streams      keep-alive    required
    post(&["/v1/chat/completions"],             OpenAi,    Json,  WhenTrue,    ChatChunk,    Array("messages")),
    post(&["/v1/completions"],                  OpenAi,    Json,  WhenTrue,    TextChunk,    Field("prompt")),
    post(&["/v1/embeddings"],                   OpenAi,    Json,  Never,       Unneeded,     Field("input")),
    post(&["/v1/responses"],                    Responses, Json,  WhenTrue,    Event,        Nothing),
    stored(Verb::Get,    &["/v1/responses/{id}", "/v1/responses/{id}/input_items"]),
    stored(Verb::Delete, &["/v1/responses/{id}"]),
    stored(Verb::Post,   &["/v1/responses/{id}/cancel"]),
    post(&["/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/v2/rerank"],
                                                OpenAi,    Json,  Never,       Unneeded,     Field("query")),
    post(&["/v1/score", "/score"],              OpenAi,    Json,  Never,       Unneeded,     Nothing),
    post(&["/classify"],                        OpenAi,    Json,  Never,       Unneeded,     Nothing),
    post(&["/pooling"],                         OpenAi,    Json,  Never,       Unneeded,     Nothing),
    post(&["/v1/moderations"],                  OpenAi,    Json,  Never,       Unneeded,     Field("input")),
    post(&["/v1/audio/speech"],                 OpenAi,    Json,  Never,       Unneeded,     Field("input")),
    get (&["/v1/audio/voices"],                 OpenAi),
    post(&["/v1/audio/transcriptions"],         OpenAi,    Form,  WhenTrue,    Comment,      Field("file")),
    post(&["/v1/audio/translations"],           OpenAi,    Form,  WhenTrue,    Comment,      Field("file")),
    post(&["/v1/images/edits"],                 OpenAi,    Form,  WhenTrue,    Comment,      Field("prompt")),
    post(&["/v1/images/variations"],            OpenAi,    Form,  Never,       Unneeded,     Field("image")),
    post(&["/v1/images/generations"],           OpenAi,    Json,  WhenTrue,    Comment,      Field("prompt")),
    post(&["/tokenize"],                        OpenAi,    Json,  Never,       Unneeded,     Nothing),
    post(&["/detokenize"],                      OpenAi,    Json,  Never,       Unneeded,     Field("tokens")),
    post(&["/completion"],                      LlamaCpp,  Json,  WhenTrue,    Comment,      Field("prompt")),
    post(&["/infill"],                          LlamaCpp,  Json,  WhenTrue,    Comment,      Nothing),
    post(&["/apply-template"],                  LlamaCpp,  Json,  Never,       Unneeded,     Array("messages")),
    get (&["/props"],                           LlamaCpp),
    post(&["/v1/messages"],                     Anthropic, Json,  WhenTrue,    Ping,         Array("messages")),
    post(&["/v1/messages/count_tokens"],        Anthropic, Json,  Never,       Unneeded,     Array("messages")),
    post(&["/api/chat"],                        Ollama,    Json,  UnlessFalse, ChatLine,     Nothing),
    post(&["/api/generate"],                    Ollama,    Json,  UnlessFalse, GenerateLine, Nothing),
    post(&["/api/embed"],                       Ollama,    Json,  Never,       Unneeded,     Nothing),
    post(&["/api/embeddings"],                  Ollama,    Json,  Never,       Unneeded,     Nothing),
    show(&[SHOW],                               Ollama,    Json),
];

/// A path that only the config of some providers has.
pub(crate) static EXTRA: Endpoint = post(&[], OpenAi, JsonOrQuery, Never, Unneeded, Nothing);

const fn post(
    paths: &'static [&'static str],
    family: Family,
    model: ModelPlace,
    streams: Streams,
    keepalive: Keepalive,
    required: Required,
) -> Endpoint {
    Endpoint {
        verb: Verb::Post,
        paths,
        family,
        model,
        streams,
        keepalive,
        required,
        wakes: true,
    }
}

const fn show(paths: &'static [&'static str], family: Family, model: ModelPlace) -> Endpoint {
    Endpoint {
        verb: Verb::Post,
        model,
        ..get(paths, family)
    }
}

const fn get(paths: &'static [&'static str], family: Family) -> Endpoint {
    Endpoint {
        verb: Verb::Get,
        paths,
        family,
        model: Query,
        streams: Never,
        keepalive: Unneeded,
        required: Nothing,
        wakes: false,
    }
}

const fn stored(verb: Verb, paths: &'static [&'static str]) -> Endpoint {
    Endpoint {
        verb,
        model: Stored,
        ..get(paths, Responses)
    }
}

/// The base of OpenAI's and Anthropic's paths.
pub(crate) const V1: &str = "/v1";
/// Stands for the id of a stored response.
const ID: &str = "{id}";
/// The list of models, which is answered here.
pub(crate) const MODELS: &str = "/v1/models";
/// What Ollama says of one model.
pub(crate) const SHOW: &str = "/api/show";
/// What all of Ollama's paths begin with.
const OLLAMA: &str = "/api/";
/// How similar a path must be to be suggested for an unknown one.
const SIMILAR: f64 = 0.7;
/// The score of a known path that an unknown one ends with.
const SAME_END: f64 = 0.9;

impl Endpoint {
    /// The endpoint that a path of a request belongs to.
    pub fn find(verb: Verb, path: &str) -> Option<&'static Self> {
        of_path(path).find(|endpoint| endpoint.verb == verb)
    }

    /// Whether backends may keep its answers, and be asked for them again.
    pub fn keeps_answers(&self) -> bool {
        self.family == Responses && self.model == Json
    }

    /// How its streams end.
    pub const fn stream_end(&self) -> StreamEnd {
        match (self.family, self.keepalive) {
            (OpenAi, ChatChunk | TextChunk) => StreamEnd::Finish,
            (OpenAi, _) => StreamEnd::Unspecified,
            (Responses | Anthropic, _) => StreamEnd::Named,
            (LlamaCpp, _) => StreamEnd::Stop,
            (Ollama, _) => StreamEnd::Done,
        }
    }

    /// Whether a provider may be asked for `path`, one of this endpoint's.
    pub fn is_at(&self, spec: &ProviderSpec, path: &str) -> bool {
        let has = || spec.extra_paths().iter().any(|extra| extra.as_str() == path);
        self.model != JsonOrQuery || has()
    }
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Required {
    pub const fn field(self) -> Option<&'static str> {
        match self {
            Nothing => None,
            Field(name) | Array(name) => Some(name),
        }
    }
}

impl Family {
    /// Whose API it is.
    pub const fn api(self) -> &'static str {
        match self {
            OpenAi | Responses => "OpenAI",
            Anthropic => "Anthropic",
            Ollama => "Ollama",
            LlamaCpp => "llama.cpp",
        }
    }

    /// Whose clients have this path, whether or not it exists.
    pub fn of_path(path: &str) -> Self {
        match of_path(path).next() {
            Some(endpoint) => endpoint.family,
            None if path.starts_with(OLLAMA) => Ollama,
            None => OpenAi,
        }
    }
}

fn of_path(path: &str) -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS
        .iter()
        .filter(move |endpoint| endpoint.paths.iter().any(|known| matches_path(known, path)))
}

/// Whether a path is a known one, which may have an id in it.
fn matches_path(known: &str, path: &str) -> bool {
    match known.split_once(ID) {
        None => known == path,
        Some((before, after)) => {
            let id = path
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after));
            id.is_some_and(is_stored_id)
        }
    }
}

fn all_paths() -> impl Iterator<Item = &'static str> {
    ENDPOINTS
        .iter()
        .flat_map(|endpoint| endpoint.paths)
        .copied()
        .filter(|path| !path.contains(ID))
        .chain([MODELS])
}

/// Whether a path is one of `/v1`'s as a client sends it whose base URL lacks the `/v1`.
pub(crate) fn lacks_v1(path: &str) -> bool {
    let mut has_v1 = false;
    for known in all_paths() {
        if known == path {
            return false;
        }
        has_v1 |= known.strip_prefix(V1) == Some(path);
    }
    has_v1
}

/// The path that an unknown one is most likely meant to be: the most similar one, or one that it ends with.
pub(crate) fn nearest_path(path: &str) -> Option<&'static str> {
    let lower = path.to_lowercase();
    let score = |known: &str| {
        let similar = strsim::normalized_damerau_levenshtein(known, &lower);
        if path.ends_with(known) {
            similar.max(SAME_END)
        } else {
            similar
        }
    };
    all_paths()
        .map(|known| (score(known), known))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.len().cmp(&other.1.len())))
        .map(|(_, known)| known)
}

/// A row of the table, for its documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPath {
    pub method: &'static str,
    pub paths: &'static [&'static str],
    /// Whose clients have it.
    pub family: &'static str,
    /// Where the model is named.
    pub model: &'static str,
    /// When the answer is a stream.
    pub streams: &'static str,
    /// What a silent stream gets.
    pub keepalive: &'static str,
    /// The field without which a request is refused.
    pub required: Option<&'static str>,
    pub wakes: bool,
}

/// Every path that reaches a backend.
#[must_use]
pub fn served_paths() -> Vec<ServedPath> {
    let row = |endpoint: &'static Endpoint| ServedPath {
        method: endpoint.verb.as_str(),
        paths: endpoint.paths,
        family: endpoint.family.api(),
        model: match endpoint.model {
            Json => "JSON",
            Form => "form",
            Query => "query",
            JsonOrQuery => "JSON or query",
            Stored => "",
        },
        streams: match endpoint.streams {
            Never => "",
            WhenTrue => "`stream: true`",
            UnlessFalse => "unless `stream: false`",
        },
        keepalive: match endpoint.keepalive {
            Unneeded => "",
            ChatChunk | TextChunk => "comment, or a chunk",
            Event => "comment, or an event",
            Comment => "comment",
            Ping => "event `ping`",
            ChatLine | GenerateLine => "line without text",
        },
        required: endpoint.required.field(),
        wakes: endpoint.wakes,
    };
    ENDPOINTS.iter().map(row).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use reveille_bus::relay::{GET_PATHS, POST_PATHS, is_relayed};
    use std::collections::HashSet;

    /// The endpoint of a path that is posted to.
    pub fn at(path: &str) -> &'static Endpoint {
        Endpoint::find(Verb::Post, path).expect(path)
    }

    #[test]
    fn each_path_is_there_once_and_agents_relay_it() {
        let mut seen = HashSet::new();
        for endpoint in &ENDPOINTS {
            for path in endpoint.paths {
                assert!(seen.insert((endpoint.verb.as_str(), *path)), "{path}");
            }
        }
        for (verb, path) in &seen {
            assert!(is_relayed(verb, &path.replace(ID, "resp_1")), "{verb} {path}");
        }
        let of_verb = |verb: &str| {
            seen.iter()
                .filter(|(of, path)| *of == verb && !path.contains(ID))
                .count()
        };
        assert_eq!(of_verb("POST"), POST_PATHS.len());
        assert_eq!(of_verb("GET"), GET_PATHS.len());
    }

    #[test]
    fn a_stream_has_keepalives_and_nothing_else_has() {
        for endpoint in &ENDPOINTS {
            let streams = endpoint.streams != Never;
            assert_eq!(streams, endpoint.keepalive != Unneeded, "{:?}", endpoint.paths);
        }
    }

    #[test]
    fn the_v1_is_missed_only_where_a_path_has_one_and_no_other_path_is_meant() {
        for path in [
            "/chat/completions",
            "/models",
            "/messages",
            "/audio/speech",
            "/responses",
        ] {
            assert!(lacks_v1(path), "{path}");
        }
        for path in [
            "/rerank",
            "/score",
            "/completion",
            "/api/chat",
            "/v1/models",
            "/chat",
            "/",
        ] {
            assert!(!lacks_v1(path), "{path}");
        }
    }

    #[test]
    fn an_unknown_path_is_told_the_nearest_one() {
        for (path, nearest) in [
            ("/openai/v1/chat/completions", Some("/v1/chat/completions")),
            ("/v1/api/chat", Some("/api/chat")),
            ("/v1/chat/completion", Some("/v1/chat/completions")),
            ("/V1/Models", Some("/v1/models")),
            ("/api/chats", Some("/api/chat")),
            ("/v1/message", Some("/v1/messages")),
            ("/", None),
            ("/favicon.ico", None),
            ("/v1/fine_tuning/jobs", None),
        ] {
            assert_eq!(nearest_path(path), nearest, "{path}");
        }
    }
}
