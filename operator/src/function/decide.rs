//! Which revision of a Fn serves, which is to be loaded, which retires, and when. Pure: no client, no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use funcatron_broker::link::QueueState;
use funcatron_crds::RevisionName;
use tokio::time::Instant;

/// The first repeat of a `load`; a runner that is up loads within a second.
const ASK_MIN: Duration = Duration::from_secs(1);
/// The longest wait between two `load`s.
const ASK_MAX: Duration = Duration::from_secs(30);
/// A load that failed is tried again this often: what it lacked may have come since.
const RETRY_FAILED: Duration = Duration::from_secs(60);
/// A retiring revision's queue must have been without a ready call for so long: tables have then reached every
/// gateway.
const QUIET: Duration = Duration::from_secs(10);
/// How often a retiring revision's queue is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Revisions kept for comparison and roll-back, as Deployments do.
pub(crate) const HISTORY_MAX: usize = 10;

/// What runners have said of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Verdict {
    /// Nothing yet.
    #[default]
    Unknown,
    /// A runner has loaded it.
    Loaded,
    /// It does not load; with the reason and last log lines.
    Failed(String),
    /// A key that it needs is not there.
    KeyMissing(String),
}

/// Requests to load one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    /// What came of them.
    pub(crate) verdict: Verdict,
    /// How many were sent.
    asked: u32,
    /// When the last was sent.
    asked_at: Option<Instant>,
}

/// Whether a `load` is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Send one; the next is due after so long.
    Now(Duration),
    /// Not yet.
    In(Duration),
    /// Never: it is loaded.
    Never,
}

impl Load {
    /// What a runner said.
    pub(crate) fn with(verdict: Verdict) -> Self {
        Self { verdict, ..Self::default() }
    }

    /// Takes a report in.
    pub(crate) fn report(&mut self, verdict: Verdict) {
        self.verdict = verdict;
        self.asked = 0;
    }

    /// Runners have come since: what was asked before reached nobody.
    pub(crate) fn hurry(&mut self) {
        if self.verdict == Verdict::Unknown {
            self.asked = 0;
            self.asked_at = None;
        }
    }

    /// Whether to ask now. `seeded` failures, known from before a restart, wait their time too.
    pub(crate) fn ask(&self, now: Instant) -> Ask {
        let interval = match self.verdict {
            Verdict::Loaded => return Ask::Never,
            Verdict::Unknown => {
                ASK_MIN.saturating_mul(1 << self.asked.saturating_sub(1).min(10)).min(ASK_MAX)
            }
            Verdict::Failed(_) | Verdict::KeyMissing(_) => RETRY_FAILED,
        };
        let next = ASK_MIN.saturating_mul(1 << self.asked.min(10)).min(ASK_MAX);
        match self.asked_at {
            Some(at) if at + interval > now => Ask::In(at + interval - now),
            _ => Ask::Now(next),
        }
    }

    /// One was sent.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = self.asked.saturating_add(1);
        self.asked_at = Some(now);
    }
}

/// What is to be done about a Fn's revisions.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// In the App's table.
    pub(crate) serving: Option<RevisionName>,
    /// Out of the table; their queues and Deployments go.
    pub(crate) retiring: Vec<RevisionName>,
    /// Beyond the history.
    pub(crate) forgotten: Vec<RevisionName>,
}

/// Decides by the newest revision (absent while the spec is refused), the one that served until now, what runners
/// said of the newest, and all that is stored (name to number).
pub(crate) fn decide(
    latest: Option<&RevisionName>,
    served: Option<&RevisionName>,
    latest_loaded: bool,
    stored: &BTreeMap<RevisionName, i64>,
) -> Plan {
    let last_good = served.filter(|name| stored.contains_key(*name));
    let serving = latest.filter(|_| latest_loaded).or(last_good).cloned();
    let live = |name: &&RevisionName| Some(*name) == latest || Some(*name) == serving.as_ref();
    let mut idle: Vec<&RevisionName> = stored.keys().filter(|name| !live(name)).collect();
    idle.sort_by_key(|name| std::cmp::Reverse(stored[*name]));
    let kept = HISTORY_MAX.saturating_sub(stored.len() - idle.len());
    let forgotten = idle.iter().skip(kept).map(|name| (*name).clone()).collect();
    Plan { retiring: idle.into_iter().cloned().collect(), forgotten, serving }
}

/// How far a revision's retirement has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retirement {
    /// Its queue is being watched; since when it was without a ready call.
    Watching(Option<Instant>),
    /// Queue and Deployment are gone.
    Done,
}

/// What a look at the retiring revision's queue leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retire {
    /// Look again.
    Look(Retirement, Duration),
    /// Delete the queue, if it is empty.
    DeleteQueue,
    /// There is no queue: delete the Deployment.
    Finish,
}

/// The next step of a retirement.
pub(crate) fn retire(quiet_since: Option<Instant>, queue: Option<QueueState>, now: Instant) -> Retire {
    let Some(QueueState { ready, consumers: _ }) = queue else { return Retire::Finish };
    if ready > 0 {
        return Retire::Look(Retirement::Watching(None), LOOK_INTERVAL);
    }
    let since = quiet_since.unwrap_or(now);
    if now.saturating_duration_since(since) >= QUIET {
        return Retire::DeleteQueue;
    }
    Retire::Look(Retirement::Watching(Some(since)), LOOK_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(hash: &str) -> RevisionName {
        RevisionName::new("hello", hash).unwrap()
    }

    fn stored(hashes: &[&str]) -> BTreeMap<RevisionName, i64> {
        hashes.iter().zip(1..).map(|(hash, number)| (rev(hash), number)).collect()
    }

    const A: &str = "aaaaaaaa";
    const B: &str = "bbbbbbbb";
    const C: &str = "cccccccc";

    #[test]
    fn nothing_serves_before_it_was_loaded() {
        let plan = decide(Some(&rev(A)), None, false, &stored(&[A]));
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn the_last_good_revision_serves_until_the_newest_is_loaded() {
        let plan = decide(Some(&rev(B)), Some(&rev(A)), false, &stored(&[A, B]));
        assert_eq!(plan.serving, Some(rev(A)));
        assert!(plan.retiring.is_empty());
        let plan = decide(Some(&rev(B)), Some(&rev(A)), true, &stored(&[A, B]));
        assert_eq!(plan.serving, Some(rev(B)));
        assert_eq!(plan.retiring, [rev(A)]);
    }

    #[test]
    fn a_refused_spec_leaves_the_last_good_revision_serving() {
        let plan = decide(None, Some(&rev(A)), false, &stored(&[A]));
        assert_eq!(plan.serving, Some(rev(A)));
    }

    #[test]
    fn a_revision_that_was_skipped_retires_without_ever_having_served() {
        let plan = decide(Some(&rev(C)), Some(&rev(A)), false, &stored(&[A, B, C]));
        assert_eq!((plan.serving, plan.retiring), (Some(rev(A)), vec![rev(B)]));
    }

    #[test]
    fn a_revision_nobody_knows_any_more_cannot_serve() {
        let plan = decide(Some(&rev(B)), Some(&rev(A)), false, &stored(&[B]));
        assert_eq!(plan.serving, None);
    }

    #[test]
    fn history_keeps_the_newest_and_whatever_lives() {
        let hashes: Vec<String> = (0..14).map(|i| format!("{i:08x}")).collect();
        let all = stored(&hashes.iter().map(String::as_str).collect::<Vec<_>>());
        // The oldest serves still, the newest loads.
        let plan = decide(Some(&rev(&hashes[13])), Some(&rev(&hashes[0])), false, &all);
        let forgotten: Vec<_> = [4, 3, 2, 1].map(|i| rev(&hashes[i])).into();
        assert_eq!(plan.forgotten, forgotten);
    }

    #[test]
    fn a_load_is_repeated_with_backoff_until_a_report_comes() {
        let (mut load, start) = (Load::default(), Instant::now());
        assert_eq!(load.ask(start), Ask::Now(ASK_MIN));
        load.asked(start);
        assert_eq!(load.ask(start), Ask::In(ASK_MIN));
        let second = start + ASK_MIN;
        assert_eq!(load.ask(second), Ask::Now(ASK_MIN * 2));
        load.asked(second);
        assert_eq!(load.ask(second), Ask::In(ASK_MIN * 2));
        for _ in 0..20 {
            load.asked(second);
        }
        assert_eq!(load.ask(second), Ask::In(ASK_MAX));
        load.report(Verdict::Loaded);
        assert_eq!(load.ask(second + ASK_MAX), Ask::Never);
    }

    #[test]
    fn a_failed_load_waits_out_its_backoff_and_is_tried_again() {
        let (mut load, start) = (Load::default(), Instant::now());
        load.asked(start);
        load.report(Verdict::Failed("ImportError".to_owned()));
        assert_eq!(load.ask(start + ASK_MAX), Ask::In(RETRY_FAILED - ASK_MAX));
        assert!(matches!(load.ask(start + RETRY_FAILED), Ask::Now(_)));
    }

    #[test]
    fn a_queue_is_deleted_only_after_ten_quiet_seconds() {
        let start = Instant::now();
        let empty = Some(QueueState { ready: 0, consumers: 1 });
        let busy = Some(QueueState { ready: 2, consumers: 1 });
        let first = retire(None, empty, start);
        assert_eq!(first, Retire::Look(Retirement::Watching(Some(start)), LOOK_INTERVAL));
        let half = start + QUIET / 2;
        assert_eq!(retire(Some(start), busy, half), Retire::Look(Retirement::Watching(None), LOOK_INTERVAL));
        assert_eq!(retire(Some(start), empty, start + QUIET), Retire::DeleteQueue);
        assert_eq!(retire(None, None, start), Retire::Finish);
    }
}
