//! Reads TOML by hand, so that every error names its line and key and none shows a value.
//!
//! A section says first which keys its [`Table`] may have ([`Table::only`]), so that a mistyped key is reported as such rather than
//! as a missing one; then it takes them out. What is wrong is noted and left out, so that one reading finds all of it: nothing that
//! reads a table returns an error, and each section reads all of its keys before it needs one of them.

use super::unknown::{Unknown, one_of, section};
use crate::config::{
    ConfigError, Hours,
    duration::parse_duration,
    places::line_of,
    suggest::{legal_name, nearest},
    variables::interpolate,
};
use reveille_domain::InvalidName;
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The most windows of `quiet_hours` or `keep_warm`.
const MAX_WINDOWS: usize = 64;
/// The longest duration of any key.
const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The file, and the environment for `${VAR}`.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// What was found wrong so far. Reading goes on after what doesn't decide the rest.
    pub(super) wrong: RefCell<Vec<ConfigError>>,
    /// How many of them, at the beginning, aren't TOML.
    pub(super) not_toml: Cell<usize>,
}

impl<'a> Source<'a> {
    /// The top-level table, without what isn't TOML: that is noted. `None` if a table's own line isn't, since nobody knows then what the
    /// lines below belong to.
    pub(super) fn root(&'a self) -> Option<Table<'a>> {
        let (parsed, errors) = DeTable::parse_recoverable(self.text);
        let mut is_readable = true;
        self.not_toml.set(errors.len());
        for error in errors {
            let line = error.span().map(|span| line_of(self.text, span.start));
            let text = line.and_then(|line| self.text.lines().nth(line - 1));
            is_readable &= text.is_some_and(|text| !text.trim_start().starts_with('['));
            self.wrong.borrow_mut().push(ConfigError {
                file: self.file.to_owned(),
                line,
                key: None,
                // The parser's rendering would print the line; its message only names what it expected.
                reason: error.message().to_owned(),
                is_missing: false,
                others: vec![],
            });
        }
        is_readable.then(|| Table::new(self, String::new(), 0, parsed.into_inner()))
    }

    /// What is wrong with the file. Where it isn't TOML, that alone counts, and that a key is missing doesn't: it may be there.
    pub(super) fn all_wrong(&self) -> Vec<ConfigError> {
        let mut not_toml = self.wrong.take();
        let mut others = not_toml.split_off(self.not_toml.get());
        if !not_toml.is_empty() {
            others.retain(|error| !error.is_missing && not_toml.iter().all(|wrong| wrong.line != error.line));
        }
        not_toml.append(&mut others);
        not_toml
    }

    /// An error about the value at a place; the whole file has no path.
    fn error(&self, offset: usize, path: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(line_of(self.text, offset)),
            key: (!path.is_empty()).then(|| path.to_owned()),
            reason: reason.into(),
            is_missing: false,
            others: vec![],
        }
    }

    /// What was read, unless something is wrong with it, which is noted.
    fn note<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        read.map_err(|error| self.wrong.borrow_mut().push(error)).ok()
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    path: String,
    offset: usize,
    left: Vec<(String, Value<'a>)>,
    known: Vec<&'static str>,
    /// Whether a missing key is no mistake: too little is known of what the table is for.
    is_partial: bool,
}

impl<'a> Table<'a> {
    fn new(source: &'a Source<'a>, path: String, offset: usize, entries: DeTable<'a>) -> Self {
        let mut table = Self {
            source,
            path,
            offset,
            left: Vec::new(),
            known: Vec::new(),
            is_partial: false,
        };
        for (key, value) in entries {
            let (offset, key) = (key.span().start, key.into_inner().into_owned());
            let (path, value) = (table.path_of(&key), value.into_inner());
            let value = Value {
                source,
                path,
                offset,
                value,
            };
            table.left.push((key, value));
        }
        table
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Takes a key, if it exists.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a>> {
        debug_assert!(
            self.known.contains(&key),
            "`{key}` is read, but not among the known keys"
        );
        let index = self.left.iter().position(|(name, _)| name == key)?;
        Some(self.left.swap_remove(index).1)
    }

    /// Takes and reads a key, if it exists and nothing is wrong with it.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        let value = self.take(key)?;
        value.note(read(&value))
    }

    /// Takes and reads a key that must exist.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'a>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(format!("`{key}` is missing"));
        }
        self.optional(key, read)
    }

    /// Takes and reads a key, which has a default; `None` if something is wrong with it.
    pub(super) fn or_default<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Value<'a>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        if self.has(key) {
            self.optional(key, read)
        } else {
            Some(default)
        }
    }

    /// Takes a duration, if it exists.
    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.optional(key, Value::duration)
    }

    /// Takes a word, if it exists.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.take(key)?.choice(choices)
    }

    /// Takes windows of a week; none if the key doesn't exist.
    pub(super) fn hours(&mut self, key: &'static str) -> Hours {
        self.take(key).map(Value::hours).unwrap_or_default()
    }

    /// Takes a table, if it exists.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        self.take(key)?.table()
    }

    /// Takes a table, which is empty if it doesn't exist.
    pub(super) fn table_or_empty(&mut self, key: &'static str) -> Self {
        let empty = Self::new(self.source, self.path_of(key), self.offset, DeTable::new());
        self.table(key).unwrap_or(empty)
    }

    /// Takes an array and reads its items, of which there may be `max`; none if it doesn't exist.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        read: impl Fn(&Value<'a>) -> Result<T, ConfigError>,
    ) -> Vec<T> {
        let items = self.take(key).map(|value| value.items(max));
        let items = items.unwrap_or_default().into_iter();
        items.filter_map(|item| item.note(read(&item))).collect()
    }

    /// Takes a table with free keys and reads its entries, ordered by key, of which there may be `max`.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        max: usize,
        read: impl Fn(&str, &Value<'a>) -> Result<T, ConfigError>,
    ) -> Vec<T> {
        let entries = self.table_or_empty(key).into_entries(max).into_iter();
        let entries = entries.filter_map(|(name, value)| value.note(read(&name, &value)));
        entries.collect()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(name, _)| name == key)
    }

    /// Whether one of its keys seems to be this one, mistyped.
    pub(super) fn means(&self, key: &str) -> bool {
        self.left.iter().any(|(name, _)| nearest(name, [key]).is_some())
    }

    /// From here on, a missing key is no mistake.
    pub(super) const fn read_in_part(&mut self) {
        self.is_partial = true;
    }

    /// All remaining keys, for tables with free keys, of which there may be `max`.
    fn into_entries(mut self, max: usize) -> Vec<(String, Value<'a>)> {
        if self.left.len() > max {
            self.wrong(too_many(max));
            self.left.truncate(max);
        }
        self.left
    }

    /// Notes each key other than these, and leaves it out; a mistyped one is read as the one that it seems to mean.
    pub(super) fn only(&mut self, known: &[&[&'static str]]) {
        self.known = known.concat();
        let (left, unknown_here): (Vec<_>, Vec<_>) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|(key, _)| self.known.contains(&key.as_str()));
        self.left = left;
        for (key, mut value) in unknown_here {
            let unknown = Unknown {
                key: &key,
                is_table: value.is_table() || value.is_tables(),
                only_subtable: value.only_subtable(),
            };
            value.wrong(unknown.reason(&self.path, &self.known));
            if let Some(meant) = unknown.meant(&self.known).filter(|meant| !self.has(meant)) {
                value.path = self.path_of(meant);
                self.left.push((meant.to_owned(), value));
            }
        }
    }

    /// The text of a key, without taking it.
    pub(super) fn peek(&self, key: &str) -> Option<String> {
        let (_, value) = self.left.iter().find(|(name, _)| name == key)?;
        value.string().ok()
    }

    /// Notes what is wrong with the table itself.
    pub(super) fn wrong(&self, reason: impl Into<String>) {
        let error = self.source.error(self.offset, &self.path, reason);
        self.source.wrong.borrow_mut().push(error);
    }

    /// Notes what the table lacks.
    pub(super) fn missing(&self, reason: impl Into<String>) {
        if !self.is_partial {
            let error = self.source.error(self.offset, &self.path, reason);
            self.source.wrong.borrow_mut().push(error.of_missing());
        }
    }
}

fn too_many(max: usize) -> String {
    format!("must have at most {max} entries")
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct Value<'a> {
    source: &'a Source<'a>,
    path: String,
    offset: usize,
    value: DeValue<'a>,
}

impl<'a> Value<'a> {
    /// An error about this value.
    pub(super) fn error(&self, reason: impl Into<String>) -> ConfigError {
        self.source.error(self.offset, &self.path, reason)
    }

    /// Notes what is wrong with this value.
    pub(super) fn wrong(&self, reason: impl Into<String>) {
        self.source.wrong.borrow_mut().push(self.error(reason));
    }

    /// Notes that what this value is for is missing.
    pub(super) fn lacks(&self, reason: impl Into<String>) {
        let error = self.error(reason).of_missing();
        self.source.wrong.borrow_mut().push(error);
    }

    /// What was read of this value, unless something is wrong with it, which is noted.
    pub(super) fn note<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        self.source.note(read)
    }

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        self.error(format!("must be {wanted}, not {}", self.value.type_str()))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_tables(&self) -> bool {
        let items = self.value.as_array().into_iter().flatten();
        let mut items = items.map(|item| item.get_ref().is_table());
        items.next() == Some(true) && items.all(|is_table| is_table)
    }

    /// The name of the only thing in a table, if that is a table: the last word of `[provider.wake]`.
    pub(super) fn only_subtable(&self) -> Option<&str> {
        let mut entries = self.value.as_table()?.iter();
        let (name, value) = entries.next()?;
        let is_it = entries.next().is_none() && value.get_ref().is_table();
        is_it.then(|| name.get_ref().as_ref())
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is an array without items.
    pub(super) fn is_empty(&self) -> bool {
        self.value.as_array().is_some_and(|items| items.is_empty())
    }

    /// A string, with its variables replaced.
    pub(super) fn string(&self) -> Result<String, ConfigError> {
        let raw = self.value.as_str().ok_or_else(|| self.wrong_type("a string"))?;
        interpolate(raw, self.source.env).map_err(|reason| self.error(reason))
    }

    /// A string that `parse` accepts.
    pub(super) fn parsed<T, E: Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(&self.string()?).map_err(|error| self.error(error.to_string()))
    }

    /// A name of an agent, a provider or a group. It is published, so an error may offer its legal form; what variables bring
    /// is never shown.
    pub(super) fn name<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, InvalidName>,
    ) -> Result<T, ConfigError> {
        let raw = self.string()?;
        let is_literal = self.value.as_str() == Some(&raw);
        parse(&raw).map_err(|error| match legal_name(&raw) {
            legal if is_literal && !legal.is_empty() => {
                self.error(format!("{error}; did you mean `{legal}`?"))
            }
            _ => self.error(error.to_string()),
        })
    }

    /// One of a few words. A mistyped one is noted, and read as the one that it seems to mean.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let raw = self.note(self.string())?;
        let find = |word: &str| choices.iter().find(|(known, _)| *known == word);
        let choice = find(&raw).or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.wrong(one_of(&words, &raw));
            nearest(&raw, words).and_then(find)
        });
        choice.map(|(_, choice)| *choice)
    }

    /// A string of at most `max` bytes.
    pub(super) fn bounded(&self, max: usize) -> Result<String, ConfigError> {
        let text = self.string()?;
        if text.len() > max {
            return Err(self.error(format!("must be at most {max} bytes")));
        }
        Ok(text)
    }

    /// An absolute path; a relative one would depend on the folder that the agent was started in.
    pub(super) fn absolute_path(&self) -> Result<PathBuf, ConfigError> {
        self.parsed(|raw| {
            let path = PathBuf::from(raw);
            path.is_absolute()
                .then_some(path)
                .ok_or("must be an absolute path")
        })
    }

    /// The path of a file; a relative one is below the folder of the config.
    pub(super) fn file(&self) -> Result<PathBuf, ConfigError> {
        let raw = self.string()?;
        if raw.is_empty() {
            return Err(self.error("names no file"));
        }
        let folder = Path::new(self.source.file).parent().unwrap_or(Path::new(""));
        Ok(folder.join(raw))
    }

    pub(super) fn bool(&self) -> Result<bool, ConfigError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false"))
    }

    /// A whole number within bounds.
    pub(super) fn integer(&self, bounds: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let DeValue::Integer(number) = &self.value else {
            return Err(self.wrong_type("a whole number"));
        };
        let number = u32::from_str_radix(number.as_str(), number.radix()).ok();
        number
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| self.error(format!("must be between {} and {}", bounds.start(), bounds.end())))
    }

    /// A duration such as `"60s"`: more than zero, at most a day.
    pub(super) fn duration(&self) -> Result<Duration, ConfigError> {
        if self.value.as_str().is_none() {
            return Err(self.wrong_type("a duration in quotes, such as \"60s\" or \"15m\""));
        }
        let duration = self.parsed(parse_duration)?;
        if duration > MAX_DURATION {
            return Err(self.error("must be at most 24h"));
        }
        Ok(duration)
    }

    /// A table. Of the tables of a list, which is wrong here, it is the first.
    pub(super) fn table(self) -> Option<Table<'a>> {
        if self.is_tables() {
            let section = section(&self.path);
            self.wrong(format!(
                "is a single table: write [{section}], in single brackets"
            ));
            let path = self.path.clone();
            let mut first = self.items(usize::MAX).into_iter().next()?;
            first.path = path;
            return first.table();
        }
        match self.value {
            DeValue::Table(table) => Some(Table::new(self.source, self.path, self.offset, table)),
            _ => self.note(Err(self.wrong_type("a table"))),
        }
    }

    /// A list of at most `max` tables. A single table, which is wrong here, is one of them.
    pub(super) fn tables(self, max: usize) -> Vec<Table<'a>> {
        if self.is_table() {
            let section = section(&self.path);
            self.wrong(format!(
                "is one of a list: write [[{section}]], in double brackets"
            ));
            let mut table = self.table();
            if let Some(table) = &mut table {
                // Tables alone belong to an entry whose own line isn't understood.
                table.is_partial = table.left.iter().all(|(_, value)| value.is_table());
            }
            return table.into_iter().collect();
        }
        self.items(max).into_iter().filter_map(Self::table).collect()
    }

    /// The items of an array, of which there may be `max`.
    pub(super) fn items(self, max: usize) -> Vec<Self> {
        if self.value.as_array().is_some_and(|items| items.len() > max) {
            self.wrong(too_many(max));
        }
        let DeValue::Array(items) = self.value else {
            self.note::<()>(Err(self.wrong_type("an array")));
            return Vec::new();
        };
        let item = |(index, item): (usize, Spanned<DeValue<'a>>)| Self {
            source: self.source,
            path: format!("{}[{index}]", self.path),
            offset: item.span().start,
            value: item.into_inner(),
        };
        items.into_iter().take(max).enumerate().map(item).collect()
    }

    /// Windows of a week.
    pub(super) fn hours(self) -> Hours {
        let windows = self.items(MAX_WINDOWS).into_iter();
        let windows = windows.filter_map(|window| window.note(window.parsed(str::parse)));
        windows.collect()
    }

    /// The same value as JSON.
    pub(super) fn json(self) -> Option<serde_json::Value> {
        match &self.value {
            DeValue::Array(_) => {
                let items = self.items(MAX_JSON_ITEMS).into_iter().map(Self::json);
                items.collect::<Vec<_>>().into_iter().collect()
            }
            DeValue::Table(_) => {
                let entries = self.table()?.into_entries(usize::MAX).into_iter();
                let entries = entries.map(|(key, value)| Some((key, value.json()?)));
                entries.collect::<Vec<_>>().into_iter().collect()
            }
            _ => self.note(self.json_scalar()),
        }
    }

    fn json_scalar(&self) -> Result<serde_json::Value, ConfigError> {
        match &self.value {
            DeValue::Boolean(flag) => Ok((*flag).into()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map(Into::into)
                .map_err(|_| self.error("is too large")),
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map(Into::into)
                .ok_or_else(|| self.error("is not a number that JSON has")),
            DeValue::Datetime(_) => Err(self.error("a date has no counterpart in JSON; write a string")),
            _ => Ok(self.string()?.into()),
        }
    }
}

/// The longest array inside `expect`.
const MAX_JSON_ITEMS: usize = 1024;
