//! The path that a request means. Base URLs are configured in many ways, and clients put the path behind them in as many:
//! with a slash too many, with `/v1` twice, or without it.
//!
//! Everything else, the checks of host, origin and key included, sees the result alone. Escapes stay as they are, so no
//! two spellings of a path that differ in them become one.

use crate::inference::endpoint::{MODELS, V1, lacks_v1};
use http::{Request, Uri, uri::PathAndQuery};

/// An agent's name follows, and then a model's.
const LLMS: &str = "/reveille/v1/llms/";

/// The same request for the path that its own one means.
pub(super) fn plain<B>(mut request: Request<B>) -> Request<B> {
    if let Some(uri) = plain_uri(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// `None` if it is plain already.
fn plain_uri(uri: &Uri) -> Option<Uri> {
    let path = plain_path(uri.path()).filter(|path| path != uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

/// `None` for a target without a path.
fn plain_path(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let (mut plain, mut rest) = (String::with_capacity(path.len() + V1.len()), path);
    loop {
        let next = rest.trim_start_matches('/');
        if next.is_empty() {
            break;
        }
        if names_follow(&plain) {
            plain.push_str(rest);
            break;
        }
        let (segment, after) = next.split_at(next.find('/').unwrap_or(next.len()));
        rest = after;
        if plain == V1 && segment == &V1[1..] {
            continue;
        }
        plain.push('/');
        plain.push_str(segment);
        if lacks_v1(&plain) {
            plain.insert_str(0, V1);
        }
    }
    Some(if plain.is_empty() { "/".to_owned() } else { plain })
}

/// Whether a model's name follows, which may contain slashes.
fn names_follow(plain: &str) -> bool {
    let agent = plain.strip_prefix(LLMS);
    plain == MODELS || agent.is_some_and(|agent| !agent.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reveille_bus::relay::{UselessPath, useless_path};

    fn meant(target: &str) -> String {
        let uri: Uri = target.parse().expect(target);
        plain_uri(&uri).unwrap_or(uri).to_string()
    }

    #[test]
    fn a_path_is_routed_as_its_client_means_it() {
        for (target, path) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1//chat///completions", "/v1/chat/completions"),
            ("//v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            (
                "/v1/chat/completions//?a=/v1//b/",
                "/v1/chat/completions?a=/v1//b/",
            ),
            ("/v1/v1/chat/completions", "/v1/chat/completions"),
            ("//v1//v1//v1/embeddings", "/v1/embeddings"),
            ("/chat/completions", "/v1/chat/completions"),
            ("/completions", "/v1/completions"),
            ("/embeddings/", "/v1/embeddings"),
            ("/models", "/v1/models"),
            ("/models/m", "/v1/models/m"),
            ("/messages/count_tokens", "/v1/messages/count_tokens"),
            ("/v1/v1/messages", "/v1/messages"),
            ("/audio/speech/", "/v1/audio/speech"),
            ("//rerank", "/rerank"),
            ("/v1/rerank", "/v1/rerank"),
            ("/completion", "/completion"),
            ("/api//chat/", "/api/chat"),
            ("/v1/models/", "/v1/models"),
            ("/v1//models//", "/v1/models"),
            ("//reveille//v1/events/", "/reveille/v1/events"),
            ("/livez/", "/livez"),
            ("/", "/"),
            ("//", "/"),
            ("http://hub.example//v1/models/", "http://hub.example/v1/models"),
        ] {
            assert_eq!(meant(target), path, "{target}");
        }
    }

    #[test]
    fn the_config_of_a_provider_takes_only_paths_that_stay_as_they_are() {
        for path in [
            "/sdapi/v1/txt2img",
            "/v1/x",
            "/v1/v1/x",
            "/v1/v1",
            "/completions/x",
            "/chat/x",
            "/chat/completions/x",
            "/v1/v1/completions/x",
            "/rerank/x",
            "/props/x",
            "/audio/voices/x",
            "/responses/r/x",
            "/x/completions",
        ] {
            let read = match useless_path(path) {
                None => path.to_owned(),
                Some(UselessPath::ReadAs(read)) => read,
                Some(UselessPath::Own | UselessPath::Relayed) => panic!("{path}"),
            };
            assert_eq!(meant(path), read, "{path}");
        }
    }

    #[test]
    fn slashes_of_a_model_stay() {
        for (target, path) in [
            ("/v1/models/a/b", "/v1/models/a/b"),
            ("/v1/models//srv/llama/", "/v1/models//srv/llama/"),
            ("//models/s3://a/b", "/v1/models/s3://a/b"),
            ("/v1/models/a%2F%2Fb", "/v1/models/a%2F%2Fb"),
            ("/reveille//v1/llms/box//srv/a/", "/reveille/v1/llms/box//srv/a/"),
            ("/reveille/v1/llms/", "/reveille/v1/llms"),
        ] {
            assert_eq!(meant(target), path, "{target}");
        }
    }

    #[test]
    fn nothing_else_becomes_a_path_that_it_is_not() {
        for target in [
            "/V1/chat/completions",
            "/openai/v1/chat/completions",
            "/v1/./chat/completions",
            "/v1/../v1/models",
            "/v1%2Fmodels",
            "/reveille/v1/v1/keys",
            "/reveille/v1/event%73",
            "/v1",
            "*",
        ] {
            assert_eq!(meant(target), target);
        }
    }
}
