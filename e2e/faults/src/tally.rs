//! From what clients, the function and the ledger saw to one line of figures. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Deserialize;

use crate::call::{End, Flaw, Kind, Record};
use crate::fault::Allowed;

/// Notes of one round: enough to see what is wrong, few enough to read.
const NOTES_MAX: usize = 20;

/// One run of the function, as it told before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The attempt that the platform told it.
    pub(crate) attempt: u32,
    pub(crate) ended: bool,
}

/// All runs, by the call's number.
pub(crate) type Runs = HashMap<u64, Vec<Run>>;

/// A call as the ledger lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) status: String,
    pub(crate) attempts: u32,
}

impl Listed {
    pub(crate) fn is_terminal(&self) -> bool {
        !matches!(self.status.as_str(), "queued" | "running")
    }
}

/// What is known of one round.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) records: &'a [Record],
    pub(crate) runs: &'a Runs,
    /// The ledger's list when all had ended or patience had …
    pub(crate) first: &'a [Listed],
    /// … and once more afterwards.
    pub(crate) again: &'a [Listed],
    pub(crate) allowed: &'a Allowed,
    /// When the last fault was over: a kill at once, a stop when it was let go on.
    pub(crate) over: Duration,
}

/// A line of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) sync: usize,
    pub(crate) accepted: usize,
    pub(crate) excused: usize,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) recovered: usize,
    pub(crate) unexpected: usize,
    pub(crate) first_success_ms: Option<u64>,
    /// What is wrong, for people.
    pub(crate) notes: Vec<String>,
}

impl Figures {
    /// Whether no rule is broken.
    pub(crate) fn is_withstood(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.unexpected == 0 && self.first_success_ms.is_some()
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }
}

/// Counts one round.
pub(crate) fn count(seen: &Seen<'_>) -> Figures {
    let mut figures = Figures { first_success_ms: first_success(seen), ..Figures::default() };
    if figures.first_success_ms.is_none() {
        figures.note("no call was answered after the fault".to_owned());
    }
    let listed: HashMap<&str, &Listed> = seen.first.iter().map(|call| (call.id.as_str(), call)).collect();
    for record in seen.records {
        let runs = seen.runs.get(&record.number).map_or(&[][..], Vec::as_slice);
        match &record.end {
            End::Good => good(&mut figures, record, runs),
            End::Accepted(id) => accepted(&mut figures, record, runs, listed.get(id.as_str()).copied()),
            End::Flawed(flaw, why) => flawed(&mut figures, record, runs, (*flaw, why), seen.allowed),
        }
        if record.kind == Kind::Post && runs.len() > 1 {
            figures.duplicated += 1;
            figures.note(format!("POST {} ran {} times: {runs:?}", record.number, runs.len()));
        }
    }
    twice_in_ledger(&mut figures, seen);
    figures
}

fn good(figures: &mut Figures, record: &Record, runs: &[Run]) {
    figures.sync += 1;
    if record.tries > 1 || runs.iter().any(|run| run.attempt > 1) {
        figures.recovered += 1;
    }
    if !runs.iter().any(|run| run.ended) {
        figures.unexpected += 1;
        figures.note(format!("{:?} {} was answered and did not run", record.kind, record.number));
    }
}

/// ▪ What was accepted has an end, and one that is called success has run.
fn accepted(figures: &mut Figures, record: &Record, runs: &[Run], listed: Option<&Listed>) {
    figures.accepted += 1;
    let Some(call) = listed.filter(|call| call.is_terminal()) else {
        figures.lost += 1;
        let state = listed.map_or("unknown to the ledger".to_owned(), |call| call.status.clone());
        let at = record.done.as_secs_f32();
        return figures
            .note(format!("accepted {} at {at:.2} s has no end: {state}, ran {runs:?}", record.number));
    };
    if call.status != "success" {
        figures.unexpected += 1;
        figures.note(format!(
            "accepted {} ended as {} after {} attempts",
            record.number, call.status, call.attempts
        ));
    } else if !runs.iter().any(|run| run.ended) {
        figures.lost += 1;
        figures.note(format!("accepted {} is called a success and did not run", record.number));
    } else if call.attempts > 1 || record.tries > 1 {
        figures.recovered += 1;
    }
}

fn flawed(
    figures: &mut Figures,
    record: &Record,
    runs: &[Run],
    (flaw, why): (Flaw, &str),
    allowed: &Allowed,
) {
    figures.sync += usize::from(record.kind != Kind::Detached);
    // Refused means not taken; a detached call that was not confirmed is refused and may run all the same.
    let ran_though_refused = flaw == Flaw::Refused && record.kind == Kind::Post && !runs.is_empty();
    if allowed.explains(record.kind, flaw) && !ran_though_refused {
        figures.excused += 1;
        return;
    }
    match record.kind {
        Kind::Get => figures.lost += 1,
        Kind::Post | Kind::Detached => figures.unexpected += 1,
    }
    let (sent, took) = (record.sent.as_secs_f32(), (record.done - record.sent).as_millis());
    figures.note(format!(
        "{:?} {} sent at {sent:.2} s, after {took} ms and {} tries: {flaw:?}, ran {runs:?}: {why}",
        record.kind, record.number, record.tries
    ));
}

/// ▪ A call is one row, under one number, and its end never changes.
fn twice_in_ledger(figures: &mut Figures, seen: &Seen<'_>) {
    let mut rows: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for call in seen.first.iter().chain(seen.again) {
        rows.entry(&call.id).or_default().push(call);
    }
    for (id, rows) in rows {
        let ends = rows.iter().filter(|row| row.is_terminal());
        let mut ends: Vec<(u64, &str)> = ends.map(|row| (row.number, row.status.as_str())).collect();
        ends.dedup();
        let in_one = |list: &[Listed]| list.iter().filter(|call| call.id == id).count();
        // The lists are long: they are searched only for what stands there oddly often.
        let listed_twice = rows.len() > 2 && (in_one(seen.first) > 1 || in_one(seen.again) > 1);
        if ends.len() > 1 || listed_twice {
            figures.duplicated += 1;
            figures.note(format!("call {id} has several ends: {rows:?}"));
        }
    }
}

/// From the end of the fault to the end of the first good call that was sent after it.
fn first_success(seen: &Seen<'_>) -> Option<u64> {
    let after = seen.records.iter().filter(|record| record.end == End::Good && record.sent >= seen.over);
    let first = after.map(|record| record.done).min()?;
    u64::try_from((first - seen.over).as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, How, Target};

    const RAN: Run = Run { attempt: 1, ended: true };

    fn record(number: u64, kind: Kind, end: End) -> Record {
        let (sent, done) = (Duration::from_secs(number), Duration::from_millis(number * 1000 + 40));
        Record { number, kind, sent, done, tries: 1, end }
    }

    fn listed(id: &str, number: u64, status: &str) -> Listed {
        Listed { id: id.to_owned(), number, status: status.to_owned(), attempts: 1 }
    }

    fn figures(records: &[Record], runs: &[(u64, Vec<Run>)], first: &[Listed], again: &[Listed]) -> Figures {
        let allowed = Fault { target: Target::Runner, how: How::Kill }.allowed();
        let runs = runs.iter().cloned().collect();
        count(&Seen { records, runs: &runs, first, again, allowed: &allowed, over: Duration::from_secs(5) })
    }

    fn accepted_call() -> Record {
        record(9, Kind::Detached, End::Accepted("a".to_owned()))
    }

    #[test]
    fn an_accepted_call_without_an_end_is_lost() {
        let runs = [(9, vec![RAN])];
        for first in [&[][..], &[listed("a", 1, "queued")], &[listed("a", 1, "running")]] {
            assert_eq!(figures(&[accepted_call()], &runs, first, first).lost, 1, "{first:?}");
        }
        let ended = [listed("a", 1, "success")];
        assert_eq!(figures(&[accepted_call()], &runs, &ended, &ended).lost, 0);
    }

    #[test]
    fn a_success_that_never_ran_is_lost() {
        let ended = [listed("a", 1, "success")];
        let begun = [(9, vec![Run { attempt: 1, ended: false }])];
        assert_eq!(figures(&[accepted_call()], &[], &ended, &ended).lost, 1);
        assert_eq!(figures(&[accepted_call()], &begun, &ended, &ended).lost, 1);
    }

    #[test]
    fn an_end_that_changes_or_stands_twice_is_a_duplicate() {
        let runs = [(9, vec![RAN])];
        let once = [listed("a", 1, "success")];
        let twice = [listed("a", 1, "success"), listed("a", 2, "success")];
        for (first, again) in [
            (&once[..], &[listed("a", 1, "error")][..]),
            (&once, &[listed("a", 2, "success")]),
            (&twice, &once),
        ] {
            assert_eq!(figures(&[accepted_call()], &runs, first, again).duplicated, 1, "{first:?} {again:?}");
        }
        assert_eq!(figures(&[accepted_call()], &runs, &once, &once).duplicated, 0);
    }

    #[test]
    fn a_post_that_ran_twice_is_a_duplicate_and_a_get_is_recovered() {
        let again = Run { attempt: 2, ended: true };
        let post = figures(&[record(9, Kind::Post, End::Good)], &[(9, vec![RAN, again])], &[], &[]);
        assert_eq!((post.duplicated, post.lost), (1, 0));
        let get = figures(&[record(9, Kind::Get, End::Good)], &[(9, vec![RAN, again])], &[], &[]);
        assert_eq!((get.duplicated, get.recovered, get.is_withstood()), (0, 1, true));
    }

    #[test]
    fn what_the_fault_does_not_explain_is_unexpected_and_for_a_get_lost() {
        let flawed = |kind, flaw| [record(9, kind, End::Flawed(flaw, String::new()))];
        let of = |kind, flaw| figures(&flawed(kind, flaw), &[], &[], &[]);
        assert_eq!(of(Kind::Post, Flaw::Unknown).excused, 1);
        assert_eq!(of(Kind::Post, Flaw::Refused).unexpected, 1);
        assert_eq!(of(Kind::Get, Flaw::Unknown).lost, 1);
        assert_eq!(of(Kind::Detached, Flaw::Refused).unexpected, 1);
    }

    #[test]
    fn a_post_that_was_refused_and_ran_is_unexpected() {
        let allowed = Fault { target: Target::Broker, how: How::Kill }.allowed();
        let records = [record(9, Kind::Post, End::Flawed(Flaw::Refused, String::new()))];
        for (runs, unexpected) in [(vec![], 0), (vec![RAN], 1)] {
            let runs: Runs = [(9, runs)].into();
            let over = Duration::ZERO;
            let seen =
                Seen { records: &records, runs: &runs, first: &[], again: &[], allowed: &allowed, over };
            assert_eq!(count(&seen).unexpected, unexpected);
        }
    }

    #[test]
    fn the_first_success_is_of_a_call_that_was_sent_after_the_fault() {
        let sent = |number| record(number, Kind::Get, End::Good);
        let runs = [(4, vec![RAN]), (6, vec![RAN]), (7, vec![RAN])];
        let seen = figures(&[sent(4), sent(7), sent(6)], &runs, &[], &[]);
        assert_eq!(seen.first_success_ms, Some(1_040));
        let before = figures(&[sent(4)], &runs, &[], &[]);
        assert_eq!((before.first_success_ms, before.is_withstood()), (None, false));
    }
}
