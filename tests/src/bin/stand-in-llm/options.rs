//! How the stand-in behaves, from its command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use rand::Rng;

use crate::imitated::Name;

/// A stand-in for a model server: it holds no model and answers `token-0 token-1 …`.
#[derive(Debug, Parser)]
#[command(name = "stand-in-llm")]
pub struct Options {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// A model that it claims to have; may be given several times.
    #[arg(long = "model", default_value = "stand-in")]
    pub models: Vec<String>,
    /// Time from the start to listening.
    #[arg(long, default_value_t = 0)]
    pub boot_delay_ms: u64,
    /// With it the time from the start to listening is drawn anew at each start, from the other one up to this one.
    #[arg(long)]
    pub boot_delay_max_ms: Option<u64>,
    /// Ends with this code instead of listening.
    #[arg(long)]
    pub fail_boot: Option<u8>,
    /// How long it takes to end once it is told to; it doesn't listen any more then.
    #[arg(long, default_value_t = 0)]
    pub end_delay_ms: u64,
    /// A file that stands for the memory of a GPU: whoever runs holds it, and whoever finds it held ends at once.
    #[arg(long)]
    pub gpu: Option<PathBuf>,
    /// Whose own paths and traps it has; without it, a little of vLLM's.
    #[arg(long)]
    pub imitates: Option<Name>,
    /// How long what is imitated takes to load a model.
    #[arg(long, default_value_t = 0)]
    pub load_delay_ms: u64,
    /// Starts asleep: answers 503 until `POST /wake_up`.
    #[arg(long)]
    pub asleep: bool,
    /// How long `POST /wake_up` takes.
    #[arg(long, default_value_t = 0)]
    pub wake_delay_ms: u64,
    /// Accepts requests and never answers them.
    #[arg(long)]
    pub hang: Option<Hang>,
    /// How many tokens an answer has, unless the request asks for fewer.
    #[arg(long, default_value_t = 8)]
    pub tokens: usize,
    /// Time before the first token.
    #[arg(long, default_value_t = 0)]
    pub first_token_delay_ms: u64,
    /// Time before each further token.
    #[arg(long, default_value_t = 0)]
    pub token_delay_ms: u64,
    /// Calls a tool of a request that has any, with arguments that fit the tool's schema.
    #[arg(long)]
    pub calls_tools: bool,
    /// Ends at once, in the middle of an answer, after this many tokens.
    #[arg(long)]
    pub die_after_tokens: Option<usize>,
    /// Streams an event stream of exactly this many bytes instead of tokens.
    #[arg(long)]
    pub answer_bytes: Option<usize>,
    /// Where starts and requests are written down, one JSON object a line.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Starts a child process of its own that only exists.
    #[arg(long)]
    pub fork_grandchild: bool,
    /// What that child process is started with.
    #[arg(long, hide = true)]
    pub only_sleep: bool,
}

impl Options {
    /// How long this start takes until it listens.
    pub fn boot_delay(&self) -> Duration {
        let shortest = self.boot_delay_ms;
        let longest = self.boot_delay_max_ms.unwrap_or(shortest).max(shortest);
        Duration::from_millis(rand::rng().random_range(shortest..=longest))
    }
}

/// Which requests are never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Hang {
    /// Inference alone: probes find it well.
    Inference,
    /// All of them.
    All,
}
