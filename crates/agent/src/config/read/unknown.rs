//! What is said of keys and words that aren't known, and what they probably mean.

use crate::config::suggest::nearest;

/// The tables that are items of a list, which are written in double brackets.
const LISTS: [&str; 3] = ["provider", "preset", "step"];
/// The tables of keys that are easily put into another, and these keys.
const HOMES: [(&str, &[&str]); 5] = [
    ("[[preset]]", &["preset", "system", "parameters", "pinned"]),
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
const HOME_TABLES: [(&str, &str); 6] = [
    ("preset", "[[preset]]"),
    ("wake", "[provider.wake]"),
    ("sleep", "[provider.sleep]"),
    ("probe", "[provider.probe]"),
    ("models", "[[provider.models]]"),
    ("verify", "[provider.wake.verify]"),
];
/// A key that isn't known in its table.
pub(super) struct Unknown<'a> {
    pub(super) key: &'a str,
    pub(super) is_table: bool,
    /// The name of the only thing in it, if that is a table.
    pub(super) only_subtable: Option<&'a str>,
}

impl Unknown<'_> {
    /// What is wrong with it in a table at `path`, where these keys are known.
    pub(super) fn reason(&self, path: &str, known: &[&str]) -> String {
        let what = if self.is_table { "table" } else { "key" };
        let own = section(path);
        let listed: Vec<_> = match own.as_str() {
            "" => known.iter().map(|known| header("", known)).collect(),
            _ => known.iter().map(|&known| known.to_owned()).collect(),
        };
        let listed = listed.join(", ");
        if let Some(home) = self.home() {
            let meant = match HOME_TABLES.iter().find(|(table, _)| *table == self.key) {
                Some((_, table)) if self.is_table => format!("`{table}`"),
                _ if self.is_table => format!("the key `{}` in `{home}`", self.key),
                _ => format!("it in `{home}`"),
            };
            return format!("unknown {what} here: did you mean {meant}? Known here: {listed}");
        }
        match self.meant(known) {
            Some(meant) => {
                let meant = match self.only_subtable {
                    Some(below) if own.is_empty() => header(meant, below),
                    _ if self.is_table => header(&own, meant),
                    _ => meant.to_owned(),
                };
                format!("unknown {what}, did you mean `{meant}`? Known here: {listed}")
            }
            None => format!("unknown {what}; known here: {listed}"),
        }
    }

    /// Which of the known keys it seems to mean; none if it is known in another table.
    pub(super) fn meant<'k>(&self, known: &[&'k str]) -> Option<&'k str> {
        match self.home() {
            Some(_) => None,
            None => nearest(self.key, known.iter().copied()),
        }
    }

    /// The table in which it is known.
    fn home(&self) -> Option<&'static str> {
        let home = HOMES.iter().find(|(_, keys)| keys.contains(&self.key));
        home.map(|(home, _)| *home)
    }
}

/// The path of a table without its places in lists, such as `provider.wake`.
pub(super) fn section(path: &str) -> String {
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
pub(super) fn one_of(words: &[&str], word: &str) -> String {
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
