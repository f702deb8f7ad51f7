//! What the handlers share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{log::Log, options::Options};

/// One running stand-in.
#[derive(Debug)]
pub struct Server {
    /// How it behaves.
    pub options: Options,
    /// Where it writes down what happens.
    pub log: Arc<Log>,
    asleep: AtomicBool,
    requests: AtomicU64,
}

impl Server {
    /// A server in the state in which the options want it to start.
    pub fn new(options: Options, log: Arc<Log>) -> Arc<Self> {
        let asleep = AtomicBool::new(options.asleep);
        Arc::new(Self {
            options,
            log,
            asleep,
            requests: AtomicU64::new(0),
        })
    }

    /// Whether it sleeps, as vLLM does after `POST /sleep`.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Puts it to sleep or wakes it.
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::SeqCst);
    }

    /// Counts requests from 1, within this process.
    pub fn next_number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::SeqCst) + 1
    }
}
