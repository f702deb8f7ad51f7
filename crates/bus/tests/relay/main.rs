//! The relay over a real nats-server: what arrives, what fails visibly, and what stays bounded.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the way to fail")]

mod bounded;
mod carried;
mod ended;
mod faults;
mod nats;
mod raw;

use bytes::Bytes;
use futures::StreamExt;
use reveille_bus::relay::{RelayError, ResponseBody};

const MIB: usize = 1024 * 1024;

/// Bytes that differ from place to place, so that swapped or missing chunks show.
fn pattern(bytes: usize) -> Bytes {
    let word = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..bytes.div_ceil(8)).flat_map(word).take(bytes).collect()
}

/// Reads a body to its end.
async fn read(mut body: ResponseBody) -> Result<Vec<u8>, RelayError> {
    let mut all = Vec::new();
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}
