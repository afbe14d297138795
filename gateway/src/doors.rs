//! The public and the internal listener's requests: read whole, dispatched, answered.
//! Decides what is served where; knows nothing of links and queues.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use funcatron_broker::message::{Outcome, Reply, Source};
use funcatron_crds::{Digest, Direct};
use futures::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Version, request};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use tracing::{error, warn};
use uuid::Uuid;

use crate::body::counted;
use crate::core::{Core, Place, fresh_id, unix_ms};
use crate::detached;
use crate::direct::{self, Held, Received};
use crate::dispatch::{Answer, dispatch};
use crate::headers::{self, Forwarded};
use crate::line;
use crate::listen::Handler;
use crate::metrics::Door;
use crate::problem::{FN_CALL_ID, Problem, call_id_value};
use crate::recorder::Recording;
use crate::resolve::{self, BUNDLES, Host, SignedAddress};
use crate::response::{ResponseBody, is_bodyless};
use crate::spill;
use crate::submission::{Content, Destination, Submission};

/// More headers than this are refused (HTTP/1.1's are bounded by hyper, at 100).
const HEADERS_MAX: usize = 100;

/// One listener's way to answer.
#[derive(Clone)]
pub(crate) struct Doorkeeper {
    pub(crate) core: Arc<Core>,
    pub(crate) door: Door,
}

/// A request as it came.
struct Arrival {
    id: Uuid,
    peer: SocketAddr,
    head: request::Parts,
    body: Incoming,
}

impl Handler for Doorkeeper {
    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<ResponseBody> {
        let id = fresh_id(unix_ms());
        let at = Instant::now();
        let (head, body) = request.into_parts();
        let arrival = Arrival { id, peer, head, body };
        let answer = AssertUnwindSafe(self.answer(arrival)).catch_unwind().await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(problem)) => problem.into_response(id),
            Err(_) => {
                error!(call = %id, "a request's handling panicked");
                Problem::Internal.into_response(id)
            }
        };
        self.core.metrics.answered(self.door, response.status(), at.elapsed());
        response
    }
}

impl Doorkeeper {
    async fn answer(&self, arrival: Arrival) -> Result<Response<ResponseBody>, Problem> {
        check_head(&arrival.head, self.core.config.limits.head_bytes_max)?;
        if self.door == Door::Internal && arrival.head.uri.path().starts_with(BUNDLES) {
            return Box::pin(self.bundle(&arrival)).await;
        }
        if self.door == Door::Internal && spill::is_object(&arrival.head) {
            return Box::pin(spill::fetch(&self.core, &arrival.head)).await;
        }
        if self.door == Door::Internal && direct::is_stream(&arrival.head) {
            return direct::open(&self.core, &arrival.head, arrival.body);
        }
        if self.door == Door::Internal && line::is_line(&arrival.head) {
            return line::open(&self.core, &arrival.head);
        }
        if self.door == Door::Internal
            && let Some(ledger) = &self.core.ledger
            && ledger.serves(arrival.head.uri.path())
        {
            return Ok(Box::pin(ledger.ask(&arrival.head)).await?.map(ResponseBody::from));
        }
        let host = resolve::host(&arrival.head)?;
        let destination = match self.door {
            Door::Public => resolve::public(&self.core.tables, &arrival.head, &host, rand::random())?,
            Door::Internal => resolve::internal(&self.core.tables, &arrival.head)?,
        };
        let app = Arc::clone(&destination.app);
        let answered = self.call(arrival, host, destination).await;
        let status = match &answered {
            Ok(response) => response.status(),
            Err(problem) => problem.status(),
        };
        app.counts.answered(status);
        answered
    }

    async fn call(
        &self,
        arrival: Arrival,
        host: Host,
        mut to: Destination,
    ) -> Result<Response<ResponseBody>, Problem> {
        let core = &self.core;
        let Arrival { id, peer, head, body } = arrival;
        let detached = detached::asked(to.policy.is_async, &head.headers);
        if detached.is_some() {
            // Nobody is there to stream to.
            to.policy.direct = Some(Direct::Never);
        }
        // What runs later may wait for its first revision as well.
        if to.function.revision.is_none() && detached.is_none() {
            return Err(Problem::NoRevision);
        }
        // Behind a body the connection would not be where the function takes it over.
        let switch = headers::asks_for_websocket(&head) && body.is_end_stream();
        // A body that drips holds no place; one that would find none is not read.
        drop(core.enter(&to.app, &to.function)?);
        let received = receive(core, &to, id, (head.version, body), detached.is_some()).await;
        let Received { payload, _share } = received?;
        let place = core.enter(&to.app, &to.function)?;
        let request::Parts { method, uri, mut headers, .. } = head;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let url = [headers::scheme(&headers), "://", &host.authority, path].concat();
        headers::strip(&mut headers);
        headers::forward(&mut headers, &Forwarded { peer: peer.ip(), host: &host.authority });
        let is_head = method == Method::HEAD;
        let call = Submission::new(id, to, Content { method, url, headers, payload, switch });
        let source = if self.door == Door::Internal { Source::Invoke } else { Source::Http };
        if let Some(asked) = detached {
            let accepted = Box::pin(detached::accept(core, call, source, asked)).await?;
            return Ok(accepted.map(ResponseBody::from));
        }
        let recorded = call.app.records_all && core.ledger.is_some();
        let recording = recorded.then(|| Recording::begin(core, call.queued(source)));
        let answer = dispatch(core, call).await;
        if let Some(recording) = recording {
            record(recording, &answer);
        }
        Ok(self.respond(id, answer?, place, is_head))
    }

    /// The response that an answer becomes; its call counts until all of it has been taken.
    fn respond(&self, id: Uuid, answer: Answer, place: Place, is_head: bool) -> Response<ResponseBody> {
        match answer {
            Answer::Reply(reply) => self.answered(id, *reply, is_head),
            Answer::Direct(mut answer, upload) => match answer.switch.take() {
                Some(switch) => direct::switched(id, *answer, switch, place),
                None => direct::answered(id, *answer, Held { _place: place, upload }, is_head),
            },
        }
    }

    /// The function's own status, headers and body, but for what is the hop's or the platform's.
    fn answered(&self, id: Uuid, reply: Reply, is_head: bool) -> Response<ResponseBody> {
        let Reply { id: _, user_id: _, attempt: _, outcome, mut headers, body } = reply;
        let Outcome::Answer(status) = outcome else {
            error!(call = %id, ?outcome, "no answer was taken for one");
            return Problem::Internal.into_response(id);
        };
        headers::strip(&mut headers);
        headers.insert(FN_CALL_ID, call_id_value(id));
        let bodyless = is_bodyless(status);
        if is_head && !bodyless && !body.is_empty() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let body = if is_head || bodyless { Bytes::new() } else { counted(body, &self.core.budget) };
        let mut response = Response::new(Full::new(body).into());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    async fn bundle(&self, arrival: &Arrival) -> Result<Response<ResponseBody>, Problem> {
        let head = &arrival.head;
        if ![Method::GET, Method::HEAD].contains(&head.method) {
            return Err(Problem::MethodNotAllowed("GET, HEAD".to_owned()));
        }
        let address = SignedAddress::parse(BUNDLES, head.uri.path(), head.uri.query().unwrap_or_default());
        let SignedAddress { namespace, app, name, expires_s, signature } = address.ok_or(Problem::NoRoute)?;
        let digest = Digest::parse(name).map_err(|_| Problem::NoRoute)?;
        let now_s = unix_ms() / 1000;
        let key = &self.core.config.signing_key;
        let verified = key.verify(namespace, app, &digest, expires_s, signature, now_s);
        verified.map_err(|error| Problem::Forbidden(error.to_string()))?;
        let found = self.core.bundles.fetch(namespace, app, &digest).await.map_err(|error| {
            warn!(%error, %digest, namespace, app, call = %arrival.id, "could not fetch a bundle");
            Problem::BundlesAway
        })?;
        let bytes = found.ok_or(Problem::NoBundle)?;
        let length = HeaderValue::from(bytes.len());
        let body = if head.method == Method::HEAD { Bytes::new() } else { bytes };
        let mut response = Response::new(Full::new(body).into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(FN_CALL_ID, call_id_value(arrival.id));
        Ok(response)
    }
}

/// Takes a request's body, as its call wants it.
async fn receive(
    core: &Core,
    to: &Destination,
    id: Uuid,
    (version, body): (Version, Incoming),
    is_detached: bool,
) -> Result<Received, Problem> {
    if is_detached {
        // Boxed, since few calls are of this kind and each would pay for its size.
        return Box::pin(spill::receive(core, to, id, version, body)).await;
    }
    direct::receive(core, to, version, body).await.map_err(|error| Problem::unread(&error))
}

fn record(recording: Recording, answer: &Result<Answer, Problem>) {
    match answer {
        Ok(Answer::Reply(reply)) => match reply.outcome {
            Outcome::Answer(status) => recording.answered(status, &reply.headers, &reply.body),
            _ => recording.failed(&Problem::Internal),
        },
        Ok(Answer::Direct(answer, _)) => {
            recording.began(answer.status, &answer.headers, answer.body.length())
        }
        Err(problem) => recording.failed(problem),
    }
}

fn check_head(head: &request::Parts, bytes_max: usize) -> Result<(), Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::BadRequest("this is no proxy"));
    }
    let line = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if line + bytes > bytes_max || head.headers.len() > HEADERS_MAX {
        return Err(Problem::HeadTooLarge);
    }
    Ok(())
}
