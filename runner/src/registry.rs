//! Which revisions this runner hosts, which it could not, and so what a wake comes to. Reads no clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use funcatron_broker::message::WakeKind;
use funcatron_broker::names::QueueName;
use funcatron_crds::RevisionName;
use tokio::sync::watch;

use crate::instance::{Phase, Phases};
use crate::session::News;
use funcatron_broker::backoff::Backoff;

/// Revisions hosted at once: each is a process of some ten megabytes at least.
pub(crate) const HOSTED_MAX: usize = 256;
/// Failures remembered. Of more, the one whose wait ends first is forgotten: it was about to be tried again.
const FAILURES_MAX: usize = 1_000;
/// A load that failed is not tried again before this, then twice it …
const FAILED_FIRST: Duration = Duration::from_secs(1);
/// … and a missing key is seen a minute after it was made, at the latest.
const FAILED_LONGEST: Duration = Duration::from_secs(60);

/// What a wake comes to.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing: it is on its way, or serves already.
    Drop,
    /// To say again what was said.
    Repeat(News),
    /// It serves: to say so again.
    Loaded,
    /// To host it. The durable queue may become known, or change, later.
    Host(watch::Receiver<Option<QueueName>>),
}

#[derive(Debug)]
struct Hosted {
    durable: watch::Sender<Option<QueueName>>,
    phases: Option<Phases>,
}

#[derive(Debug)]
struct Failure {
    news: News,
    backoff: Backoff,
    until: Instant,
}

/// Which revisions this runner hosts, and which it could not.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    hosted: HashMap<RevisionName, Hosted>,
    failures: HashMap<RevisionName, Failure>,
}

impl Registry {
    /// Decides what a wake comes to, and takes the place of a revision that is to be hosted.
    pub(crate) fn decide(
        &mut self,
        revision: &RevisionName,
        kind: WakeKind,
        durable: Option<QueueName>,
        now: Instant,
    ) -> Decision {
        if let Some(hosted) = self.hosted.get(revision) {
            hosted.learn(durable);
            let up = hosted.phases.as_ref().is_some_and(|phases| matches!(&*phases.borrow(), Phase::Up(_)));
            return if up && kind == WakeKind::Load { Decision::Loaded } else { Decision::Drop };
        }
        if let Some(failure) = self.failures.get(revision).filter(|failure| now < failure.until) {
            return match kind {
                WakeKind::Load => Decision::Repeat(failure.news.clone()),
                WakeKind::Call => Decision::Drop,
            };
        }
        if self.hosted.len() >= HOSTED_MAX {
            return Decision::Drop;
        }
        let (durable, known) = watch::channel(durable);
        self.hosted.insert(revision.clone(), Hosted { durable, phases: None });
        Decision::Host(known)
    }

    /// The revision is being brought up.
    pub(crate) fn loading(&mut self, revision: &RevisionName, phases: Phases) {
        if let Some(hosted) = self.hosted.get_mut(revision) {
            hosted.phases = Some(phases);
        }
    }

    /// The revision came up: what failed before says nothing any more.
    pub(crate) fn came_up(&mut self, revision: &RevisionName) {
        self.failures.remove(revision);
    }

    /// The revision could not be brought up; a wake for it waits. `jitter` in 0..1.
    pub(crate) fn failed(&mut self, revision: &RevisionName, news: News, now: Instant, jitter: f64) {
        let known = self.failures.remove(revision).map(|failure| failure.backoff);
        let mut backoff = known.unwrap_or_else(|| Backoff::new(FAILED_FIRST, FAILED_LONGEST));
        let until = now + backoff.after_failure(jitter);
        if self.failures.len() >= FAILURES_MAX {
            let first =
                self.failures.iter().min_by_key(|(_, failure)| failure.until).map(|(name, _)| name.clone());
            first.and_then(|name| self.failures.remove(&name));
        }
        self.failures.insert(revision.clone(), Failure { news, backoff, until });
    }

    /// The revision is hosted no more.
    pub(crate) fn gone(&mut self, revision: &RevisionName) {
        self.hosted.remove(revision);
    }
}

impl Hosted {
    fn learn(&self, durable: Option<QueueName>) {
        let Some(queue) = durable else { return };
        self.durable.send_if_modified(|known| {
            let new = known.as_ref() != Some(&queue);
            *known = Some(queue);
            new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::message::ReportEvent;

    fn revision(number: usize) -> RevisionName {
        RevisionName::parse(&format!("f{number}-12345678")).unwrap()
    }

    fn news() -> News {
        News { event: ReportEvent::Failed, reason: Some("no".into()), log: None }
    }

    #[test]
    fn many_wakes_of_one_revision_are_one_load() {
        let mut registry = Registry::default();
        let now = Instant::now();
        assert!(matches!(registry.decide(&revision(1), WakeKind::Call, None, now), Decision::Host(_)));
        for kind in [WakeKind::Call, WakeKind::Load, WakeKind::Call] {
            assert!(matches!(registry.decide(&revision(1), kind, None, now), Decision::Drop));
        }
        registry.gone(&revision(1));
        assert!(matches!(registry.decide(&revision(1), WakeKind::Call, None, now), Decision::Host(_)));
    }

    #[test]
    fn a_load_that_failed_waits_and_its_news_are_repeated() {
        let mut registry = Registry::default();
        let now = Instant::now();
        registry.failed(&revision(1), news(), now, 1.0);
        let soon = now + FAILED_FIRST / 2;
        assert!(matches!(registry.decide(&revision(1), WakeKind::Call, None, soon), Decision::Drop));
        let Decision::Repeat(repeated) = registry.decide(&revision(1), WakeKind::Load, None, soon) else {
            panic!("not repeated");
        };
        assert_eq!(repeated, news());
        let later = now + FAILED_FIRST;
        assert!(matches!(registry.decide(&revision(1), WakeKind::Load, None, later), Decision::Host(_)));
    }

    #[test]
    fn each_failure_waits_longer_until_it_comes_up() {
        let mut registry = Registry::default();
        let now = Instant::now();
        registry.failed(&revision(1), news(), now, 1.0);
        registry.failed(&revision(1), news(), now, 1.0);
        let after = now + FAILED_FIRST + Duration::from_millis(1);
        assert!(matches!(registry.decide(&revision(1), WakeKind::Call, None, after), Decision::Drop));
        registry.came_up(&revision(1));
        assert!(matches!(registry.decide(&revision(1), WakeKind::Call, None, after), Decision::Host(_)));
    }

    #[test]
    fn a_durable_queue_may_become_known_later() {
        let mut registry = Registry::default();
        let now = Instant::now();
        let Decision::Host(known) = registry.decide(&revision(1), WakeKind::Call, None, now) else {
            panic!("not hosted");
        };
        assert_eq!(*known.borrow(), None);
        let queue = QueueName::parse("i.ns.app.fn.f1").unwrap();
        registry.decide(&revision(1), WakeKind::Load, Some(queue.clone()), now);
        assert_eq!(*known.borrow(), Some(queue.clone()));
        registry.decide(&revision(1), WakeKind::Call, None, now);
        assert_eq!(*known.borrow(), Some(queue), "a call's wake need not name it");
    }

    #[test]
    fn hosting_and_memory_of_failures_are_bounded() {
        let mut registry = Registry::default();
        let now = Instant::now();
        for number in 0..HOSTED_MAX {
            assert!(matches!(
                registry.decide(&revision(number), WakeKind::Call, None, now),
                Decision::Host(_)
            ));
        }
        assert!(matches!(registry.decide(&revision(HOSTED_MAX), WakeKind::Load, None, now), Decision::Drop));
        for number in 0..FAILURES_MAX * 2 {
            registry.failed(&revision(number), news(), now, 0.5);
        }
        assert_eq!(registry.failures.len(), FAILURES_MAX);
    }
}
