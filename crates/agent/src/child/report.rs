//! What a shim reports to the agent: one JSON object a line.

use crate::processes::Process;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The child's process id.
    Started(i32),
    /// Why there is no child: one sentence, without the program's name.
    Failed(String),
    /// The child has ended.
    Exited {
        exit: Exit,
        /// The descendants that it has left running, at most [`MAX_LEFT`].
        left: Vec<Process>,
        /// The end of what it has printed.
        printed: String,
    },
}

/// Why there is no child although its program's file exists: as a rule it is a script.
pub(super) const INTERPRETER_MISSING: &str = "it or its interpreter was not found";
/// The most descendants that are named.
pub(super) const MAX_LEFT: usize = 16;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its shim was killed, so the child's process group was killed too.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Lost => f.write_str("lost its supervisor"),
        }
    }
}
