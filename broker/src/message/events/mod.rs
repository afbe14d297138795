//! What the ledger is told: the events of a call, what an App wants kept, and claims.
//!
//! JSON, read leniently: a newer sender may add members. Bounded and redacted on both sides, since runners of tenants
//! send some of them. Never trusts a sender: `user_id` is the broker's word, and judging it is the ledger's.

mod claims;
mod fns;
mod recorded;

use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::message::notes::{json, read_json};
use crate::message::{CallId, DecodeError, EVENT_BYTES_MAX, EncodeError, JSON_BYTES_MAX, fields};
use crate::names::NAME_BYTES_MAX;
use crate::topology::DELIVERY_LIMIT;

pub(super) use claims::check_claimant;
pub use claims::{Claim, Claimed, Verdict, fresh_claimant};
pub use fns::{CallbackTarget, FnEvent};
pub use recorded::{BODY_BYTES_KEPT, RecordedAnswer, RecordedBody, RecordedRequest, is_redacted, redact};

/// AMQP's `type` of an event of a call …
const CALL_EVENT: &str = "call-event";
/// … and of an App's word.
const APP_EVENT: &str = "app-event";
/// A log's end: a stack trace and what led to it.
pub const LOG_BYTES_KEPT: usize = 16 * 1024;
/// No durable queue delivers a message more often; each attempt may leave a log.
pub const ATTEMPTS_MAX: u32 = DELIVERY_LIMIT;
/// A reason is a sentence.
const REASON_BYTES_KEPT: usize = 1024;

/// Something that happened to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEvent {
    /// The broker user that sent it, which the broker has checked; absent, nothing was checked.
    pub user_id: Option<String>,
    /// The call.
    pub id: CallId,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// The Fn.
    pub fn_name: String,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What.
    pub happened: Happened,
}

/// What happened to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Happened {
    /// It was accepted.
    Queued {
        /// Where it came from.
        source: Source,
        /// What was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Box<RecordedRequest>>,
        /// The call that this one repeats.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_id")]
        retry_of: Option<CallId>,
    },
    /// A runner has begun an attempt.
    Started {
        /// From 1.
        attempt: u32,
        /// The revision that runs it.
        revision: String,
        /// The runner's pod.
        runner: String,
    },
    /// A runner is done with an attempt.
    Ended {
        /// From 1.
        attempt: u32,
        /// The revision that ran it.
        revision: String,
        /// The runner's pod.
        runner: String,
        /// How it went.
        outcome: Ended,
        /// Whether no further attempt follows.
        #[serde(rename = "final")]
        is_final: bool,
        /// Why, in a sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// The function's answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Box<RecordedAnswer>>,
        /// The end of what the function wrote meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<String>,
    },
    /// It was given up on, and is among the dead letters.
    Dead {
        /// Why, in a sentence.
        reason: String,
    },
    /// It was taken back before it began.
    Cancelled,
}

/// Where a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the word that stands on the wire")]
pub enum Source {
    Http,
    Invoke,
    Schedule,
    Retry,
    Event,
    Callback,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// The function answered, and well.
    Success,
    /// It failed, died, or answered with a failure.
    Error,
    /// It was not done in time.
    Timeout,
    /// It was not begun, since nobody wanted it any more.
    Cancelled,
    /// It was not begun, since another had it.
    Duplicate,
}

/// What an App wants kept, from the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppEvent {
    /// The broker user that sent it; the operator sends to the queue itself and sets none.
    #[serde(skip)]
    pub user_id: Option<String>,
    /// The App's namespace.
    pub namespace: String,
    /// The App.
    pub app: String,
    /// When, in Unix milliseconds: an older word does not replace a newer one.
    #[serde(rename = "at")]
    pub at_ms: u64,
    /// How long calls are kept after their end, in milliseconds; the ledger's default where absent.
    #[serde(rename = "retention", default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<u64>,
    /// Which calls are kept.
    #[serde(default)]
    pub record: Record,
    /// The App is gone.
    #[serde(default)]
    pub deleted: bool,
}

/// Which of an App's calls are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Those that nobody waits for.
    #[default]
    Async,
    /// Those too for which somebody waits.
    All,
}

/// Whatever the ledger's queue may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerMessage {
    /// Something happened to a call.
    Call(CallEvent),
    /// An App's word.
    App(AppEvent),
    /// A Fn's word.
    Fn(FnEvent),
    /// A runner asks.
    Claim(Claim),
}

#[derive(Serialize, Deserialize)]
struct CallEventBody {
    namespace: String,
    app: String,
    #[serde(rename = "fn")]
    fn_name: String,
    at: u64,
    #[serde(flatten)]
    happened: Happened,
}

impl CallEvent {
    /// Makes it ready to be sent: by a gateway or the operator into the ledger's queue, by a runner to the reply
    /// exchange with `LEDGER_KEY`. What is too long is cut, and credentials are redacted.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let Self { user_id, id, namespace, app, fn_name, at_ms, happened } = self;
        let body = CallEventBody { namespace, app, fn_name, at: at_ms, happened: happened.bounded() };
        let mut envelope = json(CALL_EVENT, &body, EVENT_BYTES_MAX)?;
        envelope.properties.message_id = Some(id.to_string());
        envelope.properties.user_id = user_id;
        envelope.properties.persistent = true;
        fields::sendable(envelope)
    }

    /// Reads an event; what is too long is cut, and credentials are redacted.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let body = read_json(CALL_EVENT, envelope, EVENT_BYTES_MAX)?;
        let CallEventBody { namespace, app, fn_name, at, happened } = body;
        if let Happened::Started { attempt, revision, runner }
        | Happened::Ended { attempt, revision, runner, .. } = &happened
        {
            check_attempt(*attempt)?;
            check_runner(revision, runner)?;
        }
        if let Happened::Ended { answer: Some(answer), .. } = &happened
            && http::StatusCode::from_u16(answer.status).is_err()
        {
            return Err(fields::invalid("status", "not an HTTP status"));
        }
        Ok(Self {
            user_id: envelope.properties.user_id.clone(),
            id: fields::call_id("message-id", envelope.properties.message_id.as_deref())?,
            namespace,
            app,
            fn_name,
            at_ms: at,
            happened: happened.bounded(),
        })
    }
}

fn check_attempt(attempt: u32) -> Result<(), DecodeError> {
    if (1..=ATTEMPTS_MAX).contains(&attempt) {
        return Ok(());
    }
    Err(fields::invalid("attempt", format!("attempts count from 1 to {ATTEMPTS_MAX}")))
}

fn check_runner(revision: &str, runner: &str) -> Result<(), DecodeError> {
    for (name, value) in [("revision", revision), ("runner", runner)] {
        if value.len() > NAME_BYTES_MAX {
            return Err(fields::invalid(name, "longer than 255 bytes"));
        }
    }
    Ok(())
}

impl Happened {
    fn bounded(self) -> Self {
        match self {
            Self::Queued { source, request, retry_of } => {
                let request = request.map(|request| Box::new(request.bounded()));
                Self::Queued { source, request, retry_of }
            }
            Self::Ended { attempt, revision, runner, outcome, is_final, reason, answer, log } => {
                Self::Ended {
                    attempt,
                    revision,
                    runner,
                    outcome,
                    is_final,
                    reason: reason.map(|text| fields::tail(text, REASON_BYTES_KEPT)),
                    answer: answer.map(|answer| Box::new(answer.bounded())),
                    log: log.map(|text| fields::tail(text, LOG_BYTES_KEPT)),
                }
            }
            Self::Dead { reason } => Self::Dead { reason: fields::tail(reason, REASON_BYTES_KEPT) },
            Self::Started { .. } | Self::Cancelled => self,
        }
    }
}

impl AppEvent {
    /// Makes it ready to be sent into the ledger's queue.
    pub fn into_envelope(self) -> Result<Envelope, EncodeError> {
        let mut envelope = json(APP_EVENT, &self, JSON_BYTES_MAX)?;
        envelope.properties.user_id = self.user_id;
        envelope.properties.persistent = true;
        Ok(envelope)
    }

    /// Reads an App's word.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        let mut event: Self = read_json(APP_EVENT, envelope, JSON_BYTES_MAX)?;
        event.user_id.clone_from(&envelope.properties.user_id);
        Ok(event)
    }
}

impl LedgerMessage {
    /// Reads what came for the ledger, by its type.
    pub fn from_envelope(envelope: &Envelope) -> Result<Self, DecodeError> {
        match envelope.properties.kind.as_deref() {
            Some(APP_EVENT) => AppEvent::from_envelope(envelope).map(Self::App),
            Some(fns::FN_EVENT) => FnEvent::from_envelope(envelope).map(Self::Fn),
            Some(claims::CLAIM) => Claim::from_envelope(envelope).map(Self::Claim),
            _ => CallEvent::from_envelope(envelope).map(Self::Call),
        }
    }
}

/// A call's id within JSON.
mod optional_id {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::message::CallId;

    #[expect(clippy::ref_option, reason = "serde hands fields over so")]
    pub(super) fn serialize<S: Serializer>(id: &Option<CallId>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.collect_str(id),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<CallId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests;
