//! Whether a load's calls ended as they may. Pure.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::load::{Call, End, Kind, SLACK, TIMEOUT};

/// Problems that a trouble explains, by their status and name.
#[derive(Debug, Clone, Copy)]
pub struct Explained {
    /// Of a GET.
    pub get: &'static [(u16, &'static str)],
    /// Of a POST.
    pub post: &'static [(u16, &'static str)],
}

/// A trouble's time, from its beginning to the first success after it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Before the trouble.
    pub began: Instant,
    /// The end of the first good call after it.
    pub recovered: Instant,
}

/// Judges every call.
pub fn judge(calls: &[Call], runs: &HashMap<u64, usize>, span: Span, explained: Explained) -> Result<()> {
    for call in calls {
        let ran = runs.get(&call.number).copied().unwrap_or(0);
        judge_end(call, span, explained)?;
        judge_runs(call, ran)?;
    }
    Ok(())
}

fn judge_end(call: &Call, span: Span, explained: Explained) -> Result<()> {
    let Call { number, kind, sent, ended, end } = call;
    ensure!(*ended <= *sent + TIMEOUT + SLACK, "{kind:?} {number} took {:?}", *ended - *sent);
    if *end == End::Good {
        return Ok(());
    }
    let during = *ended >= span.began && *sent <= span.recovered;
    ensure!(during, "{kind:?} {number} ended outside of the trouble with {end:?}");
    let explained = if *kind == Kind::Get { explained.get } else { explained.post };
    let End::Problem { status, name, retry_after } = end else {
        anyhow::bail!("{kind:?} {number} ended with {end:?}");
    };
    ensure!(explained.contains(&(*status, name.as_str())), "{kind:?} {number} was answered {end:?}");
    ensure!(*status != 503 || *retry_after, "{kind:?} {number}: a 503 says nothing of when to try again");
    Ok(())
}

fn judge_runs(call: &Call, ran: usize) -> Result<()> {
    let Call { number, kind, end, .. } = call;
    ensure!(*end != End::Good || ran > 0, "{kind:?} {number} was answered and has not run");
    if *kind == Kind::Post {
        ensure!(ran <= 1, "Post {number} ran {ran} times");
        let refused = matches!(end, End::Problem { status: 503, .. });
        ensure!(!refused || ran == 0, "Post {number} was refused and ran");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EXPLAINED: Explained =
        Explained { get: &[(503, "away")], post: &[(503, "away"), (502, "unknown")] };

    fn problem(status: u16, name: &str, retry_after: bool) -> End {
        End::Problem { status, name: name.to_owned(), retry_after }
    }

    /// A call in the middle of a trouble that lasted 10 s.
    fn verdict(kind: Kind, end: End, ran: usize) -> Result<()> {
        let began = Instant::now();
        let sent = began + Duration::from_secs(5);
        let call = Call { number: 1, kind, sent, ended: sent + TIMEOUT, end };
        let span = Span { began, recovered: began + Duration::from_secs(10) };
        judge(&[call], &HashMap::from([(1, ran)]), span, EXPLAINED)
    }

    #[test]
    fn what_is_explained_passes_and_nothing_else() {
        verdict(Kind::Get, problem(503, "away", true), 0).unwrap();
        verdict(Kind::Post, problem(502, "unknown", false), 1).unwrap();
        verdict(Kind::Get, problem(502, "unknown", false), 1).unwrap_err();
        verdict(Kind::Get, problem(503, "other", true), 0).unwrap_err();
        for end in [End::Wrong, End::Silent, End::Broken("reset".to_owned())] {
            verdict(Kind::Get, end, 1).unwrap_err();
        }
    }

    #[test]
    fn a_503_says_when_to_try_again_and_has_not_run() {
        verdict(Kind::Get, problem(503, "away", false), 0).unwrap_err();
        verdict(Kind::Post, problem(503, "away", true), 1).unwrap_err();
    }

    #[test]
    fn a_get_may_run_twice_and_a_post_may_not() {
        verdict(Kind::Get, End::Good, 2).unwrap();
        verdict(Kind::Post, End::Good, 2).unwrap_err();
        verdict(Kind::Post, End::Good, 0).unwrap_err();
    }

    #[test]
    fn a_bad_answer_before_or_after_the_trouble_is_not_explained() {
        let now = Instant::now();
        let call = |sent| Call {
            number: 1,
            kind: Kind::Get,
            sent,
            ended: sent + Duration::from_secs(1),
            end: problem(503, "away", true),
        };
        let span = Span { began: now + Duration::from_secs(2), recovered: now + Duration::from_secs(4) };
        for (after_s, explained) in [(0, false), (2, true), (4, true), (5, false)] {
            let calls = [call(now + Duration::from_secs(after_s))];
            let verdict = judge(&calls, &HashMap::new(), span, EXPLAINED);
            assert_eq!(verdict.is_ok(), explained, "sent after {after_s} s");
        }
    }

    #[test]
    fn a_call_that_outlives_its_deadline_hangs() {
        let sent = Instant::now();
        let ended = sent + TIMEOUT + SLACK + Duration::from_millis(1);
        let call = Call { number: 1, kind: Kind::Get, sent, ended, end: End::Good };
        let span = Span { began: sent, recovered: ended };
        judge(&[call], &HashMap::from([(1, 1)]), span, EXPLAINED).unwrap_err();
    }
}
