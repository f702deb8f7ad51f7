//! What the handlers share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use crate::{imitated::Imitated, log::Log, options::Options};

/// One running stand-in.
#[derive(Debug)]
pub struct Server {
    /// How it behaves.
    pub options: Options,
    /// Where it writes down what happens.
    pub log: Arc<Log>,
    /// The server that it imitates.
    pub imitated: Imitated,
    under_way: Arc<AtomicUsize>,
    asleep: AtomicBool,
    requests: AtomicU64,
}

impl Server {
    /// A server in the state in which the options want it to start.
    pub fn new(options: Options, log: Arc<Log>) -> Arc<Self> {
        let asleep = AtomicBool::new(options.asleep);
        let imitated = Imitated::new(&options);
        Arc::new(Self {
            imitated,
            under_way: Arc::default(),
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

    /// How many requests are being answered.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    /// One more, until it is dropped.
    pub fn begin(&self) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.under_way.clone())
    }

    /// Counts requests from 1, within this process.
    pub fn next_number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
