//! What an audit has found, for people and for programs.

use crate::{args::Format, client, failure::Failure};
use reveille_bus::archive::{ArchiveError, AuditBreach, Audited, Breach};
use reveille_domain::audit::Invariant;
use serde_json::json;
use std::fmt::Write as _;

/// How many breaches are listed. More are counted.
const MAX_LISTED: usize = 1_000;

/// What an audit has found.
#[derive(Debug, Default)]
pub struct Report {
    pub audited: Audited,
    pub aggregates: usize,
    /// How often each rule was applied, in their order.
    pub checks: Vec<u64>,
    /// How many rows were compared, if there were any to compare.
    pub rows: Option<u64>,
    /// The breaches of each rule, in their order.
    counts: [u64; Invariant::ALL.len()],
    listed: Vec<AuditBreach>,
    /// Whether damage has ended the audit.
    pub is_cut_off: bool,
}

/// Damage behind which nothing can be read.
#[derive(Debug)]
pub struct Damage(AuditBreach);

impl Damage {
    /// A commit that can't be passed.
    pub fn of_commit(breach: Breach) -> Self {
        Self(breach.into())
    }

    /// Something that is wrong with a file.
    pub fn of_file(invariant: Invariant, error: &ArchiveError) -> Self {
        Self(AuditBreach {
            invariant,
            sequence: 0,
            subject: String::new(),
            what: error.to_string(),
        })
    }
}

impl Report {
    /// Takes breaches in.
    pub fn add(&mut self, breaches: Vec<AuditBreach>) {
        for breach in breaches {
            self.counts[breach.invariant as usize] += 1;
            if self.listed.len() < MAX_LISTED {
                self.listed.push(breach);
            }
        }
    }

    /// Takes in the damage that ends the audit.
    pub fn stopped_by(&mut self, damage: Damage) {
        self.is_cut_off = true;
        self.add(vec![damage.0]);
    }

    /// How many breaches there are.
    pub fn broken(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Prints it.
    pub fn print(&self, format: Format) -> Result<(), Failure> {
        client::print_one(&self.as_json(), format, &self.as_text())
    }

    fn as_json(&self) -> client::Row {
        let rules = self.rules().map(
            |(rule, checks, breaches)| json!({"code": rule.code(), "checks": checks, "breaches": breaches}),
        );
        let breaches = self.listed.iter().map(|breach| {
            json!({"code": breach.invariant.code(), "sequence": breach.sequence, "subject": breach.subject,
                "what": breach.what})
        });
        json!({"sound": self.broken() == 0, "complete": !self.is_cut_off, "commits": self.audited.commits,
            "aggregates": self.aggregates, "events": self.audited.events, "wakes": self.audited.wakes, "rows": self.rows,
            "rules": rules.collect::<Vec<_>>(), "breaches": breaches.collect::<Vec<_>>(), "unlisted": self.unlisted()})
    }

    fn as_text(&self) -> String {
        let Audited {
            commits,
            events,
            wakes,
        } = self.audited;
        let aggregates = self.aggregates;
        let rows = self.rows.map_or("-".to_owned(), |rows| rows.to_string());
        let mut text = format!(
            "commits     {commits}\naggregates  {aggregates}\nevents      {events}\nwakes       {wakes}\nrows        {rows}\n"
        );
        let _ = write!(
            text,
            "\n{:<12} {:>12} {:>10}  what it promises",
            "rule", "checks", "breaches"
        );
        for (rule, checks, breaches) in self.rules() {
            let checks = checks.map_or("-".to_owned(), |checks| checks.to_string());
            let _ = write!(
                text,
                "\n{:<12} {checks:>12} {breaches:>10}  {}",
                rule.code(),
                rule.promise()
            );
        }
        text += "\n";
        for breach in &self.listed {
            let _ = write!(text, "\n{}", line(breach));
        }
        if self.unlisted() > 0 {
            let _ = write!(text, "\nand {} more", self.unlisted());
        }
        if self.is_cut_off {
            text += "\nnothing behind that was checked";
        }
        if self.broken() == 0 {
            text += "\nsound";
        }
        text
    }

    fn unlisted(&self) -> u64 {
        self.broken().saturating_sub(self.listed.len() as u64)
    }

    /// Each rule, how often it was applied if that was possible, and how often it was broken.
    fn rules(&self) -> impl Iterator<Item = (Invariant, Option<u64>, u64)> {
        Invariant::ALL.iter().map(|rule| {
            let checks = match rule {
                Invariant::Rows => self.rows,
                rule => self.checks.get(*rule as usize).copied(),
            };
            (*rule, checks, self.counts[*rule as usize])
        })
    }
}

/// A breach on a line, such as `commit 7 (reveille.events.…): wake-end: …`.
fn line(breach: &AuditBreach) -> String {
    let AuditBreach {
        invariant,
        sequence,
        subject,
        what,
    } = breach;
    match (sequence, subject.as_str()) {
        (0, _) => format!("{invariant}: {what}"),
        (sequence, "") => format!("commit {sequence}: {invariant}: {what}"),
        (sequence, subject) => format!("commit {sequence} ({subject}): {invariant}: {what}"),
    }
}

/// How many, in words.
pub fn breaches(count: u64) -> String {
    match count {
        1 => "1 breach".to_owned(),
        count => format!("{count} breaches"),
    }
}
