//! The orders in which lists can be read, and where a row stands in one.

use super::{Cursor, EventPosition, LlmKey, LlmRow, RowsError, WakePosition, WakeRow, parse_events_cursor};
use crate::{AgentName, KeyId, ProviderId, Timestamp, provider::StatusName};
use std::{cmp::Ordering, fmt, str::FromStr};

/// What a list can be sorted by.
pub trait SortBy: Copy + 'static {
    /// All that its list knows.
    const ALL: &'static [Self];
    /// The order of a list that is asked for no other.
    const DEFAULT: Sort<Self>;
    /// The name as it is written everywhere.
    fn as_str(self) -> &'static str;
    /// What kind of value it looks at.
    fn kind(self) -> SortKind;
}

/// The order of a list: `name`, or `-name` for the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort<By> {
    /// What decides.
    pub by: By,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl<By> Sort<By> {
    /// The smallest first.
    #[must_use]
    pub const fn ascending(by: By) -> Self {
        Self {
            by,
            descending: false,
        }
    }

    /// The largest first.
    #[must_use]
    pub const fn descending(by: By) -> Self {
        Self { by, descending: true }
    }
}

impl<By: SortBy> Sort<By> {
    /// How two rows with these places stand to each other.
    #[must_use]
    pub fn order<P: Ord>(self, one: &P, other: &P) -> Ordering {
        if self.descending {
            other.cmp(one)
        } else {
            one.cmp(other)
        }
    }

    /// Every order that its list knows, as it is written.
    #[must_use]
    pub fn legal() -> String {
        let each = |by: &By| format!("{by}, -{by}", by = by.as_str());
        By::ALL.iter().map(each).collect::<Vec<_>>().join(", ")
    }
}

impl<By: SortBy> Default for Sort<By> {
    fn default() -> Self {
        By::DEFAULT
    }
}

impl<By: SortBy> fmt::Display for Sort<By> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.descending { "-" } else { "" })?;
        f.write_str(self.by.as_str())
    }
}

impl<By: SortBy> FromStr for Sort<By> {
    type Err = String;
    fn from_str(raw: &str) -> Result<Self, String> {
        let (name, descending) = match raw.strip_prefix('-') {
            Some(name) => (name, true),
            None => (raw, false),
        };
        let by = By::ALL.iter().find(|by| by.as_str() == name);
        by.map(|by| Self { by: *by, descending })
            .ok_or_else(|| format!("the sort of this list is one of {}", Self::legal()))
    }
}

/// The kinds of values that lists are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKind {
    /// None beside the row's key.
    Key,
    /// A word.
    Word,
    /// A number.
    Number,
}

/// What LLM rows, and providers, can be sorted by. Those that are equal in it are sorted by their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LlmSort {
    /// Their keys: agent, model and provider of an LLM, the id of a provider.
    Name,
    /// The status, as a word.
    Status,
    /// Since when they have that status.
    Since,
}

impl SortBy for LlmSort {
    const ALL: &'static [Self] = &[Self::Name, Self::Status, Self::Since];
    const DEFAULT: Sort<Self> = Sort::ascending(Self::Name);
    fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Status => "status",
            Self::Since => "since",
        }
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Name => SortKind::Key,
            Self::Status => SortKind::Word,
            Self::Since => SortKind::Number,
        }
    }
}

impl LlmSort {
    /// What it looks at.
    #[must_use]
    pub fn value(self, status: StatusName, since: Timestamp) -> SortValue {
        match self {
            Self::Name => SortValue::None,
            Self::Status => SortValue::Word(status.as_str().to_owned()),
            Self::Since => SortValue::Number(since.as_millis()),
        }
    }
}

/// What wakes can be sorted by. Those that are equal in it are sorted by their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeSort {
    /// When they were asked for.
    Requested,
    /// How long they took; one that has not ended counts as longer than all that have.
    Took,
}

impl SortBy for WakeSort {
    const ALL: &'static [Self] = &[Self::Requested, Self::Took];
    const DEFAULT: Sort<Self> = Sort::descending(Self::Requested);
    fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Took => "took",
        }
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Requested => SortKind::Key,
            Self::Took => SortKind::Number,
        }
    }
}

/// What events can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventSort {
    /// Their place in the journal.
    Seq,
}

impl SortBy for EventSort {
    const ALL: &'static [Self] = &[Self::Seq];
    const DEFAULT: Sort<Self> = Sort::ascending(Self::Seq);
    fn as_str(self) -> &'static str {
        match self {
            Self::Seq => "seq",
        }
    }
    fn kind(self) -> SortKind {
        match self {
            Self::Seq => SortKind::Key,
        }
    }
}

/// What a row is sorted by, before its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortValue {
    /// Nothing: the key alone decides.
    None,
    /// A word, by its bytes.
    Word(String),
    /// A number.
    Number(u64),
}

/// What tells a row of a list from all others, and orders rows that are equal in everything else.
pub trait RowKey: Ord + Sized {
    /// The cursor that stands at this row.
    fn cursor(&self) -> Cursor;
    /// Reads a cursor back.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when it isn't one of these.
    fn parse(cursor: &Cursor) -> Result<Self, RowsError>;
}

macro_rules! named_by_its_text {
    ($($key:ty),+) => {$(
        impl RowKey for $key {
            fn cursor(&self) -> Cursor {
                Cursor::new(self.to_string())
            }

            fn parse(cursor: &Cursor) -> Result<Self, RowsError> {
                cursor.as_str().parse().map_err(|_| RowsError::BadCursor)
            }
        }
    )+};
}

named_by_its_text!(ProviderId, AgentName, KeyId);

/// Where a row stands in a sorted list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place<K> {
    /// What decides first.
    pub value: SortValue,
    /// What decides between equals.
    pub key: K,
}

/// Between the two parts of a cursor; no key's cursor and no value has it.
const BETWEEN: char = '~';

impl<K: RowKey> Place<K> {
    /// The cursor that stands at this place. It has the value, so that a row that is no longer there, or stands elsewhere
    /// by now, still marks where a page ended.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let key = self.key.cursor();
        match &self.value {
            SortValue::None => key,
            SortValue::Word(word) => Cursor::new(format!("{word}{BETWEEN}{key}")),
            SortValue::Number(number) => Cursor::new(format!("{number}{BETWEEN}{key}")),
        }
    }

    /// Reads a cursor of the list that is sorted `by` something.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when it isn't one of that list.
    pub fn parse(cursor: &Cursor, by: impl SortBy) -> Result<Self, RowsError> {
        let (value, key) = match (by.kind(), cursor.as_str().split_once(BETWEEN)) {
            (SortKind::Key, None) => (SortValue::None, cursor.as_str()),
            (SortKind::Word, Some((word, key))) if is_word(word) => (SortValue::Word(word.to_owned()), key),
            (SortKind::Number, Some((number, key))) => {
                let number = number.parse().map_err(|_| RowsError::BadCursor)?;
                (SortValue::Number(number), key)
            }
            (SortKind::Key | SortKind::Word | SortKind::Number, _) => return Err(RowsError::BadCursor),
        };
        let key = K::parse(&Cursor::new(key))?;
        Ok(Self { value, key })
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

impl LlmRow {
    /// Where it stands among LLM rows.
    #[must_use]
    pub fn place(&self, by: LlmSort) -> Place<LlmKey> {
        Place {
            value: by.value(self.status, self.since_ms),
            key: LlmKey::of(self),
        }
    }
}

impl WakeRow {
    /// How long a wake that has not ended takes, as far as its place goes: as long as Postgres can say.
    pub const IN_FLIGHT_MS: u64 = i64::MAX.unsigned_abs();

    /// Where it stands among wakes.
    #[must_use]
    pub fn place(&self, by: WakeSort) -> Place<WakePosition> {
        let took = |ended: Timestamp| ended.as_millis().saturating_sub(self.requested_at_ms.as_millis());
        let value = match by {
            WakeSort::Requested => SortValue::None,
            WakeSort::Took => SortValue::Number(self.ended_at_ms.map_or(Self::IN_FLIGHT_MS, took)),
        };
        Place {
            value,
            key: self.position(),
        }
    }
}

/// Which events come into question, by their place: those between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRange {
    /// After this one.
    pub after: EventPosition,
    /// Before this one.
    pub before: Option<EventPosition>,
}

impl EventRange {
    /// What a cursor and the sequence of a commit leave of the journal, read in one of its two directions.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor isn't one of events.
    pub fn of(
        sort: Sort<EventSort>,
        after_seq: Option<u64>,
        cursor: Option<&Cursor>,
    ) -> Result<Self, RowsError> {
        let cursor = cursor.map(parse_events_cursor).transpose()?;
        // The sequences of streams begin at 1.
        let after = after_seq.map(EventPosition::after_commit).unwrap_or_default();
        Ok(if sort.descending {
            let before = cursor.map(EventPosition::other_end);
            Self { after, before }
        } else {
            Self {
                after: cursor.unwrap_or_default().max(after),
                before: None,
            }
        })
    }

    /// Whether an event at `position` is among them.
    #[must_use]
    pub fn contains(&self, position: EventPosition) -> bool {
        position > self.after && self.before.is_none_or(|before| position < before)
    }
}
