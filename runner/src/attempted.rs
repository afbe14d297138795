//! What an attempt comes to, for its call and for the process that it ran in. Replies to nobody and settles nothing.

use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{CallId, Outcome};
use http::HeaderMap;

use crate::http_stream::answer::Answer;
use crate::http_stream::client::{ExchangeError, Exchanged};
use crate::instance::{Breakage, Death, Exchange, Instance};
use crate::keeper::EXIT_WAIT;
use crate::log;
use crate::spilled::Fetching;

/// A function's library that keeps the deadline itself answers 504 right at it, and its process need not die.
pub(crate) const KILL_GRACE: Duration = Duration::from_millis(100);

/// What is said of an upgrade that nobody asked for.
pub(crate) const UNASKED: &str = "it switched protocols unasked";

/// What an attempt came to.
pub(crate) struct Attempted {
    pub(crate) outcome: Outcome,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the function wrote, where that was asked for.
    pub(crate) log: Option<String>,
}

impl Attempted {
    /// Anything but an answer.
    pub(crate) fn not(outcome: Outcome, words: impl Into<Bytes>) -> Self {
        Self { outcome, headers: HeaderMap::new(), body: words.into(), log: None }
    }

    /// The function's process ended under it. What ends with its host is no fault of the function's: where the call
    /// may run again, it is as if its runner had been lost.
    pub(crate) fn died(death: Death) -> Self {
        match death {
            Death::Own => Self::not(Outcome::Failed, "the function's process ended"),
            Death::WithHost => Self::not(Outcome::RunnerLost, "the function's host was lost"),
        }
    }
}

/// Waits for the answer, the function's end or the time's, while its request may still be `fetching`. The log of a call that is `logged` comes with the answer, or
/// from the host where the function's process ends without one.
pub(crate) async fn attempt(
    instance: &Instance,
    exchange: Exchange,
    limit: Duration,
    logged: Option<CallId>,
    fetching: Option<&Fetching>,
) -> Attempted {
    let mut attempted = wait(instance, exchange, limit, fetching).await;
    match logged {
        None => attempted.log = None,
        Some(id) if attempted.log.is_none() && !instance.takes_calls() => {
            attempted.log = instance.last_words(id).await;
        }
        Some(_) => {}
    }
    attempted
}

async fn wait(
    instance: &Instance,
    mut exchange: Exchange,
    limit: Duration,
    fetching: Option<&Fetching>,
) -> Attempted {
    let answer = tokio::select! {
        biased;
        answer = &mut exchange => answer,
        death = instance.died() => return Attempted::died(death),
        () = tokio::time::sleep(limit + KILL_GRACE) => {
            // A function that still waits for its request has nothing to answer for.
            if fetching.is_none_or(|fetching| !fetching.is_waiting()) {
                instance.overran(exchange);
            }
            return Attempted::not(Outcome::TimedOut, "the function did not answer in time");
        }
    };
    match answer {
        Ok(Exchanged::Whole(response)) => {
            let log = log::read(response.headers());
            Attempted { log, ..judge(instance, Ok(instance.contract().read(response))).await }
        }
        Ok(Exchanged::Switched(_)) => judge(instance, Ok(Answer::Nonsense(UNASKED))).await,
        // Nobody offered a stream for it.
        Ok(Exchanged::Coming(_)) => judge(instance, Err(ExchangeError::TooLarge)).await,
        Err(error) => match fetching.and_then(Fetching::wrong) {
            // What was to be sent broke off: the function had nothing to answer.
            Some(wrong) => Attempted::not(Outcome::Failed, wrong.to_string()),
            None => judge(instance, Err(error)).await,
        },
    }
}

/// What an answer comes to, for its call and for the process that gave it.
pub(crate) async fn judge(instance: &Instance, answer: Result<Answer, ExchangeError>) -> Attempted {
    match answer {
        Ok(Answer::Answered { status, headers, body }) => {
            Attempted { outcome: Outcome::Answer(status), headers, body, log: None }
        }
        Ok(Answer::Failed) => Attempted::not(Outcome::Failed, "the function failed"),
        Ok(Answer::TimedOut) => Attempted::not(Outcome::TimedOut, "the function ran out of time"),
        Ok(Answer::Nonsense(why)) => {
            instance.talked_nonsense(why);
            Attempted::not(Outcome::Failed, "the function's answer makes no sense")
        }
        Err(error @ ExchangeError::TooLarge) => Attempted::not(Outcome::Failed, error.to_string()),
        Err(error @ ExchangeError::Broken(_)) => {
            let words = error.to_string();
            instance.condemn(Breakage::Broken(words.clone()));
            // Connections break a moment before it is known whether the process ended alone.
            match tokio::time::timeout(EXIT_WAIT * 2, instance.died()).await {
                Ok(Death::WithHost) => Attempted::died(Death::WithHost),
                Ok(Death::Own) | Err(_) => Attempted::not(Outcome::Failed, words),
            }
        }
    }
}
