//! A request that has been read whole: the call that it makes, whom it goes to, and its time.
//! Never publishes anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::message::{
    AGE_DEFAULT_MS, Call, CallEvent, CallId, EncodeError, Happened, Intent, Offer, RecordedBody,
    RecordedRequest, Source, Token, WEBSOCKET,
};
use funcatron_crds::Direct;
use funcatron_routing::CallPolicy;
use funcatron_routing::app_table::AsyncPolicy;
use http::{HeaderMap, HeaderName, Method};
use tokio::time::Instant;
use uuid::Uuid;

use crate::apps::{AppPart, FnPart, RevisionPart};
use crate::core::unix_ms;
use crate::direct::UploadOwner;
use crate::pending::{Beside, Offered};
use crate::spill::Spilled;
use crate::uplink::Session;

/// The client's word that the same request may come twice (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A timeout beyond it is none that Kubernetes' own durations can say; it keeps sums of times from overflowing.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A Fn to call, and what is known of the rule that led to it.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) app: Arc<AppPart>,
    pub(crate) function: Arc<FnPart>,
    pub(crate) intent: Intent,
    pub(crate) policy: CallPolicy,
    pub(crate) operation: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) params: Vec<(String, String)>,
}

/// A request's body, by the way that it goes.
#[derive(Debug)]
pub(crate) enum Payload {
    /// In the message.
    Message(Bytes),
    /// Past the message: it is here for the runner that asks, as often as it does.
    Beside(Bytes),
    /// Past the message, as it comes from its client.
    Upload(UploadOwner),
    /// It is in the object store.
    Spilled(Spilled),
}

impl Payload {
    const NOTHING: Self = Self::Message(Bytes::new());
}

/// What of a request travels.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
    /// Whether it asks to go on as a WebSocket.
    pub(crate) switch: bool,
}

/// A call that is to be dispatched.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) app: Arc<AppPart>,
    pub(crate) function: Arc<FnPart>,
    pub(crate) clock: Clock,
    /// Whether it may run again where it is not known to have run.
    idempotent: bool,
    /// Whether its bodies may go past the broker.
    streams: bool,
    /// What of its body is not in the call's message.
    payload: Payload,
    switch: bool,
    call: Call,
}

/// A call's time, counted from its submission.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    submitted: Instant,
    timeout: Duration,
}

impl Clock {
    /// Begins now.
    fn start(timeout: Duration) -> Self {
        Self { submitted: Instant::now(), timeout: timeout.min(TIMEOUT_MAX) }
    }

    /// When nobody waits any more.
    pub(crate) fn deadline(&self) -> Instant {
        self.submitted + self.timeout
    }

    fn timeout_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    fn left_ms(&self) -> u64 {
        let left = self.deadline().saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Submission {
    /// Submits a request now.
    pub(crate) fn new(id: Uuid, to: Destination, content: Content) -> Self {
        let now_unix_ms = unix_ms();
        let Destination { app, function, intent, policy, operation, template, params } = to;
        let Content { method, url, headers, payload, switch } = content;
        let (body, payload) = match payload {
            Payload::Message(body) => (body, Payload::NOTHING),
            payload => (Bytes::new(), payload),
        };
        let timeout_ms = policy.timeout_ms.unwrap_or(function.timeout_ms);
        let clock = Clock::start(Duration::from_millis(timeout_ms));
        let idempotent = is_idempotent(policy, &method, &headers);
        let streams = policy.direct != Some(Direct::Never);
        let call = Call {
            id: CallId::from_uuid(id),
            reply_to: None,
            deadline_ms: now_unix_ms.saturating_add(clock.timeout_ms()),
            timeout_ms: clock.timeout_ms(),
            expiration_ms: None,
            timestamp_s: Some(now_unix_ms / 1000),
            persistent: false,
            attempt: 1,
            attempts_max: None,
            claimant: None,
            intent,
            method,
            url,
            app: app.app.as_ref().to_owned(),
            fn_name: function.name.as_ref().to_owned(),
            revision: String::new(),
            operation,
            template,
            params,
            headers,
            direct: None,
            spilled: None,
            body,
        };
        Self { app, function, clock, idempotent, streams, payload, switch, call }
    }

    /// Its id, the same on every attempt.
    pub(crate) fn id(&self) -> Uuid {
        self.call.id.uuid()
    }

    /// Whether it may run again where it is not known to have run: not, once a byte of its body has left. Where it may,
    /// the attempts so far get none any more.
    pub(crate) fn reclaim(&self) -> bool {
        self.idempotent
            && match &self.payload {
                Payload::Upload(upload) => upload.reclaim(self.call.attempt),
                Payload::Message(_) | Payload::Beside(_) | Payload::Spilled(_) => true,
            }
    }

    /// The body that is still to come, for an answer during which more of it may go.
    pub(crate) fn take_upload(&mut self) -> Option<UploadOwner> {
        match std::mem::replace(&mut self.payload, Payload::NOTHING) {
            Payload::Upload(upload) => Some(upload),
            payload => {
                self.payload = payload;
                None
            }
        }
    }

    /// Offers the runner of the next attempt a stream, where it may have one.
    pub(crate) fn offer(&mut self, at: &str) -> Option<Offered> {
        let beside = match &self.payload {
            Payload::Beside(body) => Beside::Whole(body.clone()),
            Payload::Upload(upload) => Beside::Upload(upload.share()),
            Payload::Message(_) | Payload::Spilled(_) => Beside::Nothing,
        };
        self.call.direct = self.streams.then(|| {
            let (at, token) = (at.to_owned(), Token::fresh());
            let upgrade = self.switch.then(|| WEBSOCKET.to_owned());
            let line = matches!(beside, Beside::Whole(_));
            Offer { at, token, body: !matches!(beside, Beside::Nothing), line, upgrade }
        });
        let may_switch = self.switch;
        let counts = Arc::clone(&self.app.counts);
        let offered = |Offer { token, .. }: &Offer| Offered {
            token: *token,
            beside,
            may_switch,
            counts,
            has_line: false,
        };
        self.call.direct.as_ref().map(offered)
    }

    /// The message of one attempt.
    pub(crate) fn attempt(
        &mut self,
        attempt: u32,
        revision: &RevisionPart,
        session: &Session,
    ) -> Result<Envelope, EncodeError> {
        let call = &mut self.call;
        call.attempt = attempt;
        revision.entry.name.as_str().clone_into(&mut call.revision);
        call.reply_to = Some(session.reply_to.clone());
        call.expiration_ms = Some(self.clock.left_ms());
        call.to_envelope()
    }
}

/// What waits in a durable queue, and what the ledger is told of it.
impl Submission {
    /// The message for the Fn's durable queue. In it only the call's age counts.
    pub(crate) fn detach(&mut self) -> Result<Envelope, EncodeError> {
        let AsyncPolicy { attempts_max, age_max_ms } = self.function.detached;
        let call = &mut self.call;
        // Whichever revision is current when it runs: this is the one it was accepted under.
        if let Some(revision) = &self.function.revision {
            revision.entry.name.as_str().clone_into(&mut call.revision);
        }
        let submitted_ms = call.deadline_ms.saturating_sub(call.timeout_ms);
        call.deadline_ms = submitted_ms.saturating_add(age_max_ms.unwrap_or(AGE_DEFAULT_MS));
        call.attempts_max = attempts_max;
        call.persistent = true;
        if let Payload::Spilled(spilled) = &self.payload {
            call.spilled = Some(spilled.to_message(call.deadline_ms));
        }
        call.to_envelope()
    }

    /// It is in its queue, or may be: its body must not be taken away.
    pub(crate) fn keep_body(&mut self) {
        if let Payload::Spilled(spilled) = &mut self.payload {
            spilled.keep();
        }
    }

    /// It was accepted.
    pub(crate) fn queued(&self, source: Source) -> CallEvent {
        let mut request = RecordedRequest::of(&self.call);
        match &self.payload {
            Payload::Message(_) => {}
            Payload::Beside(body) => request.body = RecordedBody::of(body),
            Payload::Upload(upload) => request.body = RecordedBody::unkept(upload.length()),
            Payload::Spilled(spilled) => request.body.bytes = spilled.first().clone(),
        }
        let request = Some(Box::new(request));
        self.event(Happened::Queued { source, request, retry_of: None })
    }

    /// Something happened to it.
    pub(crate) fn event(&self, happened: Happened) -> CallEvent {
        CallEvent {
            user_id: None,
            id: self.call.id,
            namespace: self.app.namespace.to_string(),
            app: self.call.app.clone(),
            fn_name: self.call.fn_name.clone(),
            at_ms: unix_ms(),
            happened,
        }
    }
}

/// As the Route says, else the client, else by the method's meaning (RFC 9110, 9.2.2).
fn is_idempotent(policy: CallPolicy, method: &Method, headers: &HeaderMap) -> bool {
    let by_meaning = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    let otherwise = || by_meaning.contains(method) || headers.contains_key(IDEMPOTENCY_KEY);
    policy.idempotent.unwrap_or_else(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_route_decides_then_the_client_then_the_method() {
        let (none, mut key) = (HeaderMap::new(), HeaderMap::new());
        key.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("\"8e03978e\""));
        let policy = |idempotent| CallPolicy { idempotent, ..CallPolicy::default() };
        for (said, method, headers, expected) in [
            (None, Method::GET, &none, true),
            (None, Method::POST, &none, false),
            (None, Method::PATCH, &none, false),
            (None, Method::POST, &key, true),
            (Some(true), Method::POST, &none, true),
            (Some(false), Method::GET, &none, false),
            (Some(false), Method::POST, &key, false),
        ] {
            assert_eq!(is_idempotent(policy(said), &method, headers), expected, "{said:?} {method}");
        }
    }
}
