//! Why a step has probably failed, where how it ended and what was printed or answered show that.

use super::report::Exit;
use std::fmt;

/// What to do about a step that failed. The text may name a variable or a file, so it is for the owner of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The agent has a variable that the command lacks.
    Variable(String),
    PortTaken,
    GpuMemory,
    /// The interpreter of a script doesn't exist; what its first line names, if that is known.
    Interpreter(Option<String>),
    /// The command itself can't be run.
    Unusable {
        program: String,
        reason: String,
        remedy: String,
    },
    /// A file that the command runs isn't executable.
    NotExecutable,
    NotAllowed,
    NotFound,
    /// A command that should serve has ended, and nothing failed.
    NotServing,
    /// The server that answers lists other models.
    OtherModels {
        /// Whether it may be another program than the backend.
        is_maybe_another: bool,
    },
    /// What a server answered to a request that failed.
    Answer {
        /// One short line.
        text: String,
        /// The model that an Ollama doesn't have, as the request names it.
        lacks: Option<String>,
    },
}

impl Hint {
    /// What it is called where it is shown.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Answer { .. } => "answer",
            _ => "hint",
        }
    }

    /// The same without names, for whoever waits for the backend. None of it was printed by the command.
    #[must_use]
    pub const fn public(&self) -> &'static str {
        match self {
            Self::Variable(_) => "it lacks a variable that the agent has (`env_pass`)",
            Self::PortTaken => "its port is taken",
            Self::GpuMemory => "the GPU's memory is full",
            Self::Interpreter(_) => "the interpreter of a script was not found",
            Self::Unusable { .. } => "its program can't be run",
            Self::NotExecutable => "a file that it runs is not executable",
            Self::NotAllowed => "it was denied the use of a file",
            Self::NotFound => "a program that it runs was not found",
            Self::NotServing => {
                "a command that runs to its end needs run = \"once\", and one that leaves a server running \
                 run = \"detach\""
            }
            Self::OtherModels { .. } => "the server there lists other models",
            Self::Answer { .. } => "`reveille logs` on its machine has the answer",
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(
                f,
                "{name} is set here, but the command doesn't get it: add env_pass = [\"{name}\"] to its recipe"
            ),
            Self::PortTaken => f.write_str(
                "its port is taken: end the program that has it, or give the command and base_url another port",
            ),
            Self::GpuMemory => f.write_str(
                "the GPU's memory is full: use a smaller model or context, or let models take turns with `exclusive`",
            ),
            Self::Interpreter(Some(line)) if line.ends_with('\r') => {
                f.write_str("the script has the line ends of Windows: save it with those of Unix")
            }
            Self::Interpreter(Some(line)) => write!(
                f,
                "the script's first line names `{line}`, which does not exist: correct that line, or install it"
            ),
            Self::Interpreter(None) => f.write_str(
                "the interpreter in a script's first line does not exist: correct that line, or install it",
            ),
            Self::Unusable {
                program,
                reason,
                remedy,
            } => write!(f, "can't run `{program}`: {reason}; {remedy}"),
            Self::NotExecutable => {
                f.write_str("code 126 means that a file is not executable: chmod +x FILE")
            }
            Self::NotAllowed => f.write_str(
                "the user that it runs as may not use a file: look at its owner and mode; a script needs chmod +x",
            ),
            Self::NotFound => f.write_str(
                "a program was not found: name it by its absolute path, or set PATH in the recipe's `env`",
            ),
            Self::NotServing => f.write_str(self.public()),
            Self::OtherModels { is_maybe_another } => {
                f.write_str(
                    "load the model there, correct `models`, or set `probe.check_models` to false if the server answers to \
                     any name",
                )?;
                match is_maybe_another {
                    true => f.write_str("; if it is another server, end it, or give the provider another port"),
                    false => Ok(()),
                }
            }
            Self::Answer { text, .. } => f.write_str(text),
        }
    }
}

/// What is known of a command.
pub(super) struct Facts<'a> {
    /// How it ended by itself.
    pub(super) exit: Exit,
    pub(super) printed: &'a str,
    /// Whether it should have gone on, and left nothing that does.
    pub(super) should_serve: bool,
    /// Whether the agent has a variable that the command doesn't get.
    pub(super) lacks: &'a dyn Fn(&str) -> bool,
}

/// What a line says, in lower case, that names a missing variable.
const MISSING: [&str; 15] = [
    "needed",
    "required",
    "requires",
    "must be set",
    "not set",
    "isn't set",
    "unset",
    "please set",
    "missing",
    "unbound variable",
    "undefined",
    "not defined",
    "keyerror",
    "notpresent",
    "environment variable",
];
const PORT_TAKEN: [&str; 4] = [
    "address already in use",
    "eaddrinuse",
    "port is already allocated",
    // llama.cpp's.
    "couldn't bind http server socket",
];
const GPU_MEMORY: [&str; 9] = [
    "cuda out of memory",
    "hip out of memory",
    "torch.outofmemoryerror",
    "torch.cuda.outofmemoryerror",
    "cudamalloc failed: out of memory",
    "cuda error: out of memory",
    "cuda_error_out_of_memory",
    "erroroutofdevicememory",
    // vLLM's.
    "less than desired gpu memory utilization",
];
/// The exit codes of shells for a file that can't be run, and for one that isn't there.
const NOT_EXECUTABLE: Exit = Exit::Code(126);
const NOT_FOUND: Exit = Exit::Code(127);

/// The most probable reason, if any shows.
pub(super) fn hint(facts: &Facts<'_>) -> Option<Hint> {
    if facts.exit == Exit::Code(0) {
        return facts.should_serve.then_some(Hint::NotServing);
    }
    let printed = facts.printed.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|words| printed.contains(words));
    if let Some(name) = missing_variable(facts) {
        return Some(Hint::Variable(name));
    }
    if says(&PORT_TAKEN) {
        return Some(Hint::PortTaken);
    }
    if says(&GPU_MEMORY) {
        return Some(Hint::GpuMemory);
    }
    if says(&["bad interpreter"]) {
        return Some(Hint::Interpreter(None));
    }
    if facts.exit == NOT_FOUND || says(&["command not found"]) {
        return Some(Hint::NotFound);
    }
    if facts.exit == NOT_EXECUTABLE && !says(&["exec format error"]) {
        return Some(Hint::NotExecutable);
    }
    says(&["permission denied"]).then_some(Hint::NotAllowed)
}

/// The variable that the last such line names.
fn missing_variable(facts: &Facts<'_>) -> Option<String> {
    facts.printed.lines().rev().find_map(|line| {
        let lower = line.to_lowercase();
        if !MISSING.iter().any(|words| lower.contains(words)) {
            return None;
        }
        let mut names = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names
            .find(|name| name.len() > 1 && (facts.lacks)(name))
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_that_shows_has_its_remedy() {
        let lacks = |name: &str| ["HF_TOKEN", "https_proxy", "X"].contains(&name);
        let token = || Some(Hint::Variable("HF_TOKEN".to_owned()));
        for (code, printed, expected) in [
            (7, "HF_TOKEN is needed: set it\n", token()),
            (
                1,
                "Traceback:\n  os.environ[key]\nKeyError: 'HF_TOKEN'\n",
                token(),
            ),
            (1, "start.sh: line 2: HF_TOKEN: unbound variable", token()),
            (2, "sh: 1: HF_TOKEN: parameter not set", token()),
            (1, "ValueError: $HF_TOKEN isn't set", token()),
            (101, "called `Result::unwrap()`: HF_TOKEN: NotPresent", token()),
            (1, "process.env.HF_TOKEN is undefined", token()),
            (1, "loading\nplease set HF_TOKEN\nbye", token()),
            // Nothing that the agent could pass on, or nothing missing.
            (1, "OTHER_TOKEN is needed", None),
            (1, "X is needed", None),
            (1, "using HF_TOKEN of the environment", None),
            (
                1,
                "https_proxy must be set",
                Some(Hint::Variable("https_proxy".to_owned())),
            ),
            (
                1,
                "bind: OSError: [Errno 98] Address already in use",
                Some(Hint::PortTaken),
            ),
            (1, "Error: listen EADDRINUSE: 8000", Some(Hint::PortTaken)),
            (
                1,
                "couldn't bind HTTP server socket, port: 8080",
                Some(Hint::PortTaken),
            ),
            (
                1,
                "torch.OutOfMemoryError: CUDA out of memory.",
                Some(Hint::GpuMemory),
            ),
            (
                1,
                "ValueError: Free memory on device is less than desired GPU memory utilization",
                Some(Hint::GpuMemory),
            ),
            (1, "java.lang.OutOfMemoryError", None),
            (127, "", Some(Hint::NotFound)),
            (127, "sh: 1: vllm: not found", Some(Hint::NotFound)),
            (1, "./run: line 3: vllm: command not found", Some(Hint::NotFound)),
            (126, "sh: 1: ./run: Permission denied", Some(Hint::NotExecutable)),
            (126, "cannot execute: Exec format error", None),
            (
                126,
                "bash: ./run: /no/python: bad interpreter: No such file",
                Some(Hint::Interpreter(None)),
            ),
            (
                1,
                "open /models/a.gguf: permission denied",
                Some(Hint::NotAllowed),
            ),
            (1, "something else", None),
            (0, "HF_TOKEN is needed", None),
        ] {
            let facts = Facts {
                exit: Exit::Code(code),
                printed,
                should_serve: false,
                lacks: &lacks,
            };
            assert_eq!(hint(&facts), expected, "{code} {printed}");
        }
        for (exit, should_serve, expected) in [
            (Exit::Code(0), true, Some(Hint::NotServing)),
            (Exit::Code(3), true, None),
            (Exit::Signal(9), true, None),
        ] {
            let facts = Facts {
                exit,
                printed: "",
                should_serve,
                lacks: &lacks,
            };
            assert_eq!(hint(&facts), expected, "{exit}");
        }
    }

    #[test]
    fn a_hint_says_what_to_write_and_its_public_form_names_nothing() {
        let variable = Hint::Variable("HF_TOKEN".to_owned());
        assert!(variable.to_string().contains("env_pass = [\"HF_TOKEN\"]"));
        assert!(!variable.public().contains("HF_TOKEN"));
        let file = Hint::Unusable {
            program: "/opt/run.sh".to_owned(),
            reason: "the program is not executable".to_owned(),
            remedy: "run `chmod +x /opt/run.sh`".to_owned(),
        };
        assert!(file.to_string().contains("chmod +x /opt/run.sh"));
        assert!(!file.public().contains("/opt"));
        let script = |line: &str| Hint::Interpreter(Some(line.to_owned())).to_string();
        assert!(script("/no/python").contains("`/no/python`"));
        assert!(script("/bin/sh\r").contains("line ends"));
    }
}
