//! What a server answers to an `http` step that fails. Its text is for the owner of this machine only: it may have what was sent.

use super::timeline::Failed;
use crate::{
    child::Hint,
    config::HttpAction,
    fetch::{Answer, MAX_ANSWER_BYTES},
    lenient_json,
    models::pull_command,
    output::lines_of,
    probe::Probe,
};
use http::StatusCode;
use std::time::Duration;
use tokio::time::timeout;

/// How long the rest of the answer may take once its status is known.
const REST_WITHIN: Duration = Duration::from_secs(2);
/// How much of the text is kept.
const TEXT_CHARS: usize = 300;
/// The paths of Ollama that load a model, or end its time in memory.
const OLLAMA_PATHS: [&str; 4] = ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"];

/// The failure of a step whose request got a status that is no success.
pub(super) async fn refused(action: &HttpAction, answer: &mut Answer) -> Failed {
    let status = answer.status();
    let body = timeout(REST_WITHIN, answer.body(MAX_ANSWER_BYTES)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let lacks = match status {
        StatusCode::NOT_FOUND => missing_model(action, &body),
        _ => None,
    };
    Failed {
        hint: text(&body).map(|text| Hint::Answer { text, lacks }),
        ..Failed::from(format!("HTTP status {}", status.as_u16()))
    }
}

/// Adds the remedy if an Ollama lacks the model. The reason leaves this machine, so it names none but those of the provider's config.
pub(super) fn with_remedy(failed: Failed, probe: &Probe) -> Failed {
    let Some(Hint::Answer {
        lacks: Some(lacks), ..
    }) = &failed.hint
    else {
        return failed;
    };
    let named = probe
        .model(lacks)
        .and_then(|model| Some((model, pull_command(model)?)));
    match named {
        Some((model, pull)) => Failed {
            hint: failed.hint,
            ..Failed::of_models(format!(
                "{}: the Ollama there doesn't have `{model}`; `{pull}` gets it",
                failed.reason
            ))
        },
        None => Failed {
            reason: format!(
                "{}: the Ollama there doesn't have the model that the request names; `ollama pull` gets it",
                failed.reason
            ),
            ..failed
        },
    }
}

/// The model that the request names, if an Ollama answers that it doesn't have it.
fn missing_model(action: &HttpAction, answer: &[u8]) -> Option<String> {
    let path = action.address.url.path();
    OLLAMA_PATHS.iter().find(|known| path.ends_with(**known))?;
    let answer = lenient_json::read(answer)?;
    let error = answer["error"].as_str()?;
    if !(error.contains("model") && error.contains("not found")) {
        return None;
    }
    let body = lenient_json::read(action.body.as_ref()?.reveal().as_bytes())?;
    body["model"].as_str().map(ToOwned::to_owned)
}

/// The beginning of an answer as one line, if it has any text.
fn text(body: &[u8]) -> Option<String> {
    let lines = lines_of(body);
    let line = lines.join(" ");
    let mut words = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(TEXT_CHARS) {
        words.truncate(end);
        words.push('…');
    }
    (!words.is_empty()).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shown_as_one_short_line_without_what_a_terminal_obeys() {
        let shown = |body: &[u8]| text(body);
        assert_eq!(shown(b""), None);
        assert_eq!(shown(b" \r\n\x07"), None);
        assert_eq!(
            shown(b"{\r\n\t\"error\":\x1b[31m \"m\x00\"\n}\xff").as_deref(),
            Some("{ \"error\": \"m\" }\u{fffd}")
        );
        let long = shown("ä".repeat(5000).as_bytes()).expect("text");
        assert_eq!(long, format!("{}…", "ä".repeat(TEXT_CHARS)));
    }
}
