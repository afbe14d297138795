//! Counts beside counts: what rose, what fell, and what was granted. Never counts anything, and performs no I/O but to
//! print.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Instructions by the name of what they were counted in.
pub(super) type Counts = BTreeMap<String, u64>;

/// What a count may differ by without a word: far above what hash seeds and the kernel's timing change (0.5 %), and
/// below what somebody would notice in a profile.
const PERCENT_MAX: u64 = 3;
/// The trailer of a commit that grants a rise.
pub(super) const TRAILER: &str = "Counts";

/// A commit's word that a count may rise: `Counts: <bench> <reason>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// A bench, or what several begin with.
    pub(super) bench: String,
    pub(super) reason: String,
}

impl Grant {
    /// From a trailer's value; without a reason it grants nothing.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (bench, reason) = value.trim().split_once(char::is_whitespace)?;
        Some(Self { bench: bench.to_owned(), reason: reason.trim().to_owned() })
    }

    fn covers(&self, bench: &str) -> bool {
        bench.strip_prefix(&self.bench).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}

/// One bench on both sides.
#[derive(Debug)]
pub(super) struct Row {
    bench: String,
    before: Option<u64>,
    now: Option<u64>,
    verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Within what it may differ by.
    Alike,
    Less,
    More,
    /// More, and a commit says why.
    Granted(String),
    /// Not counted before.
    New,
    /// Counted no more.
    Gone,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alike => Ok(()),
            Self::Less => f.write_str("fewer"),
            Self::More => f.write_str("MORE"),
            Self::Granted(reason) => write!(f, "granted: {reason}"),
            Self::New => f.write_str("new"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// All that was counted on either side, by name.
pub(super) fn rows(before: &Counts, now: &Counts, grants: &[Grant]) -> Vec<Row> {
    let benches: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let row = |bench: &String| {
        let (before, now) = (before.get(bench).copied(), now.get(bench).copied());
        Row { bench: bench.clone(), before, now, verdict: judge(bench, before, now, grants) }
    };
    benches.into_iter().map(row).collect()
}

fn judge(bench: &str, before: Option<u64>, now: Option<u64>, grants: &[Grant]) -> Verdict {
    let (before, now) = match (before, now) {
        (Some(before), Some(now)) => (before, now),
        (None, _) => return Verdict::New,
        (_, None) => return Verdict::Gone,
    };
    if now * 100 < before * (100 - PERCENT_MAX) {
        return Verdict::Less;
    }
    if now * 100 <= before * (100 + PERCENT_MAX) {
        return Verdict::Alike;
    }
    let granted = grants.iter().find(|grant| grant.covers(bench));
    granted.map_or(Verdict::More, |grant| Verdict::Granted(grant.reason.clone()))
}

/// Whether nothing rose but what may.
pub(super) fn passed(rows: &[Row]) -> bool {
    rows.iter().all(|row| row.verdict != Verdict::More)
}

/// Prints what was counted, and what to do about it.
pub(super) fn print(rows: &[Row]) {
    println!("\n{:<34} {:>12} {:>12} {:>9}", "instructions", "before", "now", "change");
    for Row { bench, before, now, verdict } in rows {
        let change = before.zip(*now).map_or_else(String::new, |(before, now)| change(before, now));
        let line = format!("{bench:<34} {:>12} {:>12} {change:>9}  {verdict}", number(*before), number(*now));
        println!("{}", line.trim_end());
    }
    let rose: Vec<&Row> = rows.iter().filter(|row| row.verdict == Verdict::More).collect();
    if let Some(first) = rose.first() {
        println!("{} of {} rose by more than {PERCENT_MAX} %", rose.len(), rows.len());
        println!("what is meant to rise, a commit of the change grants by a last line of its message:");
        println!("{TRAILER}: {} <the reason>", first.bench);
    }
}

fn number(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| count.to_string())
}

/// In percent; what a table says and no verdict hangs on.
#[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
fn change(before: u64, now: u64) -> String {
    format!("{:+.2} %", (now as f64 - before as f64) * 100.0 / before.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(before: Option<u64>, now: Option<u64>, grants: &[&str]) -> Verdict {
        let grants: Vec<Grant> = grants.iter().filter_map(|value| Grant::parse(value)).collect();
        judge("routing::find::template", before, now, &grants)
    }

    #[test]
    fn three_percent_either_way_are_nothing() {
        for now in [97_000, 100_000, 103_000] {
            assert_eq!(verdict(Some(100_000), Some(now), &[]), Verdict::Alike, "{now}");
        }
        assert_eq!(verdict(Some(100_000), Some(103_001), &[]), Verdict::More);
        assert_eq!(verdict(Some(100_000), Some(96_999), &[]), Verdict::Less);
    }

    #[test]
    fn a_rise_is_granted_by_name_and_with_a_reason() {
        let granted = |grant| verdict(Some(100), Some(200), &[grant]);
        let because = Verdict::Granted("paths are folded".to_owned());
        assert_eq!(granted("routing::find::template paths are folded"), because);
        assert_eq!(granted("routing::find  paths are folded"), because);
        for other in ["routing::find::template", "routing::fin because", "routing::find::template::x because"]
        {
            assert_eq!(granted(other), Verdict::More, "{other}");
        }
    }

    #[test]
    fn what_stands_on_one_side_alone_passes() {
        assert_eq!(verdict(None, Some(1), &[]), Verdict::New);
        assert_eq!(verdict(Some(1), None, &[]), Verdict::Gone);
    }

    #[test]
    fn one_rise_among_many_does_not_pass() {
        let before = Counts::from([("a".to_owned(), 100), ("b".to_owned(), 100)]);
        let mut now = before.clone();
        assert!(passed(&rows(&before, &now, &[])));
        now.insert("b".to_owned(), 104);
        assert!(!passed(&rows(&before, &now, &[])));
    }

    #[test]
    fn a_change_is_said_with_its_sign() {
        assert_eq!((change(200, 210), change(200, 190)), ("+5.00 %".to_owned(), "-5.00 %".to_owned()));
    }
}
