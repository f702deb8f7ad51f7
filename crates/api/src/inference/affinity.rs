//! Which conversation a request belongs to. The member of a pool that answered the turn before has its beginning in its cache, and
//! needn't read it again. Replicas that know nothing of each other send a conversation to the same member, by its hash.

use super::Endpoint;
use reveille_domain::{KeyId, ProviderId};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fmt};

/// How much of a conversation's beginning tells it from others, in bytes: one half of what its client always says, the other of
/// what its user says first.
const BEGINNING_BYTES: usize = 1024;
/// How many conversations are remembered at least. Twice as many are at most.
const REMEMBERED: usize = 10_000;

/// A conversation, as a hash of its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Conversation([u8; 16]);

/// What tells the conversation of a body. Its backend reads it again, so nothing is refused here.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    prompt_cache_key: Option<&'a RawValue>,
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    conversation: Option<&'a RawValue>,
    #[serde(borrow)]
    system: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// The beginning of a conversation.
#[derive(Default)]
struct Beginning<'a> {
    /// What its client always says.
    instructions: Vec<&'a str>,
    /// What its user says first.
    opening: Option<&'a str>,
}

impl Conversation {
    /// The conversation of a body for `model` by the holder of `key`; `None` if it belongs to none, such as a text to embed.
    pub fn of(key: Option<&KeyId>, model: &str, endpoint: &Endpoint, body: &[u8]) -> Option<Self> {
        let mut fields: Fields<'_> = serde_json::from_slice(body).ok()?;
        if !endpoint.keeps_answers() {
            fields.input = None;
        }
        let beginning = Beginning::of(&fields)?;
        let mut hash = Sha256::new();
        for part in [key.map_or("", KeyId::as_str), model] {
            hash.update(part);
            hash.update([0]);
        }
        let instructions = beginning.instructions.iter().flat_map(|text| text.bytes());
        let opening = beginning.opening.unwrap_or_default().bytes();
        hash.update(instructions.take(BEGINNING_BYTES / 2).collect::<Vec<_>>());
        hash.update([0]);
        hash.update(opening.take(BEGINNING_BYTES / 2).collect::<Vec<_>>());
        hash.finalize().first_chunk().copied().map(Self)
    }

    /// How far it is from a member of this weight. It goes to the nearest one of its pool, and stays there when farther ones come
    /// and go. A member of twice the weight is the nearest one of twice as many conversations.
    pub fn distance(&self, provider: &ProviderId, weight: u32) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(provider.to_string());
        let drawn = hash
            .finalize()
            .first_chunk()
            .copied()
            .map_or(0, u32::from_be_bytes);
        let drawn = (f64::from(drawn) + 0.5) / (f64::from(u32::MAX) + 1.0);
        // The bits of what is never negative are in its order.
        (-drawn.ln() / f64::from(weight)).to_bits()
    }
}

impl<'a> Beginning<'a> {
    fn of(fields: &Fields<'a>) -> Option<Self> {
        let names = [
            fields.prompt_cache_key,
            fields.session,
            fields.session_id,
            fields.conversation,
        ];
        let mut names = names.into_iter().flatten().map(RawValue::get);
        if let Some(name) = names.find(|name| !matches!(*name, "null" | "\"\"")) {
            return Some(Self {
                instructions: vec![],
                opening: Some(name),
            });
        }
        let mut beginning = Self::default();
        let instructions = [fields.system, fields.instructions].into_iter().flatten();
        beginning.instructions.extend(instructions.map(RawValue::get));
        match (fields.messages, fields.input, fields.prompt) {
            (Some(messages), _, _) => beginning.read(messages.get()),
            (None, Some(input), _) if input.get().starts_with('[') => beginning.read(input.get()),
            (None, text, prompt) => beginning.opening = Some(text.or(prompt)?.get()),
        }
        let is_empty = beginning.instructions.is_empty() && beginning.opening.is_none();
        (!is_empty).then_some(beginning)
    }

    /// Reads messages as far as they tell the conversation.
    fn read(&mut self, messages: &'a str) {
        // It stops behind what it looks for, which the parser takes for an error.
        let _ = serde_json::Deserializer::from_str(messages).deserialize_seq(self);
    }
}

impl<'a> Visitor<'a> for &mut Beginning<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("messages")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut messages: A) -> Result<(), A::Error> {
        while let Some(Message { role, content }) = messages.next_element()? {
            // Calls of tools and their results have none.
            let Some(content) = content.map(RawValue::get) else {
                continue;
            };
            match role.map(RawValue::get) {
                Some("\"system\"" | "\"developer\"") => self.instructions.push(content),
                Some(_) | None => {
                    self.opening = Some(content);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Which member had a conversation last: the most recent ones, in two generations.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    recent: HashMap<Conversation, ProviderId>,
    earlier: HashMap<Conversation, ProviderId>,
}

impl Remembered {
    pub fn member(&self, conversation: &Conversation) -> Option<&ProviderId> {
        let recent = self.recent.get(conversation);
        recent.or_else(|| self.earlier.get(conversation))
    }

    pub fn remember(&mut self, conversation: Conversation, provider: ProviderId) {
        self.recent.insert(conversation, provider);
        if self.recent.len() >= REMEMBERED {
            self.earlier = std::mem::take(&mut self.recent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::endpoint::tests::at;
    use serde_json::{Value, json};

    fn of(body: &Value) -> Option<Conversation> {
        of_path("/v1/chat/completions", body)
    }

    fn of_path(path: &str, body: &Value) -> Option<Conversation> {
        Conversation::of(None, "m", at(path), body.to_string().as_bytes())
    }

    fn says(role: &str, content: &str) -> Value {
        json!({ "role": role, "content": content })
    }

    fn id(text: &str) -> ProviderId {
        text.parse().expect("legal")
    }

    #[test]
    fn the_turns_of_a_conversation_are_told_by_what_comes_before_its_first_answer() {
        let long = "You are a careful assistant. ".repeat(100);
        let first = [says("system", &long), says("user", "What is a hash?")];
        let turn = of(&json!({ "messages": first })).expect("a conversation");
        let later = [
            &first[..],
            &[says("assistant", "A number."), says("user", "Of what?")],
        ]
        .concat();
        assert_eq!(
            of(&json!({ "stream": true, "messages": later, "user": "x" })),
            Some(turn)
        );
        let other = [first[0].clone(), says("user", "What is a heap?")];
        assert_ne!(
            of(&json!({ "messages": other })),
            Some(turn),
            "its instructions alone are the same"
        );
        let other = [says("system", "Be brief."), first[1].clone()];
        assert_ne!(of(&json!({ "messages": other })), Some(turn));
        let parts = |text: &str| json!([{ "role": "user", "content": [{ "type": "text", "text": text }] }]);
        assert!(of(&json!({ "messages": parts("a") })) != of(&json!({ "messages": parts("b") })));
        let anthropic = |system: &str| of(&json!({ "system": system, "messages": [says("user", "hi")] }));
        assert_ne!(anthropic("a"), anthropic("b"));
    }

    #[test]
    fn a_response_belongs_to_a_conversation_by_its_instructions_and_its_input() {
        let of = |body: Value| of_path("/v1/responses", &body);
        let turn = of(json!({ "instructions": "Be brief.", "input": [says("user", "What is a hash?")] }));
        assert!(turn.is_some());
        let input = [
            says("user", "What is a hash?"),
            says("assistant", "A number."),
            json!({ "type": "function_call", "name": "hash", "arguments": "{}" }),
        ];
        assert_eq!(of(json!({ "instructions": "Be brief.", "input": input })), turn);
        assert_ne!(of(json!({ "instructions": "Be long.", "input": input })), turn);
        assert_ne!(of(json!({ "input": input })), turn);
        let text = |text: &str| of(json!({ "input": text }));
        assert!(text("a").is_some() && text("a") == text("a") && text("a") != text("b"));
        let result = |text: &str| {
            let result = json!({ "type": "function_call_output", "call_id": "c", "output": text });
            of(json!({ "input": [result] }))
        };
        assert_eq!(result("a"), None, "a result alone tells none");
        let named = |name: &str, text: &str| of(json!({ "conversation": { "id": name }, "input": text }));
        assert_eq!(named("c1", "a"), named("c1", "b"));
        assert_ne!(named("c1", "a"), named("c2", "a"));
    }

    #[test]
    fn the_instructions_of_anthropics_and_ollamas_clients_count_too() {
        for (path, body) in [
            ("/v1/messages", json!({ "messages": [says("user", "hi")] })),
            ("/api/chat", json!({ "messages": [says("user", "hi")] })),
            ("/api/generate", json!({ "prompt": "hi" })),
        ] {
            let with = |system: &str| {
                let mut body = body.clone();
                body["system"] = system.into();
                of_path(path, &body)
            };
            assert!(with("a").is_some() && with("a") == with("a"), "{path}");
            assert_ne!(with("a"), with("b"), "{path}");
        }
        let turn = json!({ "messages": [says("system", "Be brief."), says("user", "hi")] });
        let mut later = turn.clone();
        let more = [says("assistant", "Yes?"), says("user", "And?")];
        later["messages"].as_array_mut().expect("messages").extend(more);
        assert_eq!(of_path("/api/chat", &later), of_path("/api/chat", &turn));
    }

    #[test]
    fn a_client_may_name_its_conversation() {
        let named = |field: &str, name: &str| {
            let text = format!("message of {name}, {field}");
            of(&json!({ field: name, "messages": [says("user", &text)] }))
        };
        for field in ["prompt_cache_key", "session", "session_id"] {
            assert_eq!(named(field, "c1"), named("prompt_cache_key", "c1"), "{field}");
            assert_ne!(named(field, "c1"), named(field, "c2"));
            assert_ne!(named(field, ""), named(field, "c1"));
        }
        let input = |key: Option<&str>| of(&json!({ "input": "a text", "prompt_cache_key": key }));
        assert!(
            input(Some("c")).is_some() && input(None).is_none(),
            "a text alone is none"
        );
    }

    #[test]
    fn conversations_of_different_keys_and_models_are_different() {
        let body = json!({ "messages": [says("user", "hi")] }).to_string();
        let of = |key: &str, model| {
            let key = KeyId::parse(key).expect("legal");
            Conversation::of(Some(&key), model, at("/v1/chat/completions"), body.as_bytes())
        };
        assert_eq!(of("aaaaaaaa", "m"), of("aaaaaaaa", "m"));
        assert_ne!(of("aaaaaaaa", "m"), of("bbbbbbbb", "m"));
        assert_ne!(of("aaaaaaaa", "m"), of("aaaaaaaa", "n"));
    }

    #[test]
    fn what_tells_no_conversation_belongs_to_none() {
        for body in [
            r#"{"messages":[]}"#,
            r#"{"messages":"hi"}"#,
            r#"{"messages":[7]}"#,
            r#"{"messages":[{}],"messages":[]}"#,
            r#"{"input":"hi"}"#,
            "[]",
            "",
            "no JSON",
        ] {
            let conversation = Conversation::of(None, "m", at("/v1/embeddings"), body.as_bytes());
            assert_eq!(conversation, None, "{body}");
        }
        let prompt = |text: &str| of(&json!({ "prompt": text }));
        assert!(prompt("a").is_some() && prompt("a") != prompt("b"));
    }

    #[test]
    fn conversations_are_shared_by_weight_and_move_only_when_their_member_leaves() {
        let members = [("a/p", 1), ("b/p", 2), ("c/p", 1)].map(|(name, weight)| (id(name), weight));
        let nearest = |conversation: &Conversation, members: &[(ProviderId, u32)]| {
            let by_distance = |(id, weight): &&(ProviderId, u32)| conversation.distance(id, *weight);
            members.iter().min_by_key(by_distance).expect("one").0.clone()
        };
        let all = (0..2_000).map(|n| of(&json!({ "session": n.to_string() })).expect("one"));
        let mut shares = HashMap::<_, usize>::new();
        for conversation in all {
            let own = nearest(&conversation, &members);
            let without_c = nearest(&conversation, &members[..2]);
            assert!(own == members[2].0 || own == without_c);
            *shares.entry(own).or_default() += 1;
        }
        for (member, share) in [(0, 450..550), (1, 930..1_070), (2, 450..550)] {
            let of_member = shares[&members[member].0];
            assert!(share.contains(&of_member), "{shares:?}");
        }
    }

    #[test]
    fn the_most_recent_conversations_are_remembered_and_no_more() {
        let nth = |n: usize| of(&json!({ "session": n.to_string() })).expect("one");
        let mut remembered = Remembered::default();
        for n in 0..3 * REMEMBERED {
            remembered.remember(nth(n), id("a/p"));
        }
        assert!(remembered.member(&nth(0)).is_none());
        assert_eq!(remembered.member(&nth(2 * REMEMBERED)), Some(&id("a/p")));
        assert!(remembered.recent.len() + remembered.earlier.len() <= 2 * REMEMBERED);
    }
}
