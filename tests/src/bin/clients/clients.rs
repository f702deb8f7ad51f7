//! The rows of the matrix: which client plays which scenes, and what it makes of a boot that fails.

use crate::{
    runtime::Language,
    scene::Scene::{self, Chat, Embeddings, Patient, PatientResponses, Responses, Stream, Tools, Vision},
};

/// A client in one version.
#[derive(Debug)]
pub struct Client {
    /// Its name in the matrix and on the command line.
    pub name: &'static str,
    /// The package whose version is shown.
    pub package: &'static str,
    /// What runs its script.
    pub language: Language,
    /// Its script in `tests/clients`.
    pub script: &'static str,
    /// What it has, besides boots that fail.
    pub scenes: &'static [Scene],
    /// Whether it calls a tool, to fill in its answer, in all scenes.
    pub always_calls: bool,
    /// Whether its answers have the usage.
    pub has_usage: bool,
    /// What it raises at an error before the answer.
    pub failing: Option<Raised>,
    /// What it raises at an error in a stream that has begun.
    pub failing_stream: Option<Raised>,
    /// Whether it is part of a quick run.
    pub quick: bool,
}

/// An error as the client's user sees it.
#[derive(Debug, Clone, Copy)]
pub struct Raised {
    /// Its class, or how the program ends.
    pub error: &'static str,
    /// How often the client has the model woken at most, as its own clock has it: once, unless it retries in spite of `x-should-retry: false`.
    pub wakes: usize,
}

impl Client {
    /// All that it plays.
    pub fn scenes(&self) -> impl Iterator<Item = Scene> {
        Scene::ALL.into_iter().filter(|&scene| match scene {
            Scene::Failing => self.failing.is_some(),
            Scene::FailingStream => self.failing_stream.is_some(),
            Chat | Stream | Tools | Vision | Embeddings | Responses | Patient | PatientResponses => {
                self.scenes.contains(&scene)
            }
        })
    }

    /// What it raises in a scene; nothing where it is answered.
    pub fn raises(&self, scene: Scene) -> Option<Raised> {
        match scene {
            Scene::Failing => self.failing,
            Scene::FailingStream => self.failing_stream,
            Chat | Stream | Tools | Vision | Embeddings | Responses | Patient | PatientResponses => None,
        }
    }
}

/// The names of all clients.
pub fn names() -> String {
    let names: Vec<_> = CLIENTS.iter().map(|client| client.name).collect();
    names.join(", ")
}

/// A library in Python, which has everything but what its row says.
const PYTHON: Client = Client {
    name: "",
    package: "",
    language: Language::Python,
    script: "",
    scenes: &[Chat, Stream, Tools, Vision, Patient],
    always_calls: false,
    has_usage: true,
    failing: None,
    failing_stream: raised("openai.APIError"),
    quick: false,
};

/// A library in JavaScript.
const NODE: Client = Client {
    language: Language::Node,
    quick: true,
    ..PYTHON
};

/// A program that a person starts; it tells nothing of an error but in words.
const PROGRAM: Client = Client {
    language: Language::Program,
    scenes: &[Stream, Patient],
    failing: raised("exit code 1"),
    failing_stream: raised("exit code 1"),
    ..PYTHON
};

const fn raised(error: &'static str) -> Option<Raised> {
    Some(Raised { error, wakes: 1 })
}

/// The same by a client that retries all the same.
const fn raised_after(wakes: usize, error: &'static str) -> Option<Raised> {
    Some(Raised { error, wakes })
}

const OPENAI: &[Scene] = &[
    Chat,
    Stream,
    Tools,
    Vision,
    Embeddings,
    Responses,
    Patient,
    PatientResponses,
];

/// The rows.
pub const CLIENTS: &[Client] = &[
    Client {
        name: "openai-python",
        package: "openai",
        language: Language::NewestOpenai,
        script: "openai_python.py",
        scenes: OPENAI,
        failing: raised("openai.InternalServerError"),
        quick: true,
        ..PYTHON
    },
    Client {
        name: "openai-python-2",
        package: "openai",
        script: "openai_python.py",
        scenes: OPENAI,
        failing: raised("openai.InternalServerError"),
        ..PYTHON
    },
    Client {
        name: "openai-node",
        package: "openai",
        script: "openai_node.mjs",
        scenes: OPENAI,
        failing: raised("InternalServerError"),
        failing_stream: raised("APIError"),
        ..NODE
    },
    Client {
        name: "ai-sdk",
        package: "ai",
        script: "ai_sdk.mjs",
        scenes: OPENAI,
        failing: raised_after(3, "RetryError"),
        failing_stream: raised("Object"),
        ..NODE
    },
    Client {
        name: "anthropic-python",
        package: "anthropic",
        language: Language::Sdk,
        script: "anthropic_python.py",
        failing: raised("anthropic.ServiceUnavailableError"),
        failing_stream: raised("anthropic.APIStatusError"),
        quick: true,
        ..PYTHON
    },
    Client {
        name: "anthropic-node",
        package: "@anthropic-ai/sdk",
        script: "anthropic_node.mjs",
        failing: raised("ServiceUnavailableError"),
        failing_stream: raised("APIError"),
        ..NODE
    },
    Client {
        name: "ollama-python",
        package: "ollama",
        language: Language::Sdk,
        script: "ollama_python.py",
        scenes: &[Chat, Stream, Tools, Vision, Embeddings, Patient],
        failing: raised("ollama._types.ResponseError"),
        failing_stream: raised("ollama._types.ResponseError"),
        quick: true,
        ..PYTHON
    },
    Client {
        name: "ollama-node",
        package: "ollama",
        script: "ollama_node.mjs",
        scenes: &[Chat, Stream, Tools, Vision, Embeddings, Patient],
        failing: raised("ResponseError"),
        failing_stream: raised("Error"),
        ..NODE
    },
    Client {
        name: "langchain",
        package: "langchain-openai",
        script: "langchain.py",
        scenes: OPENAI,
        failing: raised("langchain_openai.chat_models.base.OpenAIAPIError"),
        ..PYTHON
    },
    Client {
        name: "litellm",
        package: "litellm",
        script: "litellm_python.py",
        scenes: OPENAI,
        failing: raised("litellm.exceptions.ServiceUnavailableError"),
        failing_stream: raised("litellm.exceptions.MidStreamFallbackError"),
        ..PYTHON
    },
    Client {
        name: "instructor",
        package: "instructor",
        script: "instructor_python.py",
        always_calls: true,
        has_usage: false,
        failing: raised("instructor.v2.core.errors.InstructorRetryException"),
        failing_stream: raised("instructor.v2.core.errors.InstructorRetryException"),
        ..PYTHON
    },
    Client {
        name: "pydantic-ai",
        package: "pydantic-ai-slim",
        script: "pydantic_ai_python.py",
        scenes: &[Chat, Stream, Tools, Vision, Responses, Patient, PatientResponses],
        failing: raised("pydantic_ai.exceptions.ModelHTTPError"),
        ..PYTHON
    },
    Client {
        name: "llama-index",
        package: "llama-index-llms-openai-like",
        script: "llama_index_python.py",
        scenes: &[Chat, Stream, Tools, Vision, Embeddings, Patient],
        failing: raised_after(3, "openai.InternalServerError"),
        ..PYTHON
    },
    Client {
        name: "dspy",
        package: "dspy",
        script: "dspy_python.py",
        scenes: &[Chat, Stream, Tools, Vision, Embeddings, Responses, Patient],
        failing: raised_after(4, "dspy.utils.exceptions.LMServerError"),
        failing_stream: raised("dspy.utils.exceptions.LMProviderError"),
        ..PYTHON
    },
    Client {
        name: "smolagents",
        package: "smolagents",
        script: "smolagents_python.py",
        failing: raised("openai.InternalServerError"),
        ..PYTHON
    },
    Client {
        name: "haystack",
        package: "haystack-ai",
        script: "haystack_python.py",
        scenes: &[Chat, Stream, Tools, Vision, Embeddings, Patient],
        failing: raised("openai.InternalServerError"),
        ..PYTHON
    },
    Client {
        name: "llm",
        package: "llm",
        script: "llm_cli.py",
        scenes: &[Chat, Stream, Tools, Vision, Patient],
        failing: raised("exit code 1"),
        failing_stream: raised("exit code 1"),
        ..PYTHON
    },
    Client {
        name: "aider",
        package: "aider-chat",
        language: Language::Aider,
        script: "aider_cli.py",
        scenes: &[Chat, Stream, Patient],
        has_usage: false,
        failing: raised_after(8, "exit code 0"),
        failing_stream: raised_after(8, "exit code 0"),
        ..PYTHON
    },
    Client {
        name: "opencode",
        package: "opencode-ai",
        script: "opencode_cli.py",
        has_usage: false,
        failing: raised_after(7, "APIError"),
        // It asks twice: for a title, too.
        failing_stream: raised_after(2, "UnknownError"),
        ..PROGRAM
    },
    Client {
        name: "codex",
        package: "@openai/codex",
        script: "codex_cli.py",
        scenes: &[Responses, PatientResponses],
        ..PROGRAM
    },
    Client {
        name: "claude-code",
        package: "@anthropic-ai/claude-code",
        script: "claude_code_cli.py",
        failing_stream: raised_after(2, "exit code 1"),
        ..PROGRAM
    },
    Client {
        name: "continue",
        package: "@continuedev/cli",
        script: "continue_cli.py",
        failing: raised_after(8, "exit code 1"),
        has_usage: false,
        ..PROGRAM
    },
];
