//! Weekly windows in the machine's local time, such as quiet hours.

use jiff::{Timestamp, ToSpan, Zoned, civil::Date, tz::TimeZone};
use std::{fmt, str::FromStr, time::Duration};

/// How far ahead windows are followed: those that leave no gap in a week leave none at all.
const LOOK_AHEAD: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_A_DAY: u16 = 24 * 60;

/// Some windows of a week.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hours(Vec<Window>);

/// One window, on some days of the week. A window that passes midnight belongs to the day on which it begins.
///
/// Written as `23:00-07:00`, `mon-fri 08:30-18:00` or `sat,sun 00:00-24:00`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Whether it applies on Monday, Tuesday and so on.
    days: [bool; 7],
    /// Minutes after midnight, by the wall clock.
    begins: u16,
    /// Likewise; always after `begins`, so possibly on the next day.
    ends: u16,
    written: String,
}

impl Hours {
    /// How long `now` is still within these windows; `None` when it isn't. Overlapping and adjacent windows count as one. The
    /// result is at most a week and a window.
    #[must_use]
    pub fn left(&self, now: &Zoned) -> Option<Duration> {
        let mut until = now.timestamp();
        let lasts =
            |until: Timestamp| Duration::try_from(until.duration_since(now.timestamp())).unwrap_or_default();
        while lasts(until) < LOOK_AHEAD
            && let Some(end) = self.end_at(until, now.time_zone())
        {
            until = end;
        }
        Some(lasts(until)).filter(|left| !left.is_zero())
    }

    /// The latest end of the windows that apply at a time.
    fn end_at(&self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let today = at.to_zoned(zone.clone()).date();
        let days = [today.yesterday().ok(), Some(today)].into_iter().flatten();
        days.flat_map(|day| self.0.iter().filter_map(move |window| window.on(day, zone)))
            .filter(|(begins, ends)| *begins <= at && at < *ends)
            .map(|(_, ends)| ends)
            .max()
    }

    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.0.iter()
    }
}

impl FromIterator<Window> for Hours {
    fn from_iter<T: IntoIterator<Item = Window>>(windows: T) -> Self {
        Self(windows.into_iter().collect())
    }
}

impl Window {
    /// The begin and end of the window on a day. A time that the clock skips comes that much later; of a time that it shows
    /// twice, the first counts.
    fn on(&self, day: Date, zone: &TimeZone) -> Option<(Timestamp, Timestamp)> {
        let weekday = usize::from(day.weekday().to_monday_zero_offset().unsigned_abs());
        if !self.days[weekday] {
            return None;
        }
        let at = |minutes: u16| {
            let civil = day
                .at(0, 0, 0, 0)
                .checked_add(i64::from(minutes).minutes())
                .ok()?;
            Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
        };
        Some((at(self.begins)?, at(self.ends)?))
    }
}

impl FromStr for Window {
    type Err = &'static str;

    fn from_str(written: &str) -> Result<Self, &'static str> {
        let unclear = "is not a window of hours; write one such as \"23:00-07:00\", \"mon-fri 08:30-18:00\" or \
                       \"sat,sun 00:00-24:00\"";
        let mut words = written.split_ascii_whitespace();
        let (days, times) = match (words.next(), words.next(), words.next()) {
            (Some(times), None, None) => ([true; 7], times),
            (Some(days), Some(times), None) => (some_days(days).ok_or(unclear)?, times),
            _ => return Err(unclear),
        };
        let (begins, ends) = times.split_once('-').ok_or(unclear)?;
        let (begins, ends) = (minutes(begins).ok_or(unclear)?, minutes(ends).ok_or(unclear)?);
        if begins == ends {
            return Err("begins when it ends; a whole day is \"00:00-24:00\"");
        }
        if begins == MINUTES_A_DAY {
            return Err("begins at 24:00; write 00:00 of the next day");
        }
        Ok(Self {
            days,
            begins,
            ends: if ends < begins { ends + MINUTES_A_DAY } else { ends },
            written: written.to_owned(),
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// `mon`, `mon-fri`, or several of these with commas.
fn some_days(written: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    for part in written.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `sat-mon` spans the end of the week.
        let many = (last + DAYS.len() - first) % DAYS.len();
        for day in first..=first + many {
            days[day % DAYS.len()] = true;
        }
    }
    Some(days)
}

fn day(name: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(name))
}

/// `HH:MM` in minutes; at most `24:00`.
fn minutes(written: &str) -> Option<u16> {
    let (hours, minutes) = written.split_once(':')?;
    let number = |digits: &str| {
        let legal = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        legal.then(|| digits.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let all = hours * 60 + minutes;
    (minutes < 60 && all <= MINUTES_A_DAY).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the windows last at a time in Berlin, in minutes.
    fn left(windows: &[&str], at: &str) -> Option<u64> {
        let hours: Hours = windows
            .iter()
            .map(|window| window.parse::<Window>().unwrap())
            .collect();
        let now: Zoned = format!("{at}[Europe/Berlin]").parse().unwrap();
        hours.left(&now).map(|left| left.as_secs() / 60)
    }

    #[test]
    fn a_window_applies_from_its_beginning_up_to_its_end() {
        // 2026-11-23 is a Monday.
        for (windows, at, minutes) in [
            (&["08:30-18:00"][..], "2026-11-23T08:29:59", None),
            (&["08:30-18:00"], "2026-11-23T08:30", Some(570)),
            (&["08:30-18:00"], "2026-11-23T17:59", Some(1)),
            (&["08:30-18:00"], "2026-11-23T18:00", None),
            (&["mon-fri 08:30-18:00"], "2026-11-22T12:00", None),
            (&["MON-Fri  08:30-18:00"], "2026-11-27T12:00", Some(360)),
            (&["sat,sun 00:00-24:00"], "2026-11-21T00:00", Some(2880)),
            (&["sat,sun 00:00-24:00"], "2026-11-22T23:59", Some(1)),
            (&["sat,sun 00:00-24:00"], "2026-11-23T00:00", None),
            (&["sat-mon,wed 10:00-11:00"], "2026-11-23T10:30", Some(30)),
            (&["sat-mon,wed 10:00-11:00"], "2026-11-24T10:30", None),
            (&["sat-mon,wed 10:00-11:00"], "2026-11-25T10:30", Some(30)),
            (&[], "2026-11-23T10:30", None),
        ] {
            assert_eq!(left(windows, at), minutes, "{windows:?} at {at}");
        }
    }

    #[test]
    fn a_window_that_passes_midnight_belongs_to_the_day_on_which_it_begins() {
        for (window, at, minutes) in [
            ("23:00-07:00", "2026-11-23T22:59", None),
            ("23:00-07:00", "2026-11-23T23:00", Some(480)),
            ("23:00-07:00", "2026-11-24T06:59", Some(1)),
            ("23:00-07:00", "2026-11-24T07:00", None),
            ("sun 23:00-07:00", "2026-11-23T01:00", Some(360)),
            ("sun 23:00-07:00", "2026-11-22T01:00", None),
            ("mon 22:00-24:00", "2026-11-23T23:00", Some(60)),
            ("mon 22:00-24:00", "2026-11-24T00:00", None),
            ("mon 22:00-00:00", "2026-11-24T00:00", None),
            ("mon 00:00-24:00", "2026-11-24T00:00", None),
        ] {
            assert_eq!(left(&[window], at), minutes, "{window} at {at}");
        }
    }

    #[test]
    fn of_several_windows_the_longest_counts_and_one_carries_on_for_another() {
        for (windows, at, minutes) in [
            (&["08:00-10:00", "09:00-12:00"][..], "2026-11-23T08:30", Some(210)),
            (&["08:00-18:00", "09:00-12:00"], "2026-11-23T09:30", Some(510)),
            (&["08:00-10:00", "10:00-12:00"], "2026-11-23T09:00", Some(180)),
            (&["22:00-07:00", "mon 06:00-08:00"], "2026-11-22T23:00", Some(540)),
            (&["08:00-10:00", "11:00-12:00"], "2026-11-23T09:00", Some(60)),
        ] {
            assert_eq!(left(windows, at), minutes, "{windows:?} at {at}");
        }
        let always = left(&["00:00-24:00"], "2026-11-23T09:00").unwrap();
        assert!((7 * 24 * 60..=8 * 24 * 60).contains(&always), "{always}");
    }

    #[test]
    fn the_clock_on_the_wall_may_be_changed_in_a_window() {
        for (window, at, minutes) in [
            // On 2026-03-29 it goes from 02:00 to 03:00, on 2026-10-25 from 03:00 back to 02:00.
            ("23:00-07:00", "2026-03-28T23:00", Some(420)),
            ("23:00-07:00", "2026-10-24T23:00", Some(540)),
            ("sun 00:00-24:00", "2026-10-25T00:00", Some(1500)),
            ("02:00-03:00", "2026-10-25T02:30+02:00", Some(90)),
            ("02:00-03:00", "2026-10-25T02:30+01:00", Some(30)),
            ("01:00-02:30", "2026-10-25T02:29+02:00", Some(1)),
            ("01:00-02:30", "2026-10-25T02:29+01:00", None),
            // What is skipped comes an hour later, or is over when it begins.
            ("02:30-05:00", "2026-03-29T03:00", None),
            ("02:30-05:00", "2026-03-29T03:30", Some(90)),
            ("02:00-03:00", "2026-03-29T03:00", None),
            ("01:00-02:30", "2026-03-29T01:30", Some(60)),
        ] {
            assert_eq!(left(&[window], at), minutes, "{window} at {at}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for written in [
            "",
            "23:00",
            "23:00-",
            "-07:00",
            "23-07",
            "23:0-7:00",
            "+1:00-02:00",
            "23:60-07:00",
            "25:00-26:00",
            "24:01-07:00",
            "24:00-07:00",
            "08:00-08:00",
            "08:00 - 09:00",
            "mon-fri",
            "mon- 08:00-09:00",
            "mon,, 08:00-09:00",
            "monday 08:00-09:00",
            "mon fri 08:00-09:00",
            "mon-wed-fri 08:00-09:00",
            "mon 08:00-09:00 CET",
            "08:00–09:00",
            "٠٨:٠٠-٠٩:٠٠",
        ] {
            assert!(written.parse::<Window>().is_err(), "{written:?}");
        }
        let window: Window = "mon-fri 08:30-18:00".parse().unwrap();
        assert_eq!(window.to_string(), "mon-fri 08:30-18:00");
    }
}
