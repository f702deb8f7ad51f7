//! Servers that people have, as far as waking them and putting them to sleep goes: their own paths, and their traps.
//!
//! Each was written after its server's documentation and source. What a trap costs is written into the log.

mod llama_cpp;
mod lm_studio;
mod ollama;
mod vllm;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{Router, http::StatusCode};
use clap::ValueEnum;

use crate::{options::Options, server::Server};

/// Whom the stand-in imitates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// vLLM with sleep mode.
    Vllm,
    /// vLLM without it.
    VllmWithoutSleepMode,
    /// Ollama.
    Ollama,
    /// llama.cpp's server with one model.
    LlamaCpp,
    /// llama.cpp's server as a router.
    LlamaCppRouter,
    /// LM Studio's server.
    LmStudio,
}

/// What the imitated server has in its memory.
#[derive(Debug)]
pub enum Imitated {
    /// Nobody in particular.
    Nobody,
    /// See [`Name`].
    Vllm(Mutex<vllm::Vllm>),
    /// See [`Name`].
    VllmWithoutSleepMode,
    /// See [`Name`].
    Ollama(Mutex<ollama::Ollama>),
    /// See [`Name`].
    LlamaCpp(llama_cpp::Loading),
    /// See [`Name`].
    Router(Mutex<llama_cpp::Router>),
    /// See [`Name`].
    LmStudio,
}

/// What becomes of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The answer.
    Answered,
    /// An answer that looks like one.
    Nonsense,
    /// Refused with this status.
    Refused(StatusCode, &'static str),
    /// The end of the server.
    Crash(&'static str),
}

impl Imitated {
    /// Nothing has been asked of it yet.
    pub fn new(options: &Options) -> Self {
        match options.imitates {
            None => Self::Nobody,
            Some(Name::Vllm) => Self::Vllm(Mutex::default()),
            Some(Name::VllmWithoutSleepMode) => Self::VllmWithoutSleepMode,
            Some(Name::LmStudio) => Self::LmStudio,
            Some(Name::Ollama) => Self::Ollama(Mutex::default()),
            Some(Name::LlamaCpp) => Self::LlamaCpp(llama_cpp::Loading::begun(options)),
            Some(Name::LlamaCppRouter) => Self::Router(Mutex::default()),
        }
    }

    /// What it would make of a completion of that model now.
    pub fn completion(&self, server: &Server, model: &str) -> Completion {
        match self {
            Self::Nobody | Self::VllmWithoutSleepMode | Self::LmStudio => Completion::Answered,
            Self::Vllm(vllm) => lock(vllm).completion(),
            Self::Ollama(ollama) => lock(ollama).completion(server, model),
            Self::LlamaCpp(loading) => loading.completion(),
            Self::Router(router) => lock(router).completion(server, model),
        }
    }
}

/// The paths that only this server has; none when nobody in particular is imitated.
pub fn routes(server: &Server) -> Option<Router<Arc<Server>>> {
    match server.imitated {
        Imitated::Nobody => None,
        Imitated::Vllm(_) => Some(vllm::routes()),
        Imitated::VllmWithoutSleepMode => Some(vllm::routes_without_sleep_mode()),
        Imitated::LmStudio => Some(lm_studio::routes()),
        Imitated::Ollama(_) => Some(ollama::routes()),
        Imitated::LlamaCpp(_) => Some(llama_cpp::routes()),
        Imitated::Router(_) => Some(llama_cpp::router_routes()),
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
