//! The orders in which lists can be read, and a row's position in one.

use super::page::{Cursor, Page, PageLimit, RowsError};
use crate::names::{AgentName, KeyId, ProviderId};
use std::{cmp::Ordering, fmt, str::FromStr};

/// What a list can be sorted by.
pub trait SortBy: Copy + 'static {
    /// Every possibility.
    const ALL: &'static [Self];
    /// The order when the query sets none.
    const DEFAULT: Sort<Self>;
    /// Its name in queries.
    fn as_str(self) -> &'static str;
    /// What kind of value it sorts by.
    fn kind(self) -> SortKind;
}

/// The order of a list: `name`, or `-name` for descending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort<By> {
    /// What the rows are sorted by.
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
    /// Compares two rows by their keys.
    #[must_use]
    pub fn order<K: Ord>(self, one: &K, other: &K) -> Ordering {
        if self.descending {
            other.cmp(one)
        } else {
            one.cmp(other)
        }
    }

    /// Every order of the list, as queries name them.
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
    /// Nothing but the row's key.
    Key,
    /// A word.
    Word,
    /// A number.
    Number,
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

/// Identifies a row in its list, and orders rows that are otherwise equal.
pub trait RowKey: Ord + Sized {
    /// The cursor that points at this row.
    fn cursor(&self) -> Cursor;
    /// Parses a cursor.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when it doesn't belong to this list.
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

/// A row's position in a sorted list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey<K> {
    /// What the list is sorted by.
    pub value: SortValue,
    /// The tie-breaker.
    pub key: K,
}

/// Separates the two parts of a cursor. No key and no value contains it.
const SEPARATOR: char = '~';

impl<K: RowKey> SortKey<K> {
    /// The cursor that points at this position. It contains the value, so that it still marks the end of a page after its
    /// row has moved or gone.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let key = self.key.cursor();
        match &self.value {
            SortValue::None => key,
            SortValue::Word(word) => Cursor::new(format!("{word}{SEPARATOR}{key}")),
            SortValue::Number(number) => Cursor::new(format!("{number}{SEPARATOR}{key}")),
        }
    }

    /// Parses a cursor of a list that is sorted `by` something.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when it doesn't belong to that list.
    pub fn parse(cursor: &Cursor, by: impl SortBy) -> Result<Self, RowsError> {
        let (value, key) = match (by.kind(), cursor.as_str().split_once(SEPARATOR)) {
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

impl<T> Page<T> {
    /// The page of `rows` that follows `after` in an order.
    ///
    /// # Errors
    /// [`RowsError::BadCursor`] when the cursor doesn't belong to that order.
    pub fn sorted<By: SortBy, K: RowKey>(
        rows: impl IntoIterator<Item = T>,
        sort: Sort<By>,
        after: Option<&Cursor>,
        limit: PageLimit,
        applied_seq: u64,
        sort_key: impl Fn(&T, By) -> SortKey<K>,
    ) -> Result<Self, RowsError> {
        let after = after.map(|after| SortKey::parse(after, sort.by)).transpose()?;
        let rows = rows.into_iter().map(|row| (sort_key(&row, sort.by), row));
        let follows = |key: &SortKey<K>| after.as_ref().is_none_or(|after| sort.order(key, after).is_gt());
        let mut rows: Vec<_> = rows.filter(|(key, _)| follows(key)).collect();
        rows.sort_by(|(one, _), (other, _)| sort.order(one, other));
        let page = Page::cut(rows, limit, applied_seq, |(key, _)| key.cursor());
        Ok(page.map(|(_, row)| row))
    }
}
