//! What docs/clients.md has for clients that the tests don't install: each snippet is well-formed, and they agree.

use super::blocks_of;
use serde_json::Value;

const BASE_URL: &str = "http://127.0.0.1:8420/v1";
const KEY: &str = "unused";
const MODEL: &str = "qwen2.5:7b";

#[test]
fn each_client_is_told_the_address_a_key_and_the_model_in_its_own_form() {
    let [curl, open_webui, continue_yaml, opencode, aider, langchain, page] =
        blocks_of("each_client_is_told_the_address_a_key_and_the_model_in_its_own_form");
    assert!(curl.contains("--cacert ca.pem https://"), "{curl}");
    for text in [&open_webui, &continue_yaml, &opencode, &aider, &langchain, &page] {
        assert!(text.contains(BASE_URL) && text.contains(KEY), "{text}");
    }
    for text in [&continue_yaml, &opencode, &aider, &langchain, &page] {
        assert!(text.contains(MODEL), "{text}");
    }
    let opencode: Value = serde_json::from_str(&opencode).expect("JSON");
    let provider = &opencode["provider"]["reveille"];
    assert_eq!(provider["options"]["baseURL"], BASE_URL);
    assert!(provider["models"][MODEL].is_object(), "{provider}");
    // What a shell makes of the variables.
    for (script, variable) in [(&open_webui, "OPENAI_API_BASE_URL"), (&aider, "OPENAI_API_BASE")] {
        let exports = script.lines().next().expect("the variables");
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("{exports}; printf %s \"${variable}\"")])
            .output();
        assert_eq!(String::from_utf8_lossy(&shell.expect("a shell").stdout), BASE_URL);
    }
    let parsed = std::process::Command::new("python3")
        .args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &langchain])
        .status();
    assert!(parsed.expect("python3").success(), "{langchain}");
}
