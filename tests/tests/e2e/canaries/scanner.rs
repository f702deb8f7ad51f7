//! Secrets that are told apart, and the search for them in whatever was said, written down or left behind.

use aho_corasick::AhoCorasick;
use base64::{
    Engine,
    engine::GeneralPurpose,
    prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
};
use std::{collections::BTreeSet, fmt, sync::Mutex};
use uuid::Uuid;

/// How much of a half is made: random hex digits, which no escaping changes.
const HALF_CHARS: usize = 12;

/// A secret that stands in one place and nowhere else. Each half is sought by itself, so that one that is split in two is
/// found all the same.
#[derive(Debug, Clone)]
pub struct Canary {
    /// Where it was planted.
    pub place: &'static str,
    halves: [String; 2],
}

impl Canary {
    /// One that is made for its place.
    pub fn fresh(place: &'static str) -> Self {
        let half = || {
            let id = Uuid::now_v7().simple().to_string();
            id[id.len() - HALF_CHARS..].to_owned()
        };
        Self {
            place,
            halves: [half(), half()],
        }
    }

    /// One that the system has made: a key, a seed, a token.
    pub fn of(place: &'static str, secret: &str) -> Self {
        assert!(
            secret.is_ascii() && secret.len() >= 2 * HALF_CHARS,
            "{place} is too short"
        );
        let (one, other) = secret.split_at(secret.len() / 2);
        Self {
            place,
            halves: [one.to_owned(), other.to_owned()],
        }
    }

    /// The whole of it.
    pub fn text(&self) -> String {
        self.halves.concat()
    }
}

/// Secrets, by where they are.
#[derive(Default)]
pub struct Planted(Mutex<Vec<Canary>>);

impl Planted {
    /// One more; its text.
    pub fn plant(&self, place: &'static str) -> String {
        self.add(Canary::fresh(place))
    }

    /// One that the system has made.
    pub fn made(&self, place: &'static str, secret: &str) -> String {
        self.add(Canary::of(place, secret))
    }

    fn add(&self, canary: Canary) -> String {
        let text = canary.text();
        let mut all = self.0.lock().expect("not poisoned");
        assert!(
            all.iter().all(|other| other.place != canary.place),
            "{} twice",
            canary.place
        );
        all.push(canary);
        text
    }

    pub fn all(&self) -> Vec<Canary> {
        self.0.lock().expect("not poisoned").clone()
    }
}

/// How a text may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// As it is, in any case. Escaping in JSON, in a URL or in a log leaves it so.
    Plain,
    /// In base64, beginning anywhere in it.
    Base64,
    /// In base64 for URLs.
    Base64Url,
    /// In hexadecimal, as Postgres prints bytes.
    Hex,
    /// Every byte percent-encoded.
    Percent,
    /// Every character escaped as in JSON.
    JsonEscaped,
    /// A list of numbers, as Rust prints bytes.
    Numbers,
    /// The same without spaces, as JSON prints bytes.
    JsonNumbers,
}

impl Form {
    pub const ALL: [Self; 8] = [
        Self::Plain,
        Self::Base64,
        Self::Base64Url,
        Self::Hex,
        Self::Percent,
        Self::JsonEscaped,
        Self::Numbers,
        Self::JsonNumbers,
    ];

    /// A whole text in this form; base64 begins at a place that isn't the text's own.
    pub fn write(self, text: &str) -> String {
        match self {
            Self::Base64 => BASE64_STANDARD_NO_PAD.encode(format!("x{text}")),
            Self::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(format!("xy{text}")),
            _ => self.needles(text).concat(),
        }
    }

    /// What is sought for a text in this form.
    fn needles(self, text: &str) -> Vec<String> {
        let bytes = text.as_bytes();
        let each = |write: fn(&u8) -> String, between: &str| {
            let each: Vec<_> = bytes.iter().map(write).collect();
            vec![each.join(between)]
        };
        match self {
            Self::Plain => vec![text.to_owned()],
            Self::Base64 => aligned(&BASE64_STANDARD_NO_PAD, bytes),
            Self::Base64Url => aligned(&BASE64_URL_SAFE_NO_PAD, bytes),
            Self::Hex => each(|byte| format!("{byte:02x}"), ""),
            Self::Percent => each(|byte| format!("%{byte:02x}"), ""),
            Self::JsonEscaped => each(|byte| format!("\\u{byte:04x}"), ""),
            Self::Numbers => each(ToString::to_string, ", "),
            Self::JsonNumbers => each(ToString::to_string, ","),
        }
    }
}

/// The characters of base64 that depend on nothing but `bytes`, for each of the three ways in which they may lie.
fn aligned(engine: &GeneralPurpose, bytes: &[u8]) -> Vec<String> {
    let at = |before: usize| {
        let padded = [&vec![0; before], bytes].concat();
        let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
        engine.encode(&padded)[from..to].to_owned()
    };
    (0..3).map(at).collect()
}

/// Where something could come out.
pub struct Channel {
    pub name: String,
    pub bytes: Vec<u8>,
    /// What may be seen here, and came the same way as a secret would: it shows that the channel was listened to.
    pub marker: String,
    /// The places whose canaries belong here.
    pub allowed: Vec<&'static str>,
}

/// A secret where it doesn't belong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    pub place: &'static str,
    pub form: Form,
    pub channel: String,
    around: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            form,
            channel,
            around,
        } = self;
        write!(f, "{place} ({form:?}) in {channel}: {around}")
    }
}

/// Finds canaries.
pub struct Scanner {
    needles: AhoCorasick,
    sought: Vec<(&'static str, Form)>,
}

impl Scanner {
    pub fn new(canaries: &[Canary]) -> Self {
        let (mut needles, mut sought) = (vec![], vec![]);
        for canary in canaries {
            for form in Form::ALL {
                for needle in canary.halves.iter().flat_map(|half| form.needles(half)) {
                    needles.push(needle);
                    sought.push((canary.place, form));
                }
            }
        }
        let mut builder = AhoCorasick::builder();
        let needles = builder.ascii_case_insensitive(true).build(needles);
        Self {
            needles: needles.expect("few and short"),
            sought,
        }
    }

    /// Every canary in the channel that doesn't belong there, once in each form.
    pub fn leaks(&self, channel: &Channel) -> Vec<Leak> {
        const AROUND: usize = 120;
        let (mut seen, mut leaks) = (BTreeSet::new(), vec![]);
        for found in self.needles.find_overlapping_iter(&channel.bytes) {
            let (place, form) = &self.sought[found.pattern().as_usize()];
            if channel.allowed.contains(place) || !seen.insert((place, form)) {
                continue;
            }
            let end = channel.bytes.len().min(found.end() + AROUND);
            let around = &channel.bytes[found.start().saturating_sub(AROUND)..end];
            leaks.push(Leak {
                place,
                form: *form,
                channel: channel.name.clone(),
                around: String::from_utf8_lossy(around).into_owned(),
            });
        }
        leaks
    }
}

/// What comes out when each of the canaries leaks into the channel in each form, in the middle of other things.
pub fn with_leaks(channel: &Channel, canaries: &[Canary]) -> Vec<u8> {
    let mut bytes = channel.bytes.clone();
    for canary in canaries {
        for form in Form::ALL {
            bytes.extend(format!("\nmore={}&more", form.write(&canary.text())).into_bytes());
        }
    }
    bytes
}

#[test]
fn the_scanner_finds_a_canary_in_every_form_and_split_anywhere() {
    let canary = Canary::fresh("a place");
    let other = Canary::fresh("another place");
    let scanner = Scanner::new(&[canary.clone(), other]);
    let channel = |bytes: Vec<u8>| Channel {
        name: "a channel".to_owned(),
        bytes,
        marker: String::new(),
        allowed: vec![],
    };
    assert_eq!(scanner.leaks(&channel(b"nothing of it".to_vec())), []);
    let text = canary.text();
    for form in Form::ALL {
        for before in ["", "x", "xy", "xyz"] {
            let written = match form {
                Form::Base64 => BASE64_STANDARD_NO_PAD.encode(format!("{before}{text}z")),
                Form::Base64Url => BASE64_URL_SAFE_NO_PAD.encode(format!("{before}{text}z")),
                _ => format!("{before}{}z", form.write(&text)),
            };
            let leaks = scanner.leaks(&channel(written.clone().into_bytes()));
            let found = leaks
                .iter()
                .any(|leak| leak.form == form && leak.place == "a place");
            assert!(found, "{form:?} {before:?}: {written} {leaks:?}");
            assert!(leaks.iter().all(|leak| leak.place == "a place"), "{leaks:?}");
        }
    }
    for at in 1..text.len() {
        let (one, two) = text.split_at(at);
        let split = format!("{}\n{two}", one.to_uppercase());
        assert!(
            !scanner.leaks(&channel(split.into_bytes())).is_empty(),
            "split at {at}"
        );
    }
    let belongs = Channel {
        allowed: vec!["a place"],
        ..channel(text.into_bytes())
    };
    assert_eq!(scanner.leaks(&belongs), []);
}
