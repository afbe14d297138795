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

/// What of a request travels.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether that goes past the message.
    pub(crate) is_beside: bool,
    /// The body, where it goes past the message as it comes.
    pub(crate) upload: Option<UploadOwner>,
    /// The body, where it is in the object store.
    pub(crate) spilled: Option<Spilled>,
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
    /// The body, where it is here and not in the message, …
    beside: Option<Bytes>,
    /// … or is still to come.
    upload: Option<UploadOwner>,
    spilled: Option<Spilled>,
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
        let Content { method, url, headers, body, is_beside, upload, spilled, switch } = content;
        let (body, beside) = if is_beside { (Bytes::new(), Some(body)) } else { (body, None) };
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
        Self { app, function, clock, idempotent, streams, beside, upload, spilled, switch, call }
    }

    /// Its id, the same on every attempt.
    pub(crate) fn id(&self) -> Uuid {
        self.call.id.uuid()
    }

    /// Whether it may run again where it is not known to have run: not, once a byte of its body has left. Where it may,
    /// the attempts so far get none any more.
    pub(crate) fn reclaim(&self) -> bool {
        self.idempotent && self.upload.as_ref().is_none_or(|upload| upload.reclaim(self.call.attempt))
    }

    /// The body that goes past the message, for an answer during which more of it may go.
    pub(crate) fn take_upload(&mut self) -> Option<UploadOwner> {
        self.upload.take()
    }

    /// Offers the runner of the next attempt a stream, where it may have one.
    pub(crate) fn offer(&mut self, at: &str) -> Option<Offered> {
        let upload = self.upload.as_ref();
        self.call.direct = self.streams.then(|| {
            let (at, token) = (at.to_owned(), Token::fresh());
            let upgrade = self.switch.then(|| WEBSOCKET.to_owned());
            let line = self.beside.is_some();
            Offer { at, token, body: upload.is_some() || line, line, upgrade }
        });
        let beside = match (&self.beside, upload) {
            (Some(body), _) => Beside::Whole(body.clone()),
            (None, Some(upload)) => Beside::Upload(upload.share()),
            (None, None) => Beside::Nothing,
        };
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
        call.spilled = self.spilled.as_ref().map(|spilled| spilled.to_message(call.deadline_ms));
        call.to_envelope()
    }

    /// It is in its queue, or may be: its body must not be taken away.
    pub(crate) fn keep_body(&mut self) {
        if let Some(spilled) = &mut self.spilled {
            spilled.keep();
        }
    }

    /// It was accepted.
    pub(crate) fn queued(&self, source: Source) -> CallEvent {
        let mut request = RecordedRequest::of(&self.call);
        if let Some(body) = &self.beside {
            request.body = RecordedBody::of(body);
        }
        if let Some(upload) = &self.upload {
            request.body = RecordedBody::unkept(upload.length());
        }
        if let Some(spilled) = &self.spilled {
            request.body.bytes = spilled.first().clone();
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
