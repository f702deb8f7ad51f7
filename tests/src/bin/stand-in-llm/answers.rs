//! What the stand-in answers: always the same tokens, so that a test knows what must arrive.

use std::{convert::Infallible, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, stream};
use reveille_tests::long_answer;
use serde_json::{Value, json};

use crate::{dialects::Dialect, options::Options, ticket::Ticket, tool_calls::Call};

const EVENTS: &str = "text/event-stream";
/// Numbers in one embedding.
const EMBEDDING_DIMENSIONS: usize = 8;
/// What died in the middle of an answer ends with.
const DIED: i32 = 70;
/// Time for the last piece to leave before dying.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// An answer to one request.
pub enum Answer {
    /// Piece by piece, with this content type.
    Stream(&'static str, Pieces),
    /// In one JSON object, or, when it dies, not at all.
    Whole {
        /// How long it takes.
        after: Duration,
        /// The object.
        body: Value,
        /// Whether the process ends instead of sending it.
        dies: bool,
    },
}

/// What is sent one after another.
pub struct Pieces(Box<dyn Iterator<Item = Piece> + Send>);

enum Piece {
    Send { after: Duration, bytes: Bytes },
    Die,
}

/// Decides on the answer; the request's `model` is one that the stand-in has.
pub fn answer(options: &Options, path: &str, request: &Value, ticket: &Ticket) -> Answer {
    if request["nonsense"] == json!(true) {
        return Answer::Whole {
            after: Duration::ZERO,
            body: nonsense(request),
            dies: false,
        };
    }
    let at_once = match path {
        "/v1/embeddings" => Some(embeddings(request)),
        "/api/embed" => Some(json!({ "model": request["model"], "embeddings": vectors(request) })),
        "/v1/messages/count_tokens" => Some(json!({ "input_tokens": 1 })),
        _ => None,
    };
    if let Some(body) = at_once {
        return Answer::Whole {
            after: Duration::ZERO,
            body,
            dies: false,
        };
    }
    if let Some(bytes) = options.answer_bytes {
        let pieces = long_answer::pieces(bytes).map(|bytes| Piece::Send {
            after: Duration::ZERO,
            bytes,
        });
        return Answer::Stream(EVENTS, Pieces(Box::new(pieces)));
    }
    let reply = Reply::new(options, path, request, ticket);
    if let Some(dialect) = Dialect::of(path) {
        return reply.in_dialect(dialect, dialect.streams(request));
    }
    if request["stream"] == json!(true) {
        Answer::Stream(EVENTS, reply.pieces())
    } else {
        reply.whole()
    }
}

/// What comes of weights that are all the same: the first token, again and again.
fn nonsense(request: &Value) -> Value {
    let message = json!({ "role": "assistant", "content": "!!!!!!!!" });
    let choice = json!({ "index": 0, "message": message, "finish_reason": "length" });
    json!({ "id": "stand-in", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice] })
}

/// Ends the process in the way of a crash: connections are cut.
pub fn die() -> ! {
    std::process::exit(DIED)
}

impl Pieces {
    /// The body of the response. The ticket ends with it, or is dropped with it.
    pub fn stream(self, ticket: Ticket) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold((self.0, ticket), async |(mut pieces, mut ticket)| {
            match pieces.next() {
                None => {
                    ticket.answered(200);
                    None
                }
                Some(Piece::Send { after, bytes }) => {
                    pause(after).await;
                    ticket.sent(&bytes);
                    Some((Ok(bytes), (pieces, ticket)))
                }
                Some(Piece::Die) => {
                    tokio::time::sleep(LAST_WORDS).await;
                    die()
                }
            }
        })
    }
}

/// A chat or text completion.
struct Reply {
    chat: bool,
    model: Value,
    receipt: Value,
    tokens: usize,
    dies_after: Option<usize>,
    first_after: Duration,
    next_after: Duration,
    with_usage: bool,
    call: Option<Call>,
}

impl Reply {
    fn new(options: &Options, path: &str, request: &Value, ticket: &Ticket) -> Self {
        let asked = ["max_completion_tokens", "max_tokens"]
            .iter()
            .find_map(|key| request[*key].as_u64());
        let asked = asked
            .and_then(|asked| usize::try_from(asked).ok())
            .unwrap_or(usize::MAX);
        let tokens = options.tokens.min(asked);
        Self {
            chat: path == "/v1/chat/completions",
            model: request["model"].clone(),
            receipt: ticket.receipt(),
            tokens,
            dies_after: options.die_after_tokens.filter(|after| *after <= tokens),
            first_after: Duration::from_millis(options.first_token_delay_ms),
            next_after: Duration::from_millis(options.token_delay_ms),
            with_usage: request["stream_options"]["include_usage"] == json!(true),
            call: Call::of(request).filter(|_| options.calls_tools),
        }
    }

    fn whole(self) -> Answer {
        let sent = self.dies_after.unwrap_or(self.tokens);
        let further = u32::try_from(sent.saturating_sub(1)).unwrap_or(u32::MAX);
        let text: String = (0..self.tokens).map(token).collect();
        let choice = if let Some(call) = &self.call {
            let message = json!({ "role": "assistant", "content": null, "tool_calls": [wrapped(call)] });
            json!({ "index": 0, "message": message, "finish_reason": "tool_calls" })
        } else if self.chat {
            json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" })
        } else {
            json!({ "index": 0, "text": text, "finish_reason": "stop" })
        };
        let object = if self.chat {
            "chat.completion"
        } else {
            "text_completion"
        };
        let mut body = self.object(object, &[choice]);
        body["usage"] = self.usage();
        body["stand_in"] = self.receipt.clone();
        Answer::Whole {
            after: self.first_after + self.next_after.saturating_mul(further),
            body,
            dies: self.dies_after.is_some(),
        }
    }

    /// The same in the words of another API.
    fn in_dialect(self, dialect: Dialect, streams: bool) -> Answer {
        let tokens: Vec<_> = (0..self.tokens).map(token).collect();
        if !streams {
            let further = u32::try_from(self.tokens.saturating_sub(1)).unwrap_or(u32::MAX);
            return Answer::Whole {
                after: self.first_after + self.next_after.saturating_mul(further),
                body: dialect.whole(&self.model, &tokens, self.call.as_ref()),
                dies: false,
            };
        }
        let (before, tokens, after) = dialect.stream(&self.model, &tokens, self.call.as_ref());
        let send = |after: Duration, text: String| Piece::Send {
            after,
            bytes: text.into(),
        };
        let before = before.into_iter().map(move |text| send(Duration::ZERO, text));
        let tokens = tokens.into_iter().enumerate().map(move |(number, text)| {
            send(
                if number == 0 {
                    self.first_after
                } else {
                    self.next_after
                },
                text,
            )
        });
        let after = after.into_iter().map(move |text| send(Duration::ZERO, text));
        Answer::Stream(
            dialect.stream_type(),
            Pieces(Box::new(before.chain(tokens).chain(after))),
        )
    }

    /// The receipt, the tokens, the reason of the end, the usage when it was asked for, and `[DONE]`.
    fn pieces(self) -> Pieces {
        let sent = self.dies_after.unwrap_or(self.tokens);
        let dies = self.dies_after.is_some();
        let mut first = self.chunk("", None);
        first["stand_in"] = self.receipt.clone();
        let first = event(Duration::ZERO, &first);
        let called = self.call.clone().map(|call| {
            let mut part = wrapped(&call);
            part["index"] = json!(0);
            let delta = json!({ "role": "assistant", "tool_calls": [part] });
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": null });
            self.object(self.chunk_object(), &[choice])
        });
        let reason = if called.is_some() { "tool_calls" } else { "stop" };
        let called = called.map(|chunk| event(self.first_after, &chunk));
        let sent = if called.is_some() { 0 } else { sent };
        let mut last: Vec<_> = called.into_iter().collect();
        last.push(event(Duration::ZERO, &self.chunk("", Some(reason))));
        if self.with_usage {
            let mut usage = self.object(self.chunk_object(), &[]);
            usage["usage"] = self.usage();
            last.push(event(Duration::ZERO, &usage));
        }
        last.push(Piece::Send {
            after: Duration::ZERO,
            bytes: Bytes::from_static(b"data: [DONE]\n\n"),
        });
        let tokens = (0..sent).map(move |number| {
            let after = if number == 0 {
                self.first_after
            } else {
                self.next_after
            };
            event(after, &self.chunk(&token(number), None))
        });
        let last = if dies { vec![Piece::Die] } else { last };
        Pieces(Box::new([first].into_iter().chain(tokens).chain(last)))
    }

    fn chunk(&self, text: &str, finish_reason: Option<&str>) -> Value {
        let choice = if self.chat {
            json!({ "index": 0, "delta": { "role": "assistant", "content": text }, "finish_reason": finish_reason })
        } else {
            json!({ "index": 0, "text": text, "finish_reason": finish_reason })
        };
        self.object(self.chunk_object(), &[choice])
    }

    fn chunk_object(&self) -> &'static str {
        if self.chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        }
    }

    fn object(&self, object: &str, choices: &[Value]) -> Value {
        json!({ "id": "stand-in", "object": object, "created": 0, "model": self.model, "choices": choices })
    }

    fn usage(&self) -> Value {
        json!({ "prompt_tokens": 1, "completion_tokens": self.tokens, "total_tokens": self.tokens + 1 })
    }
}

fn event(after: Duration, chunk: &Value) -> Piece {
    Piece::Send {
        after,
        bytes: format!("data: {chunk}\n\n").into(),
    }
}

fn token(number: usize) -> String {
    if number == 0 {
        "token-0".to_owned()
    } else {
        format!(" token-{number}")
    }
}

/// A call of a tool in the words of OpenAI's completions.
fn wrapped(call: &Call) -> Value {
    let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
    json!({ "id": "call_1", "type": "function", "function": function })
}

fn embeddings(request: &Value) -> Value {
    let vectors = vectors(request);
    let usage = json!({ "prompt_tokens": vectors.len(), "total_tokens": vectors.len() });
    let packed = request["encoding_format"] == "base64";
    let data: Vec<_> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if packed { in_base64(&vector) } else { json!(vector) };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    json!({ "object": "list", "model": request["model"], "data": data, "usage": usage })
}

fn vectors(request: &Value) -> Vec<Vec<f32>> {
    let inputs = match &request["input"] {
        Value::Array(inputs) => inputs.len(),
        _ => 1,
    };
    let vector =
        |index: usize| (0..EMBEDDING_DIMENSIONS).map(move |at| (index * EMBEDDING_DIMENSIONS + at) as f32);
    (0..inputs).map(|index| vector(index).collect()).collect()
}

/// As clients ask for it that want it small: the numbers' bytes, the lowest first.
fn in_base64(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    json!(STANDARD.encode(bytes))
}

/// A pause between two pieces; without one each is still a packet of its own, and none waits for the clock's next tick.
pub async fn pause(time: Duration) {
    if time.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(time).await;
    }
}
