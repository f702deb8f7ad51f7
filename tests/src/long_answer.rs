//! A long streamed answer that anybody can compute: the stand-in sends it, a test hashes what arrived.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// How many bytes one event of the stream takes, the last one excepted.
const EVENT_BYTES: usize = 16 * 1024;
const HEAD: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"";
const TAIL: &[u8] = b"\"}}]}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// The pieces of a valid event stream of exactly `bytes` bytes in all, which ends with `[DONE]`.
///
/// # Panics
/// When `bytes` is too small for one event and the end.
pub fn pieces(bytes: usize) -> impl Iterator<Item = Bytes> + Send {
    let frame = HEAD.len() + TAIL.len();
    assert!(
        bytes > frame + DONE.len(),
        "a long answer is longer than {} bytes",
        frame + DONE.len()
    );
    let mut left = bytes - DONE.len();
    let mut seed = 0_u64;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        // What is left after this event must hold another one, or nothing.
        let size = if left < EVENT_BYTES + frame + 1 {
            left
        } else {
            EVENT_BYTES
        };
        left -= size;
        Some(event(size, &mut seed))
    })
    .chain([Bytes::from_static(DONE)])
}

/// The SHA-256 of [`pieces`] put together, in lower-case hex.
pub fn sha256(bytes: usize) -> String {
    let mut hash = Sha256::new();
    for piece in pieces(bytes) {
        hash.update(&piece);
    }
    hex(&hash.finalize())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An event whose content is letters that never repeat the way a lost or doubled block would need.
fn event(size: usize, seed: &mut u64) -> Bytes {
    let mut event = Vec::with_capacity(size);
    event.extend_from_slice(HEAD);
    while event.len() < size - TAIL.len() {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        event.push(b'a' + (*seed >> 33).to_le_bytes()[0] % 26);
    }
    event.extend_from_slice(TAIL);
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_exactly_the_size_asked_for() {
        for size in [
            200,
            EVENT_BYTES,
            EVENT_BYTES + 30,
            EVENT_BYTES + 100,
            3 * EVENT_BYTES + 77,
            1 << 20,
        ] {
            let all: Vec<u8> = pieces(size).flatten().collect();
            assert_eq!(all.len(), size);
            assert!(all.ends_with(DONE));
            let text = String::from_utf8(all).unwrap();
            for line in text
                .lines()
                .filter(|line| !line.is_empty() && *line != "data: [DONE]")
            {
                let event: serde_json::Value =
                    serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
                assert!(event["choices"][0]["delta"]["content"].is_string());
            }
        }
    }
}
