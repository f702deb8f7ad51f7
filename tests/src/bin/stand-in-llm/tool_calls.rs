//! The call that a request with tools gets: of the tool that it names, or the first, with arguments that fit its schema.

use serde_json::{Map, Value, json};

/// How deep a schema may be nested.
const DEPTH_LIMIT: u8 = 8;

/// A tool and what it is called with.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

impl Call {
    /// The call that the request gets; none without tools.
    pub fn of(request: &Value) -> Option<Self> {
        let tools = request["tools"].as_array()?;
        let choice = named(&request["tool_choice"]);
        let tool = tools
            .iter()
            .find(|tool| choice.is_some() && named(tool) == choice)
            .or(tools.first())?;
        // OpenAI's completions and Ollama wrap it in `function`; responses and Anthropic don't.
        let described = tool.get("function").unwrap_or(tool);
        let schema = described
            .get("parameters")
            .or(described.get("input_schema"))
            .unwrap_or(&Value::Null);
        Some(Self {
            name: named(tool)?.to_owned(),
            arguments: fitting(schema, DEPTH_LIMIT),
        })
    }
}

fn named(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str().or(tool["name"].as_str())
}

/// A value that a schema allows.
fn fitting(schema: &Value, depth: u8) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("string") => json!("token-0"),
        _ => object(schema, depth),
    }
}

fn object(schema: &Value, depth: u8) -> Value {
    let properties = schema["properties"].as_object().filter(|_| depth > 0);
    let fields = properties.into_iter().flatten();
    let fields = fields.map(|(name, schema)| (name.clone(), fitting(schema, depth - 1)));
    Value::Object(fields.collect::<Map<_, _>>())
}
