//! Whose word counts: pure, on one message.
//!
//! What came through the default exchange is the platform's own, since no App's user may write to that. What came through
//! the reply exchange is a runner's, which tenants' code may have taken over: it speaks of its own App alone, as the
//! broker has checked, and only of what runners do.

use funcatron_broker::envelope::Envelope;
use funcatron_broker::message::{CallEvent, Claim, DecodeError, Happened, LedgerMessage};
use funcatron_broker::names::{AppNames, AppObject, Installation, Meaning};

use crate::store::Entry;

/// Why a message is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Dropped {
    /// It is no message of ours, or names what cannot be.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its sender is not the App's that it names.
    #[error("its sender is not its App's user")]
    Forged,
    /// A runner says what only the platform may.
    #[error("a runner has no say in that")]
    NotARunners,
    /// The answer would go to a queue that is not a runner's of that App.
    #[error("its answer would go elsewhere than to a runner of its App")]
    Elsewhere,
}

impl Dropped {
    /// As it is counted.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::Forged => "forged",
            Self::NotARunners => "not_a_runners",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl From<DecodeError> for Dropped {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Reads a message and says whether it counts. Times that are still to come are now: no clock of another decides
/// how long a call is kept.
pub(crate) fn judge(
    installation: &Installation,
    exchange: &str,
    envelope: &Envelope,
    now_ms: u64,
) -> Result<Entry, Dropped> {
    let is_platforms = exchange.is_empty();
    match LedgerMessage::from_envelope(envelope)? {
        LedgerMessage::Call(mut event) => {
            let names = names(installation, &event.namespace, &event.app, Some(&event.fn_name))?;
            check_sender(is_platforms, event.user_id.as_deref(), &names)?;
            if !is_platforms && !is_a_runners(&event) {
                return Err(Dropped::NotARunners);
            }
            event.at_ms = event.at_ms.min(now_ms);
            Ok(Entry::Call(event))
        }
        LedgerMessage::App(mut event) => {
            names(installation, &event.namespace, &event.app, None)?;
            check_platforms(is_platforms)?;
            event.at_ms = event.at_ms.min(now_ms);
            Ok(Entry::App(event))
        }
        LedgerMessage::Fn(mut event) => {
            names(installation, &event.namespace, &event.app, Some(&event.fn_name))?;
            check_platforms(is_platforms)?;
            event.at_ms = event.at_ms.min(now_ms);
            Ok(Entry::Fn(event))
        }
        LedgerMessage::Claim(claim) => {
            let names = names(installation, &claim.namespace, &claim.app, Some(&claim.fn_name))?;
            check_sender(is_platforms, claim.user_id.as_deref(), &names)?;
            check_return(installation, &claim)?;
            Ok(Entry::Claim(claim, now_ms))
        }
    }
}

fn names(
    installation: &Installation,
    namespace: &str,
    app: &str,
    fn_name: Option<&str>,
) -> Result<AppNames, Dropped> {
    let names = AppNames::new(installation, namespace, app);
    let names = names.map_err(|error| Dropped::Unreadable(error.to_string()))?;
    match fn_name.map(|fn_name| names.durable_queue(fn_name)).transpose() {
        Ok(_) => Ok(names),
        Err(error) => Err(Dropped::Unreadable(error.to_string())),
    }
}

fn check_sender(is_platforms: bool, user_id: Option<&str>, names: &AppNames) -> Result<(), Dropped> {
    if is_platforms || user_id == Some(names.user()) { Ok(()) } else { Err(Dropped::Forged) }
}

fn check_platforms(is_platforms: bool) -> Result<(), Dropped> {
    if is_platforms { Ok(()) } else { Err(Dropped::NotARunners) }
}

fn is_a_runners(event: &CallEvent) -> bool {
    match event.happened {
        Happened::Started { .. } | Happened::Ended { .. } | Happened::Dead { .. } => true,
        Happened::Queued { .. } | Happened::Cancelled => false,
    }
}

/// The ledger may write to every queue: a claim must not make it write to another's.
fn check_return(installation: &Installation, claim: &Claim) -> Result<(), Dropped> {
    let to_its_runner =
        Meaning::App { namespace: claim.namespace.clone(), app: claim.app.clone(), kind: AppObject::Runner };
    if Meaning::of(installation, &claim.reply_to) == Some(to_its_runner) {
        return Ok(());
    }
    Err(Dropped::Elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::message::{AppEvent, CallId, CallbackTarget, Ended, FnEvent, Record, Source};

    const NOW_MS: u64 = 1_000;
    const REPLIES: &str = "i.replies";
    const SHOP: Option<&str> = Some("i.team-a.shop");

    fn installation() -> Installation {
        Installation::parse("i").unwrap()
    }

    fn event(user_id: Option<&str>, happened: Happened) -> CallEvent {
        CallEvent {
            user_id: user_id.map(str::to_owned),
            id: CallId::fresh(),
            namespace: "team-a".into(),
            app: "shop".into(),
            fn_name: "mail".into(),
            at_ms: 7,
            happened,
        }
    }

    fn started() -> Happened {
        Happened::Started { attempt: 1, revision: "mail-1".into(), runner: "x".into() }
    }

    fn queued() -> Happened {
        Happened::Queued { source: Source::Http, request: None, retry_of: None }
    }

    fn judged(exchange: &str, event: CallEvent) -> Result<Entry, Dropped> {
        judge(&installation(), exchange, &event.into_envelope().unwrap(), NOW_MS)
    }

    #[test]
    fn what_came_through_the_default_exchange_is_the_platforms() {
        for happened in [queued(), started(), Happened::Cancelled, Happened::Dead { reason: "x".into() }] {
            let event = event(None, happened);
            assert_eq!(judged("", event.clone()), Ok(Entry::Call(event)));
        }
    }

    #[test]
    fn a_runner_speaks_of_its_own_app_alone() {
        assert!(judged(REPLIES, event(SHOP, started())).is_ok());
        for user in [None, Some("i.team-a.shop-b"), Some("i.team-b.shop"), Some("funcatron")] {
            assert_eq!(judged(REPLIES, event(user, started())), Err(Dropped::Forged), "{user:?}");
        }
    }

    #[test]
    fn a_runner_speaks_only_of_what_runners_do() {
        let ended = Happened::Ended {
            attempt: 1,
            revision: "mail-1".into(),
            runner: "x".into(),
            outcome: Ended::Success,
            is_final: true,
            reason: None,
            answer: None,
            log: None,
        };
        for happened in [ended, Happened::Dead { reason: "x".into() }] {
            assert!(judged(REPLIES, event(SHOP, happened)).is_ok());
        }
        for happened in [queued(), Happened::Cancelled] {
            assert_eq!(judged(REPLIES, event(SHOP, happened)), Err(Dropped::NotARunners));
        }
        let app = AppEvent {
            user_id: SHOP.map(str::to_owned),
            namespace: "team-a".into(),
            app: "shop".into(),
            at_ms: 1,
            retention_ms: None,
            record: Record::Async,
            deleted: true,
        };
        let function = FnEvent {
            user_id: SHOP.map(str::to_owned),
            namespace: "team-a".into(),
            app: "shop".into(),
            fn_name: "mail".into(),
            at_ms: 1,
            url: String::new(),
            timeout_ms: 1,
            attempts_max: None,
            age_max_ms: None,
            on_success: Some(CallbackTarget::Url("http://169.254.169.254/".into())),
            on_failure: None,
            deleted: false,
        };
        for envelope in [app.into_envelope().unwrap(), function.into_envelope().unwrap()] {
            assert_eq!(judge(&installation(), REPLIES, &envelope, NOW_MS), Err(Dropped::NotARunners));
            assert!(judge(&installation(), "", &envelope, NOW_MS).is_ok());
        }
    }

    #[test]
    fn names_that_cannot_be_are_unreadable() {
        let odd = [
            CallEvent { namespace: "team.a".into(), ..event(None, started()) },
            CallEvent { app: String::new(), ..event(None, started()) },
            CallEvent { fn_name: "Mail".into(), ..event(None, started()) },
        ];
        for event in odd {
            assert!(matches!(judged("", event), Err(Dropped::Unreadable(_))));
        }
    }

    #[test]
    fn a_time_to_come_is_now() {
        let event = CallEvent { at_ms: u64::MAX, ..event(None, started()) };
        let Ok(Entry::Call(event)) = judged("", event) else { panic!("an event") };
        assert_eq!(event.at_ms, NOW_MS);
    }

    #[test]
    fn a_claim_is_answered_to_a_runner_of_its_app_alone() {
        let claim = |reply_to: &str, user: Option<&str>| {
            let claim = Claim {
                user_id: user.map(str::to_owned),
                id: CallId::fresh(),
                reply_to: reply_to.into(),
                namespace: "team-a".into(),
                app: "shop".into(),
                fn_name: "mail".into(),
                attempt: 1,
                claimant: "n".into(),
            };
            judge(&installation(), REPLIES, &claim.into_envelope().unwrap(), NOW_MS)
        };
        assert!(claim("i.team-a.shop.r.x7", SHOP).is_ok());
        assert_eq!(claim("i.team-a.shop.r.x7", None), Err(Dropped::Forged));
        for queue in ["i.ledger", "i.team-b.shop.r.x7", "i.team-a.shop.fn.mail", "i.gw.x", "other"] {
            assert_eq!(claim(queue, SHOP), Err(Dropped::Elsewhere), "{queue}");
        }
    }
}
