use super::*;
use crate::inference::{
    Verb,
    endpoint::{ENDPOINTS, tests::at},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn chat(body: &str) -> Result<Peeked, BadBody> {
    peek(body.as_bytes(), at("/v1/chat/completions"))
}

fn named(model: &str) -> AskedModel {
    AskedModel::Named(ModelName::parse(model).expect("legal"))
}

/// The body with the name of a model that it lacks.
fn filled(body: &str, model: &str) -> String {
    let AskedModel::Unnamed(gap) = chat(body).expect(body).model else {
        panic!("{body} names its model");
    };
    let model = ModelName::parse(model).expect("legal");
    String::from_utf8(gap.filled(body.as_bytes(), &model).to_vec()).expect("text")
}

#[test]
fn a_body_without_a_model_gets_one_where_it_belongs() {
    for (body, whole) in [
        (
            r#" { "messages":[ ], "n": 1.0e5}"#,
            r#" {"model":"a\"b", "messages":[ ], "n": 1.0e5}"#,
        ),
        (
            r#"{"messages":[{"model":""}], "model" : null }"#,
            r#"{"messages":[{"model":""}], "model" : "a\"b" }"#,
        ),
        (
            r#"{"mod\u0065l":"","messages":["ü"]}"#,
            r#"{"mod\u0065l":"a\"b","messages":["ü"]}"#,
        ),
    ] {
        assert_eq!(filled(body, "a\"b"), whole);
        assert_eq!(
            chat(whole).map(|peeked| peeked.model),
            Ok(named("a\"b")),
            "{whole}"
        );
    }
    for other in ["7", "{}", "[]", "true"] {
        assert_eq!(
            code(&format!(r#"{{"model":{other},"messages":[]}}"#)),
            "invalid_type"
        );
    }
}

#[test]
fn whatever_an_endpoint_requires_a_gap_is_filled_with_json() {
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.verb == Verb::Post) {
        let body = match endpoint.required.field() {
            None => "{ }".to_owned(),
            Some(field) => format!(r#"{{ "{field}": [] }}"#),
        };
        let AskedModel::Unnamed(gap) = peek(body.as_bytes(), endpoint).expect(&body).model else {
            panic!("{body} names its model");
        };
        let filled = gap.filled(body.as_bytes(), &ModelName::parse("m").expect("legal"));
        let filled: Value = serde_json::from_slice(&filled).expect("JSON");
        assert_eq!(filled["model"], "m", "{:?}", endpoint.paths);
    }
}

#[test]
fn whether_an_answer_streams_is_the_endpoints_rule() {
    for (path, field, absent, given) in [
        ("/v1/chat/completions", "messages", false, true),
        ("/v1/embeddings", "input", false, false),
        ("/api/chat", "messages", true, true),
    ] {
        let streams = |rest: &str| {
            let body = format!(r#"{{"model":"m","{field}":[]{rest}}}"#);
            peek(body.as_bytes(), at(path)).expect(path).stream
        };
        assert_eq!(streams(""), absent, "{path}");
        assert_eq!(streams(r#","stream":null"#), absent, "{path}");
        assert_eq!(streams(r#","stream":true"#), given, "{path}");
        assert!(!streams(r#","stream":false"#), "{path}");
    }
}

#[test]
fn older_clients_of_ollama_name_the_model_otherwise_and_its_backend_gets_both() {
    let peeked = |body: &str| peek(body.as_bytes(), at("/api/show")).expect(body).model;
    let body = r#"{"name":"qwen3"}"#;
    let AskedModel::Otherwise(model, gap) = peeked(body) else {
        panic!("{:?}", peeked(body));
    };
    assert_eq!(
        gap.filled(body.as_bytes(), &model),
        r#"{"model":"qwen3","name":"qwen3"}"#
    );
    assert_eq!(peeked(r#"{"name":"other","model":"qwen3"}"#), named("qwen3"));
    assert!(matches!(peeked(r#"{"name":""}"#), AskedModel::Unnamed(_)));
    let chat = chat(r#"{"name":"qwen3","messages":[]}"#).expect("a body").model;
    assert!(matches!(chat, AskedModel::Unnamed(_)), "only Ollama's: {chat:?}");
}

fn code(body: &str) -> &'static str {
    chat(body).expect_err(body).code
}

#[test]
fn model_and_stream_are_read_wherever_they_stand() {
    let peeked =
        chat(r#" {"messages":[{"content":"{\"model\":\"x\"}"}],"stream":true,"mod\u0065l":"a.b/*> c"} "#);
    assert_eq!(
        peeked,
        Ok(Peeked {
            model: named("a.b/*> c"),
            stream: true,
            previous: None,
        })
    );
    for silent in ["", r#","stream":null"#, r#","stream":false"#] {
        assert_eq!(
            chat(&format!(r#"{{"model":"m","messages":[]{silent}}}"#)).map(|p| p.stream),
            Ok(false)
        );
    }
}

#[test]
fn a_field_that_decides_something_is_refused_when_it_is_given_twice() {
    assert_eq!(
        code(r#"{"model":"a","messages":[],"model":"a"}"#),
        "duplicate_field"
    );
    assert_eq!(
        code(r#"{"model":"a","messages":[],"mod\u0065l":"b"}"#),
        "duplicate_field"
    );
    assert_eq!(
        code(r#"{"model":"a","messages":[],"stream":true,"stream":false}"#),
        "duplicate_field"
    );
    assert_eq!(
        code(r#"{"model":"a","messages":[],"messages":[]}"#),
        "duplicate_field"
    );
    assert!(chat(r#"{"model":"a","messages":[],"stop":1,"stop":2,"x":{"model":1}}"#).is_ok());
}

#[test]
fn a_field_that_decides_something_is_refused_in_another_case() {
    for body in [
        r#"{"model":"a","messages":[],"Model":"b"}"#,
        r#"{"MODEL":"b","model":"a","messages":[]}"#,
        r#"{"Model":"b","messages":[]}"#,
        r#"{"model":"a","messages":[],"mo\u0044el":"b"}"#,
        r#"{"model":"a","messages":[],"Stream":true}"#,
        // Go ignores the case of this one too.
        r#"{"model":"a","messages":[],"ſtream":true}"#,
    ] {
        let bad = chat(body).expect_err(body);
        assert_eq!(bad.code, "unsupported_field", "{body}");
    }
    let bad = chat(r#"{"model":"a","messages":[],"Model":"b"}"#).expect_err("alike");
    assert_eq!(
        bad.message,
        "`Model` is not supported, since some backends read it as `model`: write `model`"
    );
    let refused = |path: &str, body: &str| peek(body.as_bytes(), at(path)).map_err(|bad| bad.param);
    assert_eq!(
        refused("/api/show", r#"{"name":"a","Name":"b"}"#),
        Err(Some("name"))
    );
    assert_eq!(
        refused("/v1/responses", r#"{"model":"a","Previous_Response_ID":"b"}"#),
        Err(Some("previous_response_id"))
    );
    // They decide nothing here, or aren't the body's own.
    for body in [
        r#"{"model":"a","messages":[],"Name":1,"Messages":[],"Previous_Response_Id":"x"}"#,
        r#"{"model":"a","messages":[],"models":1,"Models":1,"x":{"Model":"b"},"y":[{"MODEL":1}],"z":"Model"}"#,
    ] {
        assert!(chat(body).is_ok(), "{body}");
    }
}

#[test]
fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"model":"m","messages":[],"x":{open}{close}}}"#)
    };
    assert!(chat(&nested(MAX_DEPTH - 1)).is_ok());
    assert_eq!(code(&nested(MAX_DEPTH)), "invalid_json");
    let text = format!(r#"{{"model":"m","messages":["{}\"[[\\"]}}"#, "[{".repeat(500));
    assert!(chat(&text).is_ok(), "{text}");
    assert_eq!(code(&"[".repeat(1_000_000)), "invalid_json");
}

#[test]
fn what_a_client_cut_in_the_middle_of_a_character_passes_untouched() {
    assert!(chat(r#"{"model":"m","messages":[{"content":"\ud83d"}]}"#).is_ok());
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\\\[{]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_body_is_read_as_a_whole_parser_reads_it(
        model in "[^\\p{Cc}]{1,40}",
        stream in prop::option::of(any::<bool>()),
        mut rest in prop::collection::btree_map("[a-z_]{0,8}", value(), 0..5),
        pretty in any::<bool>(),
    ) {
        for key in ["model", "stream", "messages", "api_base", "base_url"] {
            rest.remove(key);
        }
        let mut body: serde_json::Map<String, Value> = rest.into_iter().collect();
        body.insert("model".to_owned(), json!(model));
        body.insert("messages".to_owned(), json!([{ "role": "user" }]));
        if let Some(stream) = stream {
            body.insert("stream".to_owned(), json!(stream));
        }
        let bytes = if pretty { serde_json::to_vec_pretty(&body) } else { serde_json::to_vec(&body) };
        let peeked = peek(&bytes.expect("JSON"), at("/v1/chat/completions"));
        let expected = Peeked { model: named(&model), stream: stream.unwrap_or(false), previous: None };
        prop_assert_eq!(peeked, Ok(expected));
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = peek(&bytes, at("/v1/chat/completions"));
    }

    #[test]
    fn a_body_cut_anywhere_is_refused(place in 0_usize..1_000) {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"a \"b\" \\ c"}],"x":[1,{"y":null}]}"#;
        let cut = place % body.len();
        prop_assert!(peek(&body[..cut], at("/v1/chat/completions")).is_err());
    }
}
