//! The ledger's HTTP API, for the cluster's inside: calls of an App, their results and logs; cancel, retry, redrive.
//!
//! Whether the caller may is decided first, then whether the App is known, then whether the call is: each is told
//! apart. Never serves a tenant's hostname.

pub(crate) mod document;
mod list;
pub(crate) mod problem;
mod result;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use funcatron_broker::message::{CallEvent, CallId, Happened};
use http::header::{CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::access::{Act, Decision};
use crate::clock::now_ms;
use crate::core::Core;
use crate::redrive::{self, RedriveError};
use crate::repeat::{self, RepeatError};
use crate::state::Status;
use crate::store::{Call, CallKey, Entry, Logs};
use document::{List, Summary};
use list::Asked;
use problem::{FN_CALL_ID, Problem, id_value};

/// Dead letters of one redrive, where the request does not say.
const REDRIVE: u32 = 100;
/// Each is confirmed by a quorum queue before the next is taken: a thousand take seconds.
const REDRIVE_MAX: u32 = 1_000;

type Shared = State<Arc<Core>>;
type OfApp = Path<(String, String)>;
type OfCall = Path<(String, String, String)>;

/// All that is served.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let app = "/v1/namespaces/{namespace}/apps/{app}";
    Router::new()
        .route(&format!("{app}/calls"), get(list_calls))
        .route(&format!("{app}/calls/{{call}}"), get(get_call))
        .route(&format!("{app}/calls/{{call}}/result"), get(get_result))
        .route(&format!("{app}/calls/{{call}}/log"), get(get_log))
        .route(&format!("{app}/calls/{{call}}/cancel"), post(cancel))
        .route(&format!("{app}/calls/{{call}}/retry"), post(retry))
        .route(&format!("{app}/fns/{{fn}}/dead-letters/redrive"), post(redrive_dead))
        .route("/v1/callback-key", get(callback_key))
        // What a gateway hands out as Location, which names no App.
        .route("/calls/{call}", get(get_global))
        .route("/calls/{call}/result", get(get_global_result))
        .route("/calls/{call}/log", get(get_global_log))
        .fallback(|| async { Problem::NoRoute })
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(middleware::from_fn_with_state(Arc::clone(&core), bounded))
        .with_state(core)
}

/// Answers as many requests at once as may be, and counts them.
async fn bounded(State(core): Shared, request: Request, next: Next) -> Response {
    let response = match core.requests.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Problem::Busy.into_response(),
    };
    core.metrics.request(response.status().as_u16());
    response
}

fn allow(core: &Core, request: &Parts, namespace: &str, act: Act) -> Result<(), Problem> {
    match core.access.decide(request, namespace, act) {
        Decision::Allowed => Ok(()),
        Decision::NotAllowed => Err(Problem::NotAllowed),
    }
}

async fn known(core: &Core, namespace: &str, app: &str) -> Result<(), Problem> {
    if core.store.knows_app(namespace, app).await? { Ok(()) } else { Err(Problem::NoApp) }
}

/// A number, or an id; anything else names no call.
fn key(text: &str) -> Option<CallKey> {
    let number = text.parse().map(CallKey::Number);
    number.ok().or_else(|| text.parse().map(CallKey::Id).ok())
}

/// Whether the caller may, the App is known, and the call is, in this order.
async fn find(
    core: &Core,
    request: &Parts,
    (namespace, app, call): &(String, String, String),
    act: Act,
) -> Result<Call, Problem> {
    allow(core, request, namespace, act)?;
    known(core, namespace, app).await?;
    let Some(key) = key(call) else { return Err(Problem::NoCall) };
    core.store.call(namespace, app, key).await?.ok_or(Problem::NoCall)
}

async fn list_calls(
    State(core): Shared,
    Path((namespace, app)): OfApp,
    request: Parts,
) -> Result<Response, Problem> {
    allow(&core, &request, &namespace, Act::Read)?;
    known(&core, &namespace, &app).await?;
    let asked: Asked = query(&request)?;
    let page = core.store.list(&namespace, &app, &asked.validate()?).await?;
    let calls = page.calls.into_iter().map(|(number, state)| Summary::of(number, state)).collect();
    let next = page.below.map(|below| asked.next(request.uri.path(), below));
    Ok(document::json(StatusCode::OK, &List { calls, next }))
}

fn query<T: serde::de::DeserializeOwned>(request: &Parts) -> Result<T, Problem> {
    let read = Query::<T>::try_from_uri(&request.uri);
    read.map(|Query(asked)| asked).map_err(|rejected| Problem::BadRequest(rejected.body_text()))
}

async fn get_call(State(core): Shared, Path(of): OfCall, request: Parts) -> Result<Response, Problem> {
    let call = find(&core, &request, &of, Act::Read).await?;
    named(&core, call).await
}

async fn get_result(State(core): Shared, Path(of): OfCall, request: Parts) -> Result<Response, Problem> {
    Ok(result::result(find(&core, &request, &of, Act::Read).await?))
}

async fn get_log(State(core): Shared, Path(of): OfCall, request: Parts) -> Result<Response, Problem> {
    let call = find(&core, &request, &of, Act::Read).await?;
    log(&core, &call).await
}

async fn find_global(core: &Core, request: &Parts, call: &str) -> Result<Call, Problem> {
    let id: CallId = call.parse().map_err(|_| Problem::NoCall)?;
    let call = core.store.call_by_id(id).await?.ok_or(Problem::NoCall)?;
    allow(core, request, &call.state.namespace, Act::Read)?;
    Ok(call)
}

async fn get_global(
    State(core): Shared,
    Path(call): Path<String>,
    request: Parts,
) -> Result<Response, Problem> {
    let call = find_global(&core, &request, &call).await?;
    named(&core, call).await
}

async fn get_global_result(
    State(core): Shared,
    Path(call): Path<String>,
    request: Parts,
) -> Result<Response, Problem> {
    Ok(result::result(find_global(&core, &request, &call).await?))
}

async fn get_global_log(
    State(core): Shared,
    Path(call): Path<String>,
    request: Parts,
) -> Result<Response, Problem> {
    let call = find_global(&core, &request, &call).await?;
    log(&core, &call).await
}

async fn named(core: &Core, call: Call) -> Result<Response, Problem> {
    let id = call.state.id;
    let callbacks = core.store.callbacks(id).await?;
    let mut response = document::whole(StatusCode::OK, call, callbacks);
    response.headers_mut().insert(FN_CALL_ID, id_value(id));
    Ok(response)
}

async fn log(core: &Core, call: &Call) -> Result<Response, Problem> {
    let id = call.state.id;
    let text = log_text(core.store.logs(id).await?, call.is_trimmed);
    let mut response = ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response();
    response.headers_mut().insert(FN_CALL_ID, id_value(id));
    Ok(response)
}

fn log_text(logs: Logs, is_trimmed: bool) -> String {
    let Logs { attempts, left_out } = logs;
    let missing = match left_out {
        0 if is_trimmed => "==> what was written before had to make room for newer calls\n".to_owned(),
        0 => String::new(),
        count => format!("==> earlier attempts that are not shown: {count}\n"),
    };
    // One attempt's log is shown as it is.
    let several = attempts.len() > 1 || !missing.is_empty();
    let texts = attempts
        .into_iter()
        .map(|(attempt, log)| if several { format!("==> attempt {attempt}\n{log}\n") } else { log });
    missing + &texts.collect::<String>()
}

async fn cancel(State(core): Shared, Path(of): OfCall, request: Parts) -> Result<Response, Problem> {
    let call = find(&core, &request, &of, Act::Change).await?;
    let (id, state) = (call.state.id, call.state);
    // Runners hear of it over the broker: one that does not would run what is called cancelled.
    let link = core.link().ok_or(Problem::BrokerAway)?;
    let event = CallEvent {
        user_id: None,
        id,
        namespace: state.namespace.clone(),
        app: state.app.clone(),
        fn_name: state.fn_name,
        at_ms: now_ms(),
        happened: Happened::Cancelled,
    };
    core.store.apply(&[Entry::Call(event)]).await?;
    let call = core.store.call_by_id(id).await?.ok_or(Problem::NoCall)?;
    match call.state.status {
        Status::Cancelled => {
            repeat::tell_runners(&core, &*link, id, &state.namespace, &state.app).await;
            named(&core, call).await
        }
        Status::Queued | Status::Running => Err(Problem::Running(id)),
        ended => Err(Problem::Ended(id, ended.as_str())),
    }
}

async fn retry(State(core): Shared, Path(of): OfCall, request: Parts) -> Result<Response, Problem> {
    let call = find(&core, &request, &of, Act::Change).await?;
    let before = call.state.id;
    let link = core.link().ok_or(Problem::BrokerAway)?;
    let id = repeat::again(&core, &*link, call).await.map_err(|error| match error {
        RepeatError::NotEnded => Problem::NotEnded(before),
        RepeatError::NotKept(why) => Problem::NotRepeatable(before, why),
        RepeatError::NoQueue => Problem::NoDurableQueue,
        RepeatError::Full => Problem::QueueFull,
        RepeatError::Publish(_) => Problem::BrokerAway,
        RepeatError::Body(error) => error.into(),
    })?;
    let (namespace, app, _) = &of;
    let location = format!("/v1/namespaces/{namespace}/apps/{app}/calls/{id}");
    let body = Repeated { id: id.to_string(), retry_of: before.to_string() };
    let mut response = document::json(StatusCode::ACCEPTED, &body);
    response.headers_mut().insert(FN_CALL_ID, id_value(id));
    let location = HeaderValue::from_str(&location).expect("names of Apps are DNS labels");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Repeated {
    id: String,
    retry_of: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedRedrive {
    limit: Option<u32>,
}

#[derive(Serialize)]
struct Redriven {
    moved: u32,
}

/// What whoever is called back checks signatures with: no secret, and nobody's in particular.
#[derive(Serialize)]
struct PublicKey {
    key: String,
}

async fn callback_key(State(core): Shared) -> Response {
    document::json(StatusCode::OK, &PublicKey { key: core.outbound.key.public() })
}

async fn redrive_dead(
    State(core): Shared,
    Path((namespace, app, fn_name)): OfCall,
    request: Parts,
) -> Result<Response, Problem> {
    allow(&core, &request, &namespace, Act::Change)?;
    known(&core, &namespace, &app).await?;
    let limit = query::<AskedRedrive>(&request)?.limit.unwrap_or(REDRIVE);
    if !(1..=REDRIVE_MAX).contains(&limit) {
        let why = format!("limit is {limit}, and 1 to {REDRIVE_MAX} are allowed");
        return Err(Problem::BadRequest(why));
    }
    let link = core.link().ok_or(Problem::BrokerAway)?;
    let alone = Arc::clone(&core.redriving).try_acquire_owned().map_err(|_| Problem::Redriving)?;
    // A task of its own: a client that leaves would else leave a call in both queues.
    let moving = core.tasks.clone().spawn(async move {
        let _alone = alone;
        redrive::run(&core, &*link, &namespace, &app, &fn_name, limit).await
    });
    let moved = moving.await.unwrap_or(Err(RedriveError::CutShort));
    let moved = moved.map_err(|error| match error {
        RedriveError::NoQueue => Problem::NoDurableQueue,
        RedriveError::Full => Problem::QueueFull,
        RedriveError::Body(error) => error.into(),
        RedriveError::Broker(_) | RedriveError::Stalled | RedriveError::CutShort => Problem::BrokerAway,
    })?;
    Ok(document::json(StatusCode::OK, &Redriven { moved }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_says_what_of_it_is_not_there() {
        let logs = |left_out| Logs { attempts: vec![(5, "five".into())], left_out };
        assert_eq!(log_text(logs(0), false), "five");
        assert_eq!(
            log_text(logs(4), false),
            "==> earlier attempts that are not shown: 4\n==> attempt 5\nfive\n"
        );
        assert!(log_text(Logs::default(), true).contains("had to make room"));
        assert_eq!(log_text(Logs::default(), false), "");
    }
}
