//! Objects for runners, by signed addresses, as bundles are: passed on from the ledger, which tenants' pods do not reach.
//! Never hands out anything that its address was not signed for, and never buffers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use funcatron_crds::address::OBJECTS_PATH;
use funcatron_crds::{ObjectAct, ObjectOf};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, request};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tracing::debug;

use super::places;
use crate::core::{Core, Count, unix_ms};
use crate::problem::Problem;
use crate::resolve::SignedAddress;
use crate::response::ResponseBody;

/// Whether a request on the internal listener is for an object.
pub(crate) fn is_object(head: &request::Parts) -> bool {
    head.uri.path().starts_with(OBJECTS_PATH)
}

/// An object on its way to a runner, and the places that it holds.
pub(crate) struct ObjectBody {
    body: Incoming,
    _places: [Count; 2],
}

/// Hands out an object.
pub(crate) async fn fetch(core: &Core, head: &request::Parts) -> Result<Response<ResponseBody>, Problem> {
    let objects = core.objects.as_ref().ok_or(Problem::NoRoute)?;
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        return Err(Problem::MethodNotAllowed("GET, HEAD".to_owned()));
    }
    let address = SignedAddress::parse(OBJECTS_PATH, head.uri.path(), head.uri.query().unwrap_or_default());
    let SignedAddress { namespace, app, name, expires_s, signature } = address.ok_or(Problem::NoRoute)?;
    let (of, now_s) = (ObjectOf { namespace, app, call: name }, unix_ms() / 1000);
    let verified = objects.key().verify_object(ObjectAct::Get, of, expires_s, signature, now_s);
    verified.map_err(|error| Problem::Forbidden(error.to_string()))?;
    let places = places(core, &*core.tables.app(namespace, app).ok_or(Problem::NoApp)?)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let found = objects.get(head.method.clone(), path).await.map_err(|error| {
        debug!(%error, "the object store does not answer");
        Problem::ObjectsAway
    })?;
    let (parts, body) = found.into_parts();
    match parts.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Problem::NoObject),
        StatusCode::FORBIDDEN => {
            return Err(Problem::Forbidden("the ledger refuses this address".to_owned()));
        }
        _ => return Err(Problem::ObjectsAway),
    }
    let body = ResponseBody::Object(Box::new(ObjectBody { body, _places: places }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(length) = parts.headers.get(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, length.clone());
    }
    Ok(response)
}

impl Body for ObjectBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
