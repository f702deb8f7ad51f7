//! One request, from its arrival to its end, in the log.

use std::sync::Arc;

use axum::http::{HeaderMap, Method};
use reveille_tests::long_answer::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    log::Log,
    server::{Server, UnderWay},
};

/// Writes a `request` line when made and one more at the end: `answered`, or `aborted` when it is dropped before,
/// which is what happens when the client closes its connection.
#[derive(Debug)]
pub struct Ticket {
    log: Arc<Log>,
    number: u64,
    request_id: Option<String>,
    body_sha256: String,
    body_bytes: usize,
    sent: Sha256,
    sent_bytes: usize,
    ended: bool,
    _under_way: UnderWay,
}

impl Ticket {
    /// For a request whose body has arrived whole.
    pub fn open(server: &Server, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = header("x-request-id").map(str::to_owned);
        let ticket = Self {
            log: server.log.clone(),
            number: server.next_number(),
            request_id,
            body_sha256: hex(&Sha256::digest(body)),
            body_bytes: body.len(),
            sent: Sha256::new(),
            sent_bytes: 0,
            ended: false,
            _under_way: server.begin(),
        };
        ticket.write(json!({
            "event": "request",
            "method": method.as_str(),
            "path": path,
            "authorization": header("authorization"),
            "model": serde_json::from_slice::<Value>(body).ok().map(|body| body["model"].clone()),
            "body_sha256": ticket.body_sha256,
            "body_bytes": ticket.body_bytes,
        }));
        ticket
    }

    /// What the answer says about the request, so that a client can check that it arrived intact.
    pub fn receipt(&self) -> Value {
        json!({
            "request_sha256": self.body_sha256,
            "request_bytes": self.body_bytes,
            "request_id": self.request_id,
            "pid": std::process::id(),
        })
    }

    /// A piece of the answer was handed to the connection.
    pub fn sent(&mut self, piece: &[u8]) {
        self.sent.update(piece);
        self.sent_bytes += piece.len();
    }

    /// The answer is complete.
    pub fn answered(mut self, status: u16) {
        self.ended = true;
        let sha256 = hex(&self.sent.clone().finalize());
        let bytes = self.sent_bytes;
        self.write(
            json!({ "event": "answered", "status": status, "answer_sha256": sha256, "answer_bytes": bytes }),
        );
    }

    fn write(&self, mut entry: Value) {
        entry["pid"] = json!(std::process::id());
        entry["number"] = json!(self.number);
        entry["request_id"] = json!(self.request_id);
        self.log.write(&entry);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.write(json!({ "event": "aborted", "answer_bytes": self.sent_bytes }));
        }
    }
}
