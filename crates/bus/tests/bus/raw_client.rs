//! A client that speaks NATS's protocol line by line, so that a test sees what the server says to each of its words.

use crate::events::PATIENCE;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// A connection of its own.
pub struct RawClient {
    lines: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    subscriptions: u32,
    messages: usize,
}

impl RawClient {
    /// Connects and proves to hold the key with this seed.
    pub async fn connect(url: &str, seed: &str) -> Self {
        let (mut client, nonce) = Self::greeted(url).await;
        let key = KeyPair::from_seed(seed).unwrap();
        let signature = key.sign(nonce.as_bytes()).unwrap();
        let refused = client.authenticate(&key.public_key(), &signature).await;
        assert_eq!(refused, None);
        client
    }

    /// Connects, and returns what the server wants to be signed.
    pub async fn greeted(url: &str) -> (Self, String) {
        let address = url.strip_prefix("nats://").unwrap();
        let (read, write) = TcpStream::connect(address).await.unwrap().into_split();
        let mut client = Self {
            lines: BufReader::new(read),
            write,
            subscriptions: 0,
            messages: 0,
        };
        let greeting = client.line().await;
        let info: Value = serde_json::from_str(greeting.trim_start_matches("INFO ")).unwrap();
        let nonce = info["nonce"].as_str().unwrap_or_default().to_owned();
        (client, nonce)
    }

    /// Shows a public key and a signature. Returns what the server says against it.
    pub async fn authenticate(&mut self, key: &str, signature: &[u8]) -> Option<String> {
        let connect = json!({
            "nkey": key,
            "sig": BASE64_URL_SAFE_NO_PAD.encode(signature),
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "test", "version": "1", "protocol": 1,
        });
        self.write
            .write_all(format!("CONNECT {connect}\r\n").as_bytes())
            .await
            .unwrap();
        self.refusal().await
    }

    /// What the server says against what was written so far: it says so before it answers a later ping.
    pub async fn refusal(&mut self) -> Option<String> {
        // A server that ends the connection may have done so before it reads this.
        let _ = self.write.write_all(b"PING\r\n").await;
        let mut refused = None;
        loop {
            let line = self.line().await;
            match line.split(' ').next() {
                Some("PONG") => return refused,
                Some("-ERR") => refused = Some(line),
                Some("MSG" | "HMSG") => self.messages += 1,
                // The server has ended the connection.
                Some("") => return refused.or(Some(String::new())),
                _ => {}
            }
        }
    }

    /// Publishes with headers (lines that end in CRLF, or none) and perhaps a place for answers.
    pub async fn publish(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &str,
        payload: &str,
    ) -> Option<String> {
        let head = format!("NATS/1.0\r\n{headers}\r\n");
        let (own, total) = (head.len(), head.len() + payload.len());
        let line = format!("HPUB {subject} {reply} {own} {total}\r\n{head}{payload}\r\n");
        self.write.write_all(line.as_bytes()).await.unwrap();
        self.refusal().await
    }

    /// Whether the server takes a message to this subject.
    pub async fn may_publish(&mut self, subject: &str) -> bool {
        let subject = subject.replace(['*', '>'], "x");
        self.publish(&subject, "", "", "{}").await.is_none()
    }

    /// Whether the server takes a subscription.
    pub async fn may_subscribe(&mut self, subject: &str) -> bool {
        self.subscriptions += 1;
        let line = format!("SUB {subject} {}\r\n", self.subscriptions);
        self.write.write_all(line.as_bytes()).await.unwrap();
        self.refusal().await.is_none()
    }

    /// How many messages came between the answers to pings.
    pub const fn heard(&self) -> usize {
        self.messages
    }

    /// The first line of the next message.
    pub async fn next_message(&mut self) -> String {
        loop {
            let line = self.line().await;
            if line.starts_with("MSG ") || line.starts_with("HMSG ") {
                return line;
            }
            assert!(!line.is_empty(), "the connection ended");
        }
    }

    /// The next line; empty when the connection has ended.
    async fn line(&mut self) -> String {
        let mut line = vec![];
        let read = self.lines.read_until(b'\n', &mut line);
        timeout(PATIENCE, read)
            .await
            .expect("the server speaks")
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() && !line.is_empty() {
            "(an empty line of a message)".to_owned()
        } else {
            text
        }
    }
}
