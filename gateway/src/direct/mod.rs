//! Direct calls: which requests' bodies go past the broker, and the streams that runners open for them.
//! Never calls a runner: runners come here, each with the token of one call's attempt.

mod answer;
mod receipt;
mod stream;
mod tunnel;
mod upload;

use std::sync::Arc;

use funcatron_broker::message::{
    DIRECT_PATH, FN_HAS_BODY, LINE_BODY_BYTES_MAX, LINE_BODY_BYTES_MIN, ReadHeadError, Token, WEBSOCKET,
};
use funcatron_crds::Direct;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Method, Response, Version, request};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tracing::debug;
use uuid::Uuid;

use crate::body::{self, MESSAGE_BODY_BYTES_MAX, ReadBodyError, Share};
use crate::core::{Core, Place};
use crate::handover::Handover;
use crate::headers;
use crate::pending::{Beside, OpenError, Opened};
use crate::problem::{FN_CALL_ID, Problem, call_id_value};
use crate::response::{ResponseBody, is_bodyless};
use crate::submission::{Destination, Payload};

pub(crate) use answer::{AnswerBody, DirectAnswer, Held};
pub(crate) use receipt::ReceiptBody;
pub(crate) use stream::Stream;
pub(crate) use tunnel::{Switch, Tunnel};
pub(crate) use upload::{Upload, UploadBody, UploadOwner};

use answer::Watch;

/// A request's body as it goes on.
pub(crate) struct Received {
    pub(crate) payload: Payload,
    /// What that holds of the memory for bodies.
    pub(crate) _share: Share,
}

/// Takes a request's body: whole, or to be pulled by whoever runs the call.
pub(crate) async fn receive(
    core: &Core,
    to: &Destination,
    version: Version,
    body: Incoming,
) -> Result<Received, ReadBodyError> {
    let limit = to.app.body_bytes_max;
    let direct = to.policy.direct.unwrap_or_default();
    if is_stream_for(direct, &body) {
        let payload = Payload::Upload(UploadOwner::new(body, version, limit)?);
        return Ok(Received { payload, _share: Share::none(&core.budget) });
    }
    let limit = limit.min(MESSAGE_BODY_BYTES_MAX);
    let (body, share) = body::read(body, limit, &core.budget, core.body_times()).await?;
    let is_beside = direct == Direct::Auto && body.len() as u64 > LINE_BODY_BYTES_MIN;
    let payload = if is_beside { Payload::Beside(body) } else { Payload::Message(body) };
    Ok(Received { payload, _share: share })
}

/// Whether a body goes over a stream of its own, where the Route does not decide: what neither a message nor a line
/// carries well.
fn is_stream_for(said: Direct, body: &impl Body) -> bool {
    if body.is_end_stream() {
        return false;
    }
    match said {
        Direct::Always => true,
        Direct::Never => false,
        Direct::Auto => body.size_hint().exact().is_none_or(|length| length > LINE_BODY_BYTES_MAX as u64),
    }
}

/// Whether a request on the internal listener is a runner's for a stream.
pub(crate) fn is_stream(head: &request::Parts) -> bool {
    head.uri.path().starts_with(DIRECT_PATH)
}

fn check(head: &request::Parts) -> Result<(), Problem> {
    if head.method != Method::POST {
        return Err(Problem::MethodNotAllowed(Method::POST.to_string()));
    }
    if head.version != Version::HTTP_2 {
        return Err(Problem::BadRequest("a stream needs HTTP/2"));
    }
    Ok(())
}

/// Opens a runner's stream: what it sends is the answer, what it gets is the request's body.
pub(crate) fn open(
    core: &Arc<Core>,
    head: &request::Parts,
    body: Incoming,
) -> Result<Response<ResponseBody>, Problem> {
    check(head)?;
    let place = core.enter_stream().ok_or(Problem::GatewayBusy)?;
    let void = || {
        core.metrics.direct_refused.inc();
        Problem::Forbidden("no call waits for a stream with this token".to_owned())
    };
    let (id, token) = shown(head, DIRECT_PATH).ok_or_else(void)?;
    let opened = core.pending.open(id, token, core.config.limits.app_streams_max);
    let Opened { attempt, beside, may_switch, over, place: of_app } =
        opened.map_err(|error| match error {
            OpenError::Void => void(),
            OpenError::Busy => Problem::GatewayBusy,
        })?;
    let stream = Arc::new(Stream::new([place, of_app]));
    let (sent, receipt) = match beside {
        Beside::Whole(body) if !head.headers.contains_key(FN_HAS_BODY) => (Full::new(body).into(), None),
        Beside::Nothing | Beside::Whole(_) => {
            let (receipt, body) = receipt::receipt();
            (ResponseBody::Receipt(body), Some(receipt))
        }
        Beside::Upload(upload) => match upload.lend((id, attempt), &core.pending, Arc::clone(&stream)) {
            Some(lent) => (lent.into(), None),
            None => return Err(Problem::Forbidden("the call is over".to_owned())),
        },
    };
    core.metrics.direct_opened.inc();
    let reading = over.run_until_cancelled_owned(answer::read(attempt, body, stream, receipt, may_switch));
    tokio::spawn(answer(Arc::clone(core), id, attempt, reading));
    Ok(Response::new(sent))
}

/// Hands an answer to its call once it has begun, and watches it until it is over.
async fn answer(
    core: Arc<Core>,
    id: Uuid,
    attempt: u32,
    reading: impl Future<Output = Option<Option<Result<(DirectAnswer, Watch), ReadHeadError>>>>,
) {
    match reading.await {
        Some(Some(Ok((answer, watch)))) => {
            core.pending.settle_direct(id, attempt, Ok(answer));
            watch.run(core.config.limits.stream_idle_timeout).await;
        }
        Some(Some(Err(error))) => {
            core.pending.settle_direct(id, attempt, Err(error));
        }
        Some(None) => debug!(call = %id, "a stream ended before its answer began"),
        None => {}
    }
}

/// The response to a call whose answer comes over its stream: the function's own, as `doors` gives one that came whole.
pub(crate) fn answered(id: Uuid, answer: DirectAnswer, held: Held, is_head: bool) -> Response<ResponseBody> {
    let DirectAnswer { attempt: _, status, mut headers, mut body, switch: _ } = answer;
    headers::strip(&mut headers);
    headers.insert(FN_CALL_ID, call_id_value(id));
    let bodyless = is_bodyless(status);
    if is_head
        && !bodyless
        && let Some(length) = body.length()
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let body = if is_head || bodyless {
        Full::default().into()
    } else {
        body.hold(held);
        body.into()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The response to a call whose function has switched protocols: what the connection carries from then on is no HTTP.
pub(crate) fn switched(
    id: Uuid,
    answer: DirectAnswer,
    switch: Switch,
    place: Place,
) -> Response<ResponseBody> {
    let DirectAnswer { attempt: _, status, mut headers, body, switch: _ } = answer;
    headers::strip(&mut headers);
    headers.insert(FN_CALL_ID, call_id_value(id));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    let tunnel = Tunnel { body, switch, _place: place };
    let mut response = Response::new(ResponseBody::Handover(Box::new(Handover::Tunnel(tunnel))));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The call that a runner names below a path, and the token that it shows.
pub(crate) fn shown(head: &request::Parts, below: &str) -> Option<(Uuid, Token)> {
    let id = Uuid::try_parse(head.uri.path().strip_prefix(below)?).ok()?;
    let token = head.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    Some((id, Token::parse(token)?))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use hyper::body::Frame;

    use super::*;

    #[test]
    fn what_a_message_carries_badly_goes_past_it_unless_the_route_decides() {
        let of = |bytes: u64| Full::new(Bytes::from(vec![0; usize::try_from(bytes).unwrap()]));
        let unknown = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, ReadBodyError>>());
        for (said, small, large, unknown_length) in [
            (Direct::Auto, false, true, true),
            (Direct::Always, true, true, true),
            (Direct::Never, false, false, false),
        ] {
            assert_eq!(is_stream_for(said, &of(LINE_BODY_BYTES_MAX as u64)), small, "{said:?}");
            assert_eq!(is_stream_for(said, &of(LINE_BODY_BYTES_MAX as u64 + 1)), large, "{said:?}");
            assert_eq!(is_stream_for(said, &unknown), unknown_length, "{said:?}");
            assert!(!is_stream_for(said, &Empty::<Bytes>::new().boxed()), "{said:?}");
        }
    }
}
