//! Recognises the answer of a backend that accepts connections but is still loading its model: a 503. Each kind of server words it
//! differently.

/// The status of a server that isn't ready.
const UNAVAILABLE: u16 = 503;
/// What servers that will soon be ready say, in lower case and at the beginning of a word. llama.cpp: "Loading model".
const BEGINNINGS: [&str; 10] = [
    "loading",
    "being loaded",
    "starting",
    "being started",
    "initializing",
    "initialising",
    "warming up",
    "waking",
    "not ready",
    "not yet",
];
/// What servers that won't be ready say.
const FAILED: &str = "fail";

/// Whether an answer with this status and body refuses the request because the backend isn't ready yet. It did nothing for it.
pub(super) fn is_loading(status: u16, body: &[u8]) -> bool {
    status == UNAVAILABLE && says_loading(&String::from_utf8_lossy(body).to_ascii_lowercase())
}

fn says_loading(text: &str) -> bool {
    let begins_word = |at: usize| !text[..at].ends_with(|before: char| before.is_alphanumeric());
    let says = |words: &str| text.match_indices(words).any(|(at, _)| begins_word(at));
    BEGINNINGS.into_iter().any(says) && !text.contains(FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_is_told_from_busy_and_broken() {
        for loading in [
            r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#,
            r#"{"error":"Model Qwen/Qwen3-8B is currently loading","estimated_time":20.0}"#,
            r#"{"status":"loading model"}"#,
            r#"{"detail":"The engine is still warming up"}"#,
            r#"{"object":"error","message":"Server is not ready."}"#,
            "Service is starting, please wait",
            r#"{"error":"the model is not yet loaded"}"#,
        ] {
            assert!(says_loading(&loading.to_ascii_lowercase()), "{loading}");
        }
        for other in [
            r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#,
            r#"{"error":{"message":"no slot available","type":"unavailable_error","code":503}}"#,
            r#"{"detail":{"msg":"Server is overloading; please try again later."}}"#,
            "<html><h1>503 Service Temporarily Unavailable</h1></html>",
            "Failed loading model: out of memory",
            "",
        ] {
            assert!(!says_loading(&other.to_ascii_lowercase()), "{other}");
        }
    }

    #[test]
    fn only_a_status_that_means_not_yet_is_waited_out() {
        assert!(is_loading(503, b"Loading model"));
        for status in [200, 404, 500, 502] {
            assert!(!is_loading(status, b"Loading model"), "{status}");
        }
    }
}
