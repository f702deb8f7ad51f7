//! A proxy before a NATS server that sets its clock: it rewrites the times at which messages were stored, which is all that
//! a client sees of the clock.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use crate::Nats;

/// What the subjects begin with that tell when a message was stored.
const ACK: &[u8] = b"$JS.ACK.";
/// How many digits nanoseconds since 1970 have.
const DIGITS: usize = 19;

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct SteppedClock {
    address: SocketAddr,
    ahead_ns: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl SteppedClock {
    /// Stands before `nats`, whose clock is right at first.
    pub async fn of(nats: &Nats) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let ahead_ns = Arc::new(AtomicI64::new(0));
        let server = nats.url().trim_start_matches("nats://").to_owned();
        let task = tokio::spawn({
            let ahead_ns = ahead_ns.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if let Ok(server) = TcpStream::connect(&server).await {
                        let (ours, to_client) = client.into_split();
                        let (theirs, to_server) = server.into_split();
                        tokio::spawn(carry(ours, to_server, Arc::default()));
                        tokio::spawn(carry(theirs, to_client, ahead_ns.clone()));
                    }
                }
            }
        });
        Self {
            address,
            ahead_ns,
            task,
        }
    }

    /// `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on the clock is ahead of the right time by so many seconds, or behind.
    pub fn set_ahead(&self, seconds: i64) {
        self.ahead_ns.store(seconds * 1_000_000_000, Ordering::SeqCst);
    }
}

impl Drop for SteppedClock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries whole lines until either side ends.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, ahead_ns: Arc<AtomicI64>) {
    let mut held = Vec::new();
    while from.read_buf(&mut held).await.is_ok_and(|read| read > 0) {
        let Some(last) = held.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let rest = held.split_off(last + 1);
        shift(&mut held, ahead_ns.load(Ordering::SeqCst));
        if to.write_all(&held).await.is_err() {
            return;
        }
        held = rest;
    }
}

/// Moves each stored time in `bytes`, whose length stays the same.
fn shift(bytes: &mut [u8], by_ns: i64) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(ACK.len()).position(|window| window == ACK) {
        let start = at + found;
        let subject = bytes[start..].iter().position(u8::is_ascii_whitespace);
        let end = subject.map_or(bytes.len(), |length| start + length);
        for token in bytes[start..end].split_mut(|byte| *byte == b'.') {
            let time = std::str::from_utf8(token)
                .ok()
                .and_then(|text| text.parse::<i64>().ok());
            if let Some(time) = time.filter(|_| token.len() == DIGITS) {
                token.copy_from_slice((time + by_ns).to_string().as_bytes());
            }
        }
        at = end;
    }
}
