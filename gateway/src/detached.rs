//! Calls that nobody waits for: into the Fn's durable queue, and answered 202 once the broker has confirmed them.
//! Never waits for a runner.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::link::{Confirm, Link, LinkError, Target};
use funcatron_broker::message::{DurableQueue, Source};
use funcatron_broker::names::{AppNames, QueueName};
use funcatron_broker::topology;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::core::Core;
use crate::problem::{FN_CALL_ID, Problem, call_id_value};
use crate::recorder;
use crate::submission::Submission;
use crate::wake;

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const RESPOND_ASYNC: &str = "respond-async";
/// Fn's own word for the same.
const FN_INVOKE_TYPE: HeaderName = HeaderName::from_static("fn-invoke-type");
const DETACHED: &str = "detached";
/// A quorum queue confirms within milliseconds, and within seconds while it elects a leader.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// The ledger's queue holds up no call that is accepted already.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Who asked that a call be detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The Route, or Fn's header.
    Told,
    /// The client prefers it, and hears that it was heard.
    Preferred,
}

/// Whether a request's call is to be detached; asked before the platform's own headers are stripped.
pub(crate) fn asked(by_rule: bool, headers: &HeaderMap) -> Option<Asked> {
    if by_rule || headers.get(FN_INVOKE_TYPE).is_some_and(|kind| kind == DETACHED) {
        return Some(Asked::Told);
    }
    let said = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut words =
        said.flat_map(|value| value.split(',')).filter_map(|preference| preference.split(';').next());
    words.any(|word| word.trim().eq_ignore_ascii_case(RESPOND_ASYNC)).then_some(Asked::Preferred)
}

/// What the client gets besides the headers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    id: &'a str,
    status: &'static str,
    location: &'a str,
}

/// Puts a call into its Fn's durable queue, and tells the ledger. A task of its own, so that a client that leaves
/// half-way leaves nothing half done.
pub(crate) async fn accept(
    core: &Arc<Core>,
    call: Submission,
    source: Source,
    asked: Asked,
) -> Result<Response<Full<Bytes>>, Problem> {
    let id = call.id();
    let accepting = tokio::spawn(enqueue(Arc::clone(core), call, source));
    accepting.await.map_err(|_| Problem::Internal)??;
    Ok(answer(core, id, asked))
}

async fn enqueue(core: Arc<Core>, mut call: Submission, source: Source) -> Result<(), Problem> {
    let link = Arc::clone(&core.uplink.current().ok_or(Problem::BrokerAway)?.link);
    if link.is_blocked() {
        return Err(Problem::BrokerAway);
    }
    let envelope = call.detach().map_err(|error| {
        debug!(%error, call = %call.id(), "a call cannot be encoded");
        Problem::HeadTooLarge
    })?;
    let publishing = publish(&core, &*link, &call, envelope);
    let published = timeout(CONFIRM_TIMEOUT, publishing).await.unwrap_or(Err(Problem::NotConfirmed));
    // Without a word of the broker's it may be in its queue.
    if matches!(published, Ok(()) | Err(Problem::NotConfirmed)) {
        call.keep_body();
    }
    published?;
    // Before its client hears of it, so that a look at the call finds it; but what is confirmed is accepted.
    if core.ledger.is_some()
        && timeout(TELL_TIMEOUT, recorder::tell(&core, &*link, call.queued(source))).await.is_err()
    {
        warn!(call = %call.id(), "the ledger's queue does not answer");
    }
    wake::attend(&core, &call.app, &call.function, link);
    Ok(())
}

async fn publish(core: &Core, link: &dyn Link, call: &Submission, message: Envelope) -> Result<(), Problem> {
    let queue = &call.function.durable;
    let confirmed = match send(link, queue, message.clone()).await? {
        Confirm::Returned => {
            make(core, link, call).await?;
            send(link, queue, message).await?
        }
        confirmed => confirmed,
    };
    match confirmed {
        Confirm::Acked => Ok(()),
        Confirm::Nacked => Err(Problem::QueueFull),
        Confirm::Returned => Err(Problem::Unroutable),
    }
}

async fn send(link: &dyn Link, queue: &QueueName, message: Envelope) -> Result<Confirm, Problem> {
    link.publish_confirmed(Target::queue(queue), message, true).await.map_err(|error| match error {
        LinkError::Unsendable(why) => {
            debug!(why, "a call cannot travel");
            Problem::HeadTooLarge
        }
        error => {
            debug!(%error, "a call was not confirmed");
            Problem::NotConfirmed
        }
    })
}

/// Makes a Fn's durable queue at its first need. The operator, who is told, looks after it from then on.
async fn make(core: &Core, link: &dyn Link, call: &Submission) -> Result<(), Problem> {
    let names = AppNames::new(core.tables.installation(), &call.app.namespace, &call.app.app);
    let items = names.and_then(|names| topology::durable(&names, &call.function.name));
    let items = items.map_err(|_| Problem::Internal)?;
    if let Err(error) = link.declare(&items).await {
        warn!(%error, queue = %call.function.durable, "could not make a durable queue");
        return Err(Problem::NotConfirmed);
    }
    info!(queue = %call.function.durable, "made a durable queue");
    let made = DurableQueue {
        namespace: call.app.namespace.to_string(),
        app: call.app.app.to_string(),
        fn_name: call.function.name.to_string(),
    };
    let reports = core.tables.installation().reports_queue();
    let Ok(envelope) = made.into_envelope() else { return Ok(()) };
    // What is lost here the operator's next look at the broker finds.
    if let Err(error) = link.publish(Target::queue(&reports), envelope, false).await {
        debug!(%error, "the operator is not told of a durable queue");
    }
    Ok(())
}

fn answer(core: &Core, id: Uuid, asked: Asked) -> Response<Full<Bytes>> {
    let location = format!("{}/calls/{id}", core.config.internal_base.trim_end_matches('/'));
    let mut buffer = Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut buffer);
    let accepted = Accepted { id: text, status: "queued", location: &location };
    let body = serde_json::to_vec(&accepted).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(FN_CALL_ID, call_id_value(id));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(LOCATION, location);
    }
    if asked == Asked::Preferred {
        headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static(RESPOND_ASYNC));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_rule_or_fns_header_tells_and_a_client_prefers() {
        assert_eq!(asked(true, &HeaderMap::new()), Some(Asked::Told));
        assert_eq!(asked(false, &headers(&[("fn-invoke-type", "detached")])), Some(Asked::Told));
        for value in ["respond-async", "wait=10, Respond-Async", "respond-async; x=1, wait=10"] {
            assert_eq!(asked(false, &headers(&[("prefer", value)])), Some(Asked::Preferred), "{value}");
        }
        for pairs in [&[("prefer", "return=minimal")][..], &[("fn-invoke-type", "sync")], &[]] {
            assert_eq!(asked(false, &headers(pairs)), None, "{pairs:?}");
        }
    }
}
