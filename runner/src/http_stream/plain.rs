//! A message as the request that a plain HTTP server gets, and what its answer means. Pure.
//!
//! Method, path, headers and body are the client's own; what the platform says stands beside them in headers of its own.
//! The path is that of the URL that the client used, as behind Knative and Cloud Run: links that the server makes then
//! lead back to it. An invocation by name has none of its own: it is `/`, as are events.

use bytes::Bytes;
use funcatron_broker::link::Envelope;
use funcatron_broker::message::{Call, Intent, WEBSOCKET};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;

use super::answer::Answer;
use super::contract::Through;
use super::request::{self, each, is_hop_by_hop, is_platforms};

/// Where what has no path of its own is sent.
const ROOT: &str = "/";

/// The request of a call.
pub(super) fn of_call(call: Call, attempt: u32, deadline_ms: u64) -> Request<Full<Bytes>> {
    let mut own = request::call_headers(&call, attempt, deadline_ms);
    let Call { intent, method, url, headers, body, .. } = call;
    take(&mut own, headers);
    request::build(method, target(intent, &url), own, body)
}

/// The request of an event.
pub(super) fn of_event(
    event: Envelope,
    through: Through<'_>,
    attempt: u32,
    deadline_ms: u64,
) -> Request<Full<Bytes>> {
    let (own, body) = request::event_headers(event, through, attempt, deadline_ms);
    request::build(Method::POST, Uri::from_static(ROOT), own, body)
}

/// Reads an answer: whatever its status, it is the function's own word.
pub(super) fn read<B>(answer: Response<B>) -> Answer<B> {
    let (head, body) = answer.into_parts();
    if !(200..=599).contains(&head.status.as_u16()) {
        return Answer::Nonsense("the status is none from 200 to 599");
    }
    Answer::Answered { status: head.status, headers: travelling(head.headers), body }
}

/// Has a request ask for a WebSocket, where its client does: the one protocol that goes on over a stream.
pub(super) fn ask_to_switch(headers: &mut HeaderMap, protocol: Option<&str>) -> bool {
    let asks = protocol == Some(WEBSOCKET);
    if asks {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    }
    asks
}

/// What travels of an answer with status 101, which must name the protocol that was asked for (RFC 9110, 15.2.2).
pub(super) fn switched(headers: HeaderMap) -> Result<HeaderMap, &'static str> {
    let granted =
        headers.get(UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    if granted {
        Ok(travelling(headers))
    } else {
        Err("the function switched to a protocol that nobody asked for")
    }
}

/// The client's headers as they came, but none that is the hop's or the platform's to say. There is one `Host`.
fn take(own: &mut HeaderMap, headers: HeaderMap) {
    each(headers, |name, value| {
        if *name == HOST {
            own.insert(HOST, value);
        } else if !is_hop_by_hop(name) && !is_platforms(name) {
            own.append(name.clone(), value);
        }
    });
}

/// What is asked of the server.
fn target(intent: Intent, url: &str) -> Uri {
    let own = path_and_query(url);
    let (path, query) = own.split_once('?').map_or((own, None), |(path, query)| (path, Some(query)));
    let path = if intent == Intent::Invoke { ROOT } else { path };
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    // The gateway has read it as a URL before.
    PathAndQuery::try_from(target).map_or_else(|_| Uri::from_static(ROOT), Uri::from)
}

/// The part of an absolute URL after its host; a client of HTTP/1.0 may have named none.
fn path_and_query(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let at = after_scheme.find(['/', '?']);
    at.map_or(ROOT, |at| &after_scheme[at..])
}

/// Leaves of an answer's headers what travels: those that `Connection` lists stay with it (RFC 9110, 7.6.1).
fn travelling(mut headers: HeaderMap) -> HeaderMap {
    let listed: Vec<HeaderName> = listed(&headers).filter_map(|name| name.parse().ok()).collect();
    for name in &listed {
        headers.remove(name);
    }
    let hops: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in &hops {
        headers.remove(name);
    }
    headers
}

fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().map(HeaderValue::to_str);
    values.flatten().flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
