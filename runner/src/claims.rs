//! Asks the ledger whether a publication's attempt is to be run, before it begins and without a slot.
//!
//! Owns the questions of one session that wait for a word: at most one of each durable queue that is consumed, since
//! such a queue hands out one delivery at a time. Never decides who may run: that is the ledger's.

use std::collections::HashMap;
use std::time::Duration;

use funcatron_broker::link::{Confirm, Target};
use funcatron_broker::message::{ATTEMPTS_MAX, CallId, Claim, Claimed, Verdict};
use funcatron_broker::names::LEDGER_KEY;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::call::{Caller, Job};
use crate::durable::Attempt;
use crate::session::Session;
use crate::settler::LastWord;
use funcatron_broker::backoff::Backoff;

/// A ledger with its database answers within milliseconds; a word that takes longer may have been lost …
const AGAIN_FIRST: Duration = Duration::from_secs(1);
/// … but while it is away each question waits in its queue, which must not fill with them.
const AGAIN_LONGEST: Duration = Duration::from_secs(60);

/// A call, and the publication of it that asks.
type Question = (CallId, String);

/// What waits for a word: several only where one publication was delivered several times.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<HashMap<Question, Vec<oneshot::Sender<Verdict>>>>);

/// A question that waits, until it is dropped.
struct Waiting<'a> {
    claims: &'a Claims,
    question: Question,
    word: oneshot::Receiver<Verdict>,
}

impl Claims {
    /// Hands a word to whoever waits for it. One that was asked for twice comes twice.
    pub(crate) fn hear(&self, word: Claimed) {
        let Claimed { id, attempt: _, claimant, verdict } = word;
        for asker in self.0.lock().remove(&(id, claimant)).into_iter().flatten() {
            // Whoever has stopped waiting settles nothing by it.
            let _ = asker.send(verdict);
        }
    }

    fn wait(&self, id: CallId, claimant: &str) -> Waiting<'_> {
        let (asker, word) = oneshot::channel();
        let question = (id, claimant.to_owned());
        self.0.lock().entry(question.clone()).or_default().push(asker);
        Waiting { claims: self, question, word }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.word.close();
        let mut waiting = self.claims.0.lock();
        if let Some(askers) = waiting.get_mut(&self.question) {
            askers.retain(|asker| !asker.is_closed());
            if askers.is_empty() {
                waiting.remove(&self.question);
            }
        }
    }
}

impl Caller {
    /// Comes back with a delivery of which nobody needs to be asked any more: it may wait for a slot.
    pub(crate) async fn clear(&self, job: Job, no_more: CancellationToken) -> Option<Job> {
        let job = self.claim(job, no_more.clone()).await?;
        self.until_body(job, no_more).await
    }

    /// Comes back with a delivery that is to be run; any other is settled, or goes back with its session. Once no
    /// question is to wait any more, it is given back.
    async fn claim(&self, job: Job, no_more: CancellationToken) -> Option<Job> {
        let Some((attempt, claimant, session)) = job.to_claim() else { return Some(job) };
        let verdict = tokio::select! {
            biased;
            () = session.over() => return None,
            () = no_more.cancelled() => None,
            verdict = self.ask(attempt, claimant, session) => Some(verdict),
        };
        if verdict == Some(Verdict::Duplicate) {
            info!(call = %attempt.id, attempt = attempt.number, "not run: it has ended, or another publication is the call");
        }
        let last_word = match verdict {
            Some(Verdict::Run) => return Some(job),
            Some(Verdict::Duplicate) => LastWord::Ack,
            Some(Verdict::Dead) => LastWord::DeadLetter,
            None => LastWord::GiveBack,
        };
        self.settle(job.silently(last_word)).await;
        None
    }

    /// Asks until there is a word, however long the ledger is away. Without one in this installation, nobody minds.
    async fn ask(&self, attempt: &Attempt, claimant: &str, session: &Session) -> Verdict {
        let mut waiting = session.claims.wait(attempt.id, claimant);
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_LONGEST);
        loop {
            if self.publish_claim(attempt, claimant, session).await == Asked::NoLedger {
                return Verdict::Run;
            }
            let again = tokio::time::timeout(backoff.after_failure(rand::random()), &mut waiting.word);
            // The other side of the channel lives as long as this question waits.
            if let Ok(Ok(verdict)) = again.await {
                return verdict;
            }
        }
    }

    async fn publish_claim(&self, attempt: &Attempt, claimant: &str, session: &Session) -> Asked {
        let claim = Claim {
            user_id: Some(self.identity.names.user().to_owned()),
            id: attempt.id,
            reply_to: session.queue.to_string(),
            namespace: self.identity.namespace.clone(),
            app: self.identity.app.clone(),
            fn_name: attempt.fn_name.clone(),
            // One delivery beyond what the queue allows may still come; it is not begun either.
            attempt: attempt.number.min(ATTEMPTS_MAX),
            claimant: claimant.to_owned(),
        };
        let envelope = match claim.into_envelope() {
            Ok(envelope) => envelope,
            Err(error) => {
                warn!(%error, call = %attempt.id, "a claim cannot be sent");
                return Asked::Maybe;
            }
        };
        let to = Target::exchange(&self.identity.replies, LEDGER_KEY);
        match session.link.publish_confirmed(to, envelope, true).await {
            Ok(Confirm::Acked) => {}
            Ok(Confirm::Returned) => return Asked::NoLedger,
            Ok(Confirm::Nacked) => warn!(call = %attempt.id, "the ledger's queue is full; asking on"),
            Err(error) => warn!(%error, call = %attempt.id, "the ledger's queue takes no claim; asking on"),
        }
        Asked::Maybe
    }
}

/// What is known once a claim is out.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// A word may come.
    Maybe,
    /// None will: nothing takes claims here.
    NoLedger,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(id: CallId, claimant: &str, verdict: Verdict) -> Claimed {
        Claimed { id, attempt: 1, claimant: claimant.to_owned(), verdict }
    }

    #[test]
    fn a_word_reaches_the_publication_that_it_is_about() {
        let (claims, id) = (Claims::default(), CallId::fresh());
        let (mut first, mut second) = (claims.wait(id, "a"), claims.wait(id, "b"));
        claims.hear(word(id, "b", Verdict::Duplicate));
        claims.hear(word(CallId::fresh(), "a", Verdict::Duplicate));
        assert!(first.word.try_recv().is_err());
        assert_eq!(second.word.try_recv(), Ok(Verdict::Duplicate));
        claims.hear(word(id, "a", Verdict::Run));
        assert_eq!(first.word.try_recv(), Ok(Verdict::Run));
    }

    #[test]
    fn a_word_is_for_all_who_asked_for_it() {
        let (claims, id) = (Claims::default(), CallId::fresh());
        let (mut first, mut second) = (claims.wait(id, "a"), claims.wait(id, "a"));
        claims.hear(word(id, "a", Verdict::Run));
        assert_eq!((first.word.try_recv(), second.word.try_recv()), (Ok(Verdict::Run), Ok(Verdict::Run)));
    }

    #[test]
    fn a_question_that_waits_no_more_leaves_nothing_behind() {
        let (claims, id) = (Claims::default(), CallId::fresh());
        let (one, other) = (claims.wait(id, "a"), claims.wait(id, "a"));
        drop(one);
        assert_eq!(claims.0.lock().len(), 1);
        drop(other);
        assert!(claims.0.lock().is_empty());
        let waiting = claims.wait(id, "a");
        claims.hear(word(id, "a", Verdict::Run));
        claims.hear(word(id, "a", Verdict::Run));
        drop(waiting);
        assert!(claims.0.lock().is_empty());
    }
}
