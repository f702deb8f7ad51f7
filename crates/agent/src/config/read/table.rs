//! Reads TOML by hand, so that every error names its line and key and none shows a value.
//!
//! A section says first which keys its [`Table`] may have ([`Table::only`]), so that a mistyped key is reported as such rather than
//! as a missing one; then it takes them out. What is wrong is noted, so that one reading finds all of it.

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
/// The tables that are items of a list, which are written in double brackets.
const LISTS: [&str; 2] = ["provider", "step"];
/// The tables of keys that are easily put into another, and these keys.
const HOMES: [(&str, &[&str]); 4] = [
    ("[provider.wake]", &["max_wait", "max_per_day", "verify"]),
    ("[provider.sleep]", &["idle_after", "min_awake", "keep_warm"]),
    ("[agent]", &["nats", "credentials", "heartbeat", "quiet_hours"]),
    (
        "[[provider]]",
        &[
            "base_url",
            "models",
            "exclusive",
            "persistent",
            "max_group_wait",
            "probe",
            "wake",
            "sleep",
        ],
    ),
];
/// Those of them that can be tables, with how each is begun. The others are keys only.
const HOME_TABLES: [(&str, &str); 5] = [
    ("wake", "[provider.wake]"),
    ("sleep", "[provider.sleep]"),
    ("probe", "[provider.probe]"),
    ("models", "[[provider.models]]"),
    ("verify", "[provider.wake.verify]"),
];
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
    pub(super) fn note<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(error) => {
                if !error.is_noted() {
                    self.wrong.borrow_mut().push(error);
                }
                None
            }
        }
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    path: String,
    offset: usize,
    left: Vec<(String, Value<'a>)>,
    known: Vec<&'static str>,
    /// The keys that mistyped ones seem to mean.
    mistyped: Vec<String>,
}

impl<'a> Table<'a> {
    fn new(source: &'a Source<'a>, path: String, offset: usize, entries: DeTable<'a>) -> Self {
        let mut table = Self {
            source,
            path,
            offset,
            left: Vec::new(),
            known: Vec::new(),
            mistyped: Vec::new(),
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

    /// Takes and reads a key, if it exists.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.take(key).map(read).transpose()
    }

    /// Takes a duration, if it exists.
    pub(super) fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.optional(key, |value| value.duration())
    }

    /// Takes and reads a key, if it exists. If something is wrong with it, that is noted, and reading goes on without it.
    pub(super) fn noting<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        let read = self.optional(key, read);
        self.source.note(read)?
    }

    /// Takes and reads a key that must exist, noting what is wrong with it.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'a>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        let read = self.require(key).and_then(read);
        self.source.note(read)
    }

    /// What was read of this table, unless something is wrong with it, which is noted.
    pub(super) fn note<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        self.source.note(read)
    }

    /// Takes a table, which is empty if it doesn't exist.
    pub(super) fn table(&mut self, key: &'static str) -> Result<Self, ConfigError> {
        let none = Self::new(self.source, self.path_of(key), self.offset, DeTable::new());
        Ok(self.optional(key, Value::table)?.unwrap_or(none))
    }

    /// Takes an array and reads its items, of which there may be `max`; none if it doesn't exist.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        read: impl FnMut(&Value<'a>) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let items = self.optional(key, |value| value.array(max))?;
        items.unwrap_or_default().iter().map(read).collect()
    }

    /// Takes a key that must exist.
    pub(super) fn require(&mut self, key: &'static str) -> Result<Value<'a>, ConfigError> {
        self.take(key).ok_or_else(|| {
            if self.means(key) || (key == "type" && self.means("step")) {
                return ConfigError::noted();
            }
            self.error(format!("`{key}` is missing")).of_missing()
        })
    }

    /// Whether a key seems to be mistyped.
    pub(super) fn is_mistyped(&self) -> bool {
        !self.mistyped.is_empty()
    }

    /// Whether a mistyped key seems to mean this one.
    pub(super) fn means(&self, key: &str) -> bool {
        self.mistyped.iter().any(|meant| meant == key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.left.iter().any(|(name, _)| name == key)
    }

    /// All remaining keys, for tables with free keys.
    pub(super) fn into_entries(self) -> Vec<(String, Value<'a>)> {
        self.left
    }

    /// Notes each key other than these, and leaves it out.
    pub(super) fn only(&mut self, known: &[&[&'static str]]) {
        self.known = known.concat();
        let (left, unknown): (Vec<_>, Vec<_>) = std::mem::take(&mut self.left)
            .into_iter()
            .partition(|(key, _)| self.known.contains(&key.as_str()));
        self.left = left;
        for (key, value) in unknown {
            let error = value.error(self.unknown(&key, &value));
            self.source.wrong.borrow_mut().push(error);
            let meant = nearest(&key, self.known.iter().copied());
            self.mistyped.extend(meant.map(str::to_owned));
        }
    }

    /// What is said of a key that isn't known here.
    fn unknown(&self, key: &str, value: &Value<'a>) -> String {
        let is_table = value.is_table() || value.is_tables();
        let what = if is_table { "table" } else { "key" };
        let own = section(&self.path);
        let known: Vec<_> = match own.as_str() {
            "" => self.known.iter().map(|known| header("", known)).collect(),
            _ => self.known.iter().map(|&known| known.to_owned()).collect(),
        };
        let known = known.join(", ");
        if let Some((home, _)) = HOMES.iter().find(|(_, keys)| keys.contains(&key)) {
            let meant = match HOME_TABLES.iter().find(|(table, _)| *table == key) {
                Some((_, table)) if is_table => format!("`{table}`"),
                _ if is_table => format!("the key `{key}` in `{home}`"),
                _ => format!("it in `{home}`"),
            };
            return format!("unknown {what} here: did you mean {meant}? Known here: {known}");
        }
        match nearest(key, self.known.iter().copied()) {
            Some(meant) => {
                let meant = match value.only_subtable() {
                    Some(below) if own.is_empty() => header(meant, below),
                    _ if is_table => header(&own, meant),
                    _ => meant.to_owned(),
                };
                format!("unknown {what}, did you mean `{meant}`? Known here: {known}")
            }
            None => format!("unknown {what}; known here: {known}"),
        }
    }

    /// The text of a key, without taking it.
    pub(super) fn peek(&self, key: &str) -> Option<String> {
        let (_, value) = self.left.iter().find(|(name, _)| name == key)?;
        value.string().ok()
    }

    /// An error about the table itself.
    pub(super) fn error(&self, reason: impl Into<String>) -> ConfigError {
        self.source.error(self.offset, &self.path, reason)
    }
}

/// The path of a table without its places in lists, such as `provider.wake`.
fn section(path: &str) -> String {
    let names = path.split('.').filter_map(|part| part.split('[').next());
    names.collect::<Vec<_>>().join(".")
}

/// How a table below `section` is begun.
fn header(section: &str, key: &str) -> String {
    let name = match section {
        "" => key.to_owned(),
        _ => format!("{section}.{key}"),
    };
    if LISTS.contains(&key) {
        format!("[[{name}]]")
    } else {
        format!("[{name}]")
    }
}

/// What a word must be, and which was probably meant.
fn one_of(words: &[&str], word: &str) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let all = match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    };
    match nearest(word, words.iter().copied()) {
        Some(meant) => format!("must be {all}; did you mean \"{meant}\"?"),
        None => format!("must be {all}"),
    }
}

/// A value and its place.
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

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        self.error(format!("must be {wanted}, not {}", self.value.type_str()))
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    fn is_tables(&self) -> bool {
        let items = self.value.as_array().into_iter().flatten();
        let mut items = items.map(|item| item.get_ref().is_table());
        items.next() == Some(true) && items.all(|is_table| is_table)
    }

    /// The name of the only thing in a table, if that is a table: the last word of `[provider.wake]`.
    fn only_subtable(&self) -> Option<&str> {
        let mut entries = self.value.as_table()?.iter();
        let (name, value) = entries.next()?;
        let is_it = entries.next().is_none() && value.get_ref().is_table();
        is_it.then(|| name.get_ref().as_ref())
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
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

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        self.parsed(|raw| {
            let choice = choices.iter().find(|(word, _)| *word == raw);
            let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>();
            choice
                .map(|(_, choice)| *choice)
                .ok_or_else(|| one_of(&words(), raw))
        })
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

    pub(super) fn table(self) -> Result<Table<'a>, ConfigError> {
        match self.value {
            DeValue::Table(table) => Ok(Table::new(self.source, self.path, self.offset, table)),
            DeValue::Array(_) if self.is_tables() => Err(self.error(format!(
                "is a single table: write [{}], in single brackets",
                section(&self.path)
            ))),
            _ => Err(self.wrong_type("a table")),
        }
    }

    /// A list of at most `max` tables.
    pub(super) fn tables(self, max: usize) -> Result<Vec<Table<'a>>, ConfigError> {
        if self.is_table() {
            return Err(self.error(format!(
                "is one of a list: write [[{}]], in double brackets",
                section(&self.path)
            )));
        }
        self.array(max)?.into_iter().map(Self::table).collect()
    }

    /// An array of at most `max` items.
    pub(super) fn array(self, max: usize) -> Result<Vec<Self>, ConfigError> {
        let too_many = self.error(format!("must have at most {max} entries"));
        let DeValue::Array(items) = self.value else {
            return Err(self.wrong_type("an array"));
        };
        if items.len() > max {
            return Err(too_many);
        }
        let item = |(index, item): (usize, Spanned<DeValue<'a>>)| Self {
            source: self.source,
            path: format!("{}[{index}]", self.path),
            offset: item.span().start,
            value: item.into_inner(),
        };
        Ok(items.into_iter().enumerate().map(item).collect())
    }

    /// Windows of a week.
    pub(super) fn hours(self) -> Result<Hours, ConfigError> {
        let windows = self.array(MAX_WINDOWS)?.into_iter();
        windows.map(|window| window.parsed(str::parse)).collect()
    }

    /// The same value as JSON.
    pub(super) fn json(self) -> Result<serde_json::Value, ConfigError> {
        match &self.value {
            DeValue::String(_) => Ok(self.string()?.into()),
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
            DeValue::Array(_) => self.array(MAX_JSON_ITEMS)?.into_iter().map(Self::json).collect(),
            DeValue::Table(_) => {
                let entries = self.table()?.into_entries().into_iter();
                entries.map(|(key, value)| Ok((key, value.json()?))).collect()
            }
        }
    }
}

/// The longest array inside `expect`.
const MAX_JSON_ITEMS: usize = 1024;
