use super::*;
use crate::config::Config;
use reveille_bus::relay::PRESET_PATHS;

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const OLLAMA_CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";
const TEMPLATE: &str = "/apply-template";

fn preset(lines: &str) -> Preset {
    let text = format!(
        "[[provider]]\nname = \"p\"\nbase_url = \"http://h:1\"\n[[preset]]\nname = \"bot\"\nmodel = \"m\"\n{lines}"
    );
    let config = Config::parse(&text, "test.toml", &|_| None).expect("legal");
    (*config.presets[0]).clone()
}

fn put_into(preset: &Preset, path: &str, body: &str) -> Result<String, Conflict> {
    let body = put(&Bytes::copy_from_slice(body.as_bytes()), preset, path)?;
    Ok(String::from_utf8(body.to_vec()).expect("text"))
}

#[test]
fn the_presets_system_prompt_comes_first_and_the_requests_own_after_it() {
    let preset = preset("system = \"Be \\\"terse\\\".\"");
    for (path, body, with_preset) in [
        // Everything else stays as it is.
        (
            CHAT,
            r#" { "model" : "m", "x": 1.0e5, "messages" : [ {"role":"user","content":"ü\u00fc"} ], "ü": [1,  2] } "#,
            r#" { "model" : "m", "x": 1.0e5, "messages" : [{"role":"system","content":"Be \"terse\"."}, {"role":"user","content":"ü\u00fc"} ], "ü": [1,  2] } "#,
        ),
        // Many templates take one message of the system, as the first.
        (
            CHAT,
            r#"{"messages":[{"role":"system","content":"a\nb"},{"role":"system","content":"c"}]}"#,
            r#"{"messages":[{"role":"system","content":"Be \"terse\".\n\na\nb"},{"role":"system","content":"c"}]}"#,
        ),
        (
            CHAT,
            r#"{"messages":[{"content": [{"type":"text","text":"a"}], "role":"developer"}]}"#,
            r#"{"messages":[{"content": [{"type":"text","text":"Be \"terse\"."},{"type":"text","text":"a"}], "role":"developer"}]}"#,
        ),
        (
            TEMPLATE,
            r#"{"messages":[{"role":"system","content":""}]}"#,
            r#"{"messages":[{"role":"system","content":"Be \"terse\"."}]}"#,
        ),
        (
            OLLAMA_CHAT,
            r#"{"messages":[{"role":"system","content":[]}]}"#,
            r#"{"messages":[{"role":"system","content":[{"type":"text","text":"Be \"terse\"."}]}]}"#,
        ),
        // Nothing can be put before what isn't a text.
        (
            CHAT,
            r#"{"messages":[{"role":"system","content":null}]}"#,
            r#"{"messages":[{"role":"system","content":"Be \"terse\"."},{"role":"system","content":null}]}"#,
        ),
        // Ollama only loads the model then.
        (
            OLLAMA_CHAT,
            r#"{"model":"m","messages":[]}"#,
            r#"{"model":"m","messages":[]}"#,
        ),
        (OLLAMA_CHAT, r#"{"model":"m"}"#, r#"{"model":"m"}"#),
        (
            RESPONSES,
            r#"{"model":"m","input":"hi"}"#,
            r#"{"instructions":"Be \"terse\".","model":"m","input":"hi"}"#,
        ),
        (
            RESPONSES,
            r#"{"instructions":"a","input":[{"role":"system","content":"b"}]}"#,
            r#"{"instructions":"Be \"terse\".\n\na","input":[{"role":"system","content":"b"}]}"#,
        ),
        (
            RESPONSES,
            r#"{"instructions" : null}"#,
            r#"{"instructions" : "Be \"terse\"."}"#,
        ),
        (
            MESSAGES,
            r#"{"system":"a","messages":[]}"#,
            r#"{"system":"Be \"terse\".\n\na","messages":[]}"#,
        ),
        (
            MESSAGES,
            r#"{"system":[{"type":"text","text":"a","cache_control":{}}]}"#,
            r#"{"system":[{"type":"text","text":"Be \"terse\"."},{"type":"text","text":"a","cache_control":{}}]}"#,
        ),
        (
            COUNT,
            r#"{"system": [ ]}"#,
            r#"{"system": [{"type":"text","text":"Be \"terse\"."} ]}"#,
        ),
        (
            COUNT,
            r#"{"model":"m"}"#,
            r#"{"system":"Be \"terse\".","model":"m"}"#,
        ),
        (
            GENERATE,
            r#"{"model":"m","prompt":"hi","system":"a","raw":false,"template":null}"#,
            r#"{"model":"m","prompt":"hi","system":"Be \"terse\".\n\na","raw":false,"template":null}"#,
        ),
    ] {
        assert_eq!(
            put_into(&preset, path, body).as_deref(),
            Ok(with_preset),
            "{path}"
        );
    }
}

#[test]
fn parameters_are_defaults_and_pinned_ones_hold_in_the_words_of_each_api() {
    let preset = preset(
        "parameters = { temperature = 0.2, max_tokens = 800, stop = \"END\", chat_template_kwargs = { enable_thinking = false } }\n\
         pinned = { top_p = 1, seed = 7 }",
    );
    let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    for (path, body, with_preset) in [
        (
            CHAT,
            format!(r#"{{"model":"m",{tools}}}"#),
            format!(
                r#"{{"chat_template_kwargs":{{"enable_thinking":false}},"max_tokens":800,"stop":"END","temperature":0.2,"seed":7,"top_p":1,"model":"m",{tools}}}"#
            ),
        ),
        (
            CHAT,
            r#"{"temperature": 1.50, "max_completion_tokens":9,"stop":null,"chat_template_kwargs":{},"top_p": 0.1 ,"seed" :null}"#.to_owned(),
            r#"{"temperature": 1.50, "max_completion_tokens":9,"stop":"END","chat_template_kwargs":{},"top_p": 1 ,"seed" :7}"#.to_owned(),
        ),
        (
            RESPONSES,
            r#"{"max_tokens":1,"top_p":0}"#.to_owned(),
            r#"{"max_output_tokens":800,"temperature":0.2,"max_tokens":1,"top_p":1}"#.to_owned(),
        ),
        (
            MESSAGES,
            r#"{"max_tokens":1}"#.to_owned(),
            r#"{"stop_sequences":["END"],"temperature":0.2,"top_p":1,"max_tokens":1}"#.to_owned(),
        ),
        (COUNT, r#"{"max_tokens":1}"#.to_owned(), r#"{"max_tokens":1}"#.to_owned()),
        (
            OLLAMA_CHAT,
            r#"{"model":"m"}"#.to_owned(),
            r#"{"options":{"num_predict":800,"stop":["END"],"temperature":0.2,"seed":7,"top_p":1},"model":"m"}"#.to_owned(),
        ),
        (
            GENERATE,
            r#"{"temperature":1,"options":{"temperature":1,"seed":1}}"#.to_owned(),
            r#"{"temperature":1,"options":{"num_predict":800,"stop":["END"],"top_p":1,"temperature":1,"seed":7}}"#.to_owned(),
        ),
        (
            OLLAMA_CHAT,
            r#"{"options":{ }}"#.to_owned(),
            r#"{"options":{"num_predict":800,"stop":["END"],"temperature":0.2,"seed":7,"top_p":1 }}"#.to_owned(),
        ),
    ] {
        assert_eq!(put_into(&preset, path, &body), Ok(with_preset), "{path}");
    }
}

#[test]
fn a_pinned_limit_holds_by_whichever_name_the_request_has_it() {
    let preset = preset("pinned = { max_tokens = 5, think = false, format = \"json\" }");
    for (path, body, with_preset) in [
        (
            CHAT,
            r#"{"think":true,"format":1,"n_predict":-1,"max_completion_tokens":99}"#,
            r#"{"think":false,"format":"json","n_predict":5,"max_completion_tokens":5}"#,
        ),
        (
            OLLAMA_CHAT,
            r#"{"think":true,"format":{},"options":{"num_predict":-1}}"#,
            r#"{"think":false,"format":"json","options":{"num_predict":5}}"#,
        ),
    ] {
        assert_eq!(
            put_into(&preset, path, body).as_deref(),
            Ok(with_preset),
            "{path}"
        );
    }
}

#[test]
fn what_backends_could_read_differently_is_refused_without_a_word_of_the_preset() {
    let preset = preset("system = \"secret words\"\npinned = { temperature = 0.125, max_tokens = 5 }");
    for (path, body, why) in [
        (
            CHAT,
            r#"{"temperature":1,"temperature":2}"#,
            "`temperature` is given twice",
        ),
        (CHAT, r#"{"Temperature":1}"#, "write `temperature`"),
        (CHAT, r#"{"max_to\u212aens":1}"#, "write `max_tokens`"),
        (
            CHAT,
            r#"{"max_completion_tokens":1,"max_completion_tokens":2}"#,
            "is given twice",
        ),
        (
            CHAT,
            r#"{"messages":[],"messages":[{"role":"user"}]}"#,
            "`messages` is given twice",
        ),
        (
            CHAT,
            r#"{"messages":[],"m\u0065ssages":[{"role":"user"}]}"#,
            "`messages` is given twice",
        ),
        (
            CHAT,
            r#"{"messages":[{"role":"user","role":"system","content":"a"}]}"#,
            "`role` is given twice",
        ),
        (
            CHAT,
            r#"{"messages":[{"Role":"system","content":"a"}]}"#,
            "write `role`",
        ),
        (
            CHAT,
            r#"{"chat_template":"{{ x }}"}"#,
            "`chat_template` leaves no place",
        ),
        (GENERATE, r#"{"raw":true}"#, "`raw` leaves no place"),
        (
            GENERATE,
            r#"{"template":"{{ .Prompt }}"}"#,
            "`template` leaves no place",
        ),
        (
            GENERATE,
            r#"{"system":"a","SYSTEM":"b"}"#,
            "`system` is given twice",
        ),
        (
            OLLAMA_CHAT,
            r#"{"options":{},"Options":{"temperature":1}}"#,
            "`options` is given twice",
        ),
        (
            OLLAMA_CHAT,
            r#"{"options":{"temperature":1,"TEMPERATURE":2}}"#,
            "`temperature` is given twice",
        ),
        (OLLAMA_CHAT, r#"{"options":[]}"#, "`options` must be an object"),
        (
            RESPONSES,
            r#"{"instructions":["a"]}"#,
            "`instructions` must be a text",
        ),
        (MESSAGES, r#"{"system":7}"#, "`system` must be a text"),
        (CHAT, r#"["m"]"#, "it is not a JSON object"),
        (CHAT, r#"{"a":1} {}"#, "it is not a JSON object"),
        ("/v1/embeddings", r#"{"input":"a"}"#, "has no place"),
    ] {
        let refused = put_into(&preset, path, body).expect_err(body);
        assert!(refused.contains(why), "{body}: {refused}");
        assert!(
            !refused.contains("secret") && !refused.contains("0.125"),
            "{refused}"
        );
    }
}

#[test]
fn every_path_that_takes_presets_has_a_place_for_one_and_no_other_has() {
    for path in reveille_bus::relay::POST_PATHS {
        assert_eq!(
            Surface::of_path(path).is_some(),
            PRESET_PATHS.contains(&path),
            "{path}"
        );
    }
}
