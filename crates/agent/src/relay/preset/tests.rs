use super::{surface::Api, *};
use crate::config::Config;
use reveille_bus::relay::PRESET_PATHS;
use serde_json::json;

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
            r#"{"temperature":0.2,"seed":7,"max_tokens":1,"top_p":1}"#.to_owned(),
        ),
        (
            MESSAGES,
            r#"{"max_tokens":1}"#.to_owned(),
            r#"{"stop_sequences":["END"],"temperature":0.2,"seed":7,"top_p":1,"max_tokens":1}"#.to_owned(),
        ),
        (COUNT, r#"{"max_tokens":1}"#.to_owned(), r#"{"max_tokens":1}"#.to_owned()),
        (
            OLLAMA_CHAT,
            r#"{"model":"m"}"#.to_owned(),
            r#"{"seed":7,"top_p":1,"options":{"num_predict":800,"stop":["END"],"temperature":0.2,"seed":7,"top_p":1},"model":"m"}"#.to_owned(),
        ),
        (
            GENERATE,
            r#"{"temperature":1,"options":{"temperature":1,"seed":1}}"#.to_owned(),
            r#"{"seed":7,"top_p":1,"temperature":1,"options":{"num_predict":800,"stop":["END"],"top_p":1,"temperature":1,"seed":7}}"#.to_owned(),
        ),
        (
            OLLAMA_CHAT,
            r#"{"options":{ }}"#.to_owned(),
            r#"{"seed":7,"top_p":1,"options":{"num_predict":800,"stop":["END"],"temperature":0.2,"seed":7,"top_p":1 }}"#.to_owned(),
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
            r#"{"max_tokens":5,"think":false,"format":"json","n_predict":5,"max_completion_tokens":5}"#,
        ),
        (
            OLLAMA_CHAT,
            r#"{"think":true,"format":{},"options":{"num_predict":-1}}"#,
            r#"{"max_tokens":5,"think":false,"format":"json","options":{"num_predict":5}}"#,
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
            "`chat_template` could leave out",
        ),
        (
            CHAT,
            r#"{"chat_template_kwargs":"{\"messages\":[]}"}"#,
            "`chat_template_kwargs` must be an object",
        ),
        (
            OLLAMA_CHAT,
            r#"{"options":{"chat_template_kwargs":[["messages",[]]]}}"#,
            "`chat_template_kwargs` must be an object",
        ),
        (GENERATE, r#"{"raw":true}"#, "`raw` could leave out"),
        (
            GENERATE,
            r#"{"template":"{{ .Prompt }}"}"#,
            "`template` could leave out",
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
        (OLLAMA_CHAT, r#"{"messages":"hi"}"#, "`messages` must be an array"),
        (GENERATE, r#"{"prompt":[1,2]}"#, "`prompt` must be a text"),
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

/// Every path that takes a preset's parameters.
const WITH_PARAMETERS: [&str; 6] = [CHAT, TEMPLATE, RESPONSES, MESSAGES, OLLAMA_CHAT, GENERATE];

fn at<'v>(request: &'v Value, spot: &Spot<'_>) -> &'v Value {
    match spot.object {
        None => &request[spot.name],
        Some(object) => &request[object][spot.name],
    }
}

#[test]
fn a_pinned_parameter_holds_on_every_path_by_whichever_name_and_at_whichever_place_a_backend_reads_it() {
    let other = json!("the caller's");
    for (name, pinned) in [
        ("max_tokens", json!(5)),
        ("stop", json!("END")),
        ("seed", json!(7)),
        ("temperature", json!(0.5)),
        ("min_p", json!(0.1)),
        ("repeat_penalty", json!(1.5)),
        ("repetition_penalty", json!(1.5)),
        ("typical_p", json!(0.9)),
        ("num_ctx", json!(8192)),
        ("think", json!(false)),
        ("reasoning_effort", json!("low")),
        ("logit_bias", json!({ "7": 1 })),
    ] {
        let line = format!("system = \"x\"\npinned = {{ {name} = {} }}", toml_of(&pinned));
        let preset = preset(&line);
        for path in WITH_PARAMETERS {
            let api = Surface::of_path(path).expect("a place").api;
            let everywhere = Api::everywhere(name);
            let nowhere: &[Spot<'_>] = &[];
            let each = everywhere.iter().map(std::slice::from_ref);
            for given in each.chain([nowhere, &everywhere]) {
                let mut body = json!({ "model": "m" });
                for spot in given {
                    match spot.object {
                        None => body[spot.name] = other.clone(),
                        Some(object) => body[object][spot.name] = other.clone(),
                    }
                }
                let put = put_into(&preset, path, &body.to_string()).expect("no conflict");
                let put: Value = serde_json::from_str(&put).expect("JSON");
                for spot in given.iter().chain(&api.pinned(name)) {
                    let holds = at(&put, spot) == &spot.value(&pinned);
                    assert!(holds, "{path} {name}: {spot:?} of {body} is {put}");
                }
            }
        }
    }
}

/// A value as TOML has it.
fn toml_of(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name} = {}", toml_of(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn an_object_that_is_pinned_as_a_whole_has_nothing_of_the_request() {
    let preset = preset(
        "system = \"x\"\npinned = { chat_template_kwargs = { enable_thinking = false }, reasoning_effort = \"low\" }",
    );
    let body =
        r#"{"chat_template_kwargs":{"messages":[],"reasoning_effort":"high"},"messages":[{"role":"user"}]}"#;
    let put = put_into(&preset, CHAT, body).expect("it is replaced");
    let put: Value = serde_json::from_str(&put).expect("JSON");
    assert_eq!(put["chat_template_kwargs"], json!({ "enable_thinking": false }));
    assert_eq!(put["reasoning_effort"], "low");
}

#[test]
fn no_path_takes_a_field_that_could_leave_out_or_cut_the_system_prompt() {
    let preset = preset("system = \"x\"");
    let without_system = self::preset("parameters = { temperature = 1 }");
    for path in PRESET_PATHS {
        let own = Surface::of_path(path).expect("a place").own_fields();
        let mut evaded = 0;
        for field in evading::names().into_iter().filter(|field| !own.contains(field)) {
            let value = match field {
                "chat_template_kwargs" => json!({ "messages": [{ "role": "user", "content": "hi" }] }),
                "raw" => json!(true),
                "truncation" => json!("auto"),
                "truncate_prompt_tokens" | "truncate" => json!(1),
                "num_ctx" => json!(4095),
                _ => json!("hi"),
            };
            for body in [json!({ field: value }), json!({ "options": { field: value } })] {
                let refused = put_into(&preset, path, &body.to_string()).expect_err(field);
                assert!(
                    refused.contains(&format!("`{field}")) && refused.contains("could leave out or cut"),
                    "{path} {body}: {refused}"
                );
                assert!(
                    put_into(&without_system, path, &body.to_string()).is_ok(),
                    "{path} {body}"
                );
            }
            let null = json!({ field: null, "options": { field: null } }).to_string();
            assert!(put_into(&preset, path, &null).is_ok(), "{path} {field}");
            evaded += 1;
        }
        assert!(evaded > 28, "{path}: {evaded}");
    }
}

#[test]
fn what_changes_nothing_about_the_system_prompt_passes() {
    let preset = preset("system = \"x\"");
    for (path, fields) in [
        (
            GENERATE,
            r#""suffix":"","context":[ ],"raw":false,"truncate":true,"template":"""#,
        ),
        (RESPONSES, r#""truncation":"disabled","previous_response_id":"r""#),
        (
            CHAT,
            r#""chat_template_kwargs":{"enable_thinking":false,"reasoning_effort":"low"},"transforms":[]"#,
        ),
        (
            OLLAMA_CHAT,
            r#""options":{"num_ctx":4096,"num_predict":9},"truncate":false"#,
        ),
        (MESSAGES, r#""context_management":{}"#),
    ] {
        let put = put_into(&preset, path, &format!("{{{fields}}}"));
        assert!(put.as_ref().is_ok_and(|put| put.contains(fields)), "{put:?}");
    }
}
