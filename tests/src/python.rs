//! Runs Python with the packages that real people use: `openai`, and `nats` for subscribers.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::programs::{nats_py_path, openai_path};

const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// What `PYTHONPATH` has to be for `import openai` and `import nats`.
pub fn python_path() -> String {
    format!("{}:{}", openai_path().display(), nats_py_path().display())
}

/// A script and how it ended.
#[derive(Debug, Clone)]
pub struct Script {
    /// Whether its exit code was 0.
    pub succeeded: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs a script in which `import openai` works and the client's variables name our API (`OPENAI_BASE_URL`,
/// `OPENAI_API_KEY`).
pub async fn run_python(script: &str, api_url: &str) -> Script {
    let mut python = Command::new("python3");
    python
        .args(["-c", script])
        .kill_on_drop(true)
        .stdin(Stdio::null());
    python
        .env("PYTHONPATH", python_path())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    python
        .env("OPENAI_BASE_URL", format!("{api_url}/v1"))
        .env("OPENAI_API_KEY", "none");
    let output = timeout(ENDS_WITHIN, python.output())
        .await
        .expect("the script ends")
        .expect("python3 runs");
    Script {
        succeeded: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
