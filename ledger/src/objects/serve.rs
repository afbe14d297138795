//! Objects over HTTP, for gateways: each request bears a signed address. Never believes a length, a name or a time that
//! the signature does not cover.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use funcatron_crds::ObjectAct;
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{ObjectError, ObjectName, Objects};
use crate::api::problem::Problem;
use crate::clock::now_ms;
use crate::core::Core;

/// S3 wants parts of 5 MiB at least and 10,000 at most.
const PART_BYTES: usize = 8 << 20;
/// A gateway waits for its client 20 s, and breaks off.
const IDLE_MAX: Duration = Duration::from_secs(60);

type Shared = State<Arc<Core>>;
type OfObject = Path<(String, String, String)>;

/// What an address says besides its path.
#[derive(Deserialize)]
struct Signed {
    expires: u64,
    signature: String,
}

/// All that is served of objects.
pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/objects/{namespace}/{app}/{call}", get(read).put(write).delete(remove))
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .with_state(core)
}

/// The object that an address opens.
fn opened<'a>(
    core: &'a Core,
    act: ObjectAct,
    (namespace, app, call): &(String, String, String),
    request: &Parts,
) -> Result<(&'a Objects, ObjectName), Problem> {
    let objects = core.objects.as_ref().ok_or(Problem::NoRoute)?;
    let id = call.parse().map_err(|_| Problem::NoRoute)?;
    let name = ObjectName::new(&core.installation, namespace, app, id).ok_or(Problem::NoRoute)?;
    let Query(Signed { expires, signature }) =
        Query::try_from_uri(&request.uri).map_err(|_| Problem::NotSigned("it is not signed".to_owned()))?;
    let call = name.id().to_string();
    let verified = objects.key.verify_object(act, name.of(&call), expires, &signature, now_ms() / 1000);
    verified.map_err(|error| Problem::NotSigned(error.to_string()))?;
    Ok((objects, name))
}

async fn write(
    State(core): Shared,
    Path(of): OfObject,
    request: Parts,
    body: Body,
) -> Result<StatusCode, Problem> {
    let (objects, name) = opened(&core, ObjectAct::Put, &of, &request)?;
    let permit = Arc::clone(&objects.writes).try_acquire_owned().map_err(|_| Problem::Busy)?;
    let declared = length(&request.headers);
    // A task of its own: a gateway that leaves would else leave a part of the body behind.
    let writing = core.tasks.clone().spawn(async move {
        let _permit = permit;
        write_whole(&core, &name, declared, body.into_data_stream()).await
    });
    writing.await.unwrap_or(Err(Problem::ObjectsAway)).map(|()| StatusCode::CREATED)
}

async fn write_whole(
    core: &Core,
    name: &ObjectName,
    declared: u64,
    body: BodyDataStream,
) -> Result<(), Problem> {
    let objects = core.objects.as_ref().ok_or(Problem::NoRoute)?;
    let written = objects.put(name, declared, body).await;
    if written.is_err()
        && let Err(error) = objects.delete(name).await
    {
        debug!(%error, call = %name.id(), "the sweep takes away what is left of a body");
    }
    let bytes = written?;
    debug!(call = %name.id(), bytes, "keeping a body");
    core.metrics.objects_written.inc();
    Ok(())
}

fn length(headers: &HeaderMap) -> u64 {
    headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

impl Objects {
    /// Writes an object as it comes; says how long it was.
    async fn put(&self, name: &ObjectName, declared: u64, body: BodyDataStream) -> Result<u64, ObjectError> {
        self.reserve(name, declared, self.room()).await?;
        let mut upload = self.store.put_multipart(&name.path(&self.prefix)).await?;
        let written = match self.put_parts(&mut *upload, name, declared, body).await {
            Ok(written) => match upload.complete().await {
                Ok(_) => return Ok(written),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = upload.abort().await {
            warn!(%error, call = %name.id(), "could not take back what was written of a body");
        }
        written
    }

    async fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        name: &ObjectName,
        declared: u64,
        mut body: BodyDataStream,
    ) -> Result<u64, ObjectError> {
        let (mut written, mut part) = (0, BytesMut::new());
        loop {
            let piece = timeout(IDLE_MAX, body.next()).await.map_err(|_| ObjectError::BrokenOff)?;
            let piece = piece.transpose().map_err(|_| ObjectError::BrokenOff)?;
            let is_last = piece.is_none();
            part.extend_from_slice(&piece.unwrap_or_default());
            while part.len() >= PART_BYTES || (is_last && !part.is_empty()) {
                let bytes = part.split_to(part.len().min(PART_BYTES)).freeze();
                written += bytes.len() as u64;
                if written > declared {
                    self.reserve(name, written, self.room()).await?;
                }
                upload.put_part(PutPayload::from_bytes(bytes)).await?;
            }
            if is_last {
                return Ok(written);
            }
        }
    }
}

async fn read(State(core): Shared, Path(of): OfObject, request: Parts) -> Result<Response, Problem> {
    let (objects, name) = opened(&core, ObjectAct::Get, &of, &request)?;
    let path = name.path(&objects.prefix);
    let (size, body) = if request.method == Method::HEAD {
        let found = objects.store.head(&path).await.map_err(ObjectError::from)?;
        (found.size, Body::empty())
    } else {
        let permit = Arc::clone(&objects.reads).try_acquire_owned().map_err(|_| Problem::Busy)?;
        let found = objects.store.get(&path).await.map_err(ObjectError::from)?;
        (found.meta.size, held(found.into_stream(), permit))
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    Ok(response)
}

/// A body that holds its place among those that are read until it is over.
fn held(
    pieces: impl futures::Stream<Item = object_store::Result<Bytes>> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> Body {
    Body::from_stream(pieces.map(move |piece| {
        let _permit = &permit;
        piece
    }))
}

async fn remove(State(core): Shared, Path(of): OfObject, request: Parts) -> Result<StatusCode, Problem> {
    let (objects, name) = opened(&core, ObjectAct::Delete, &of, &request)?;
    objects.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<ObjectError> for Problem {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Full => Self::ObjectsFull,
            ObjectError::TooLarge(bytes_max) => Self::ObjectTooLarge(bytes_max),
            ObjectError::BrokenOff => Self::BadRequest("the body broke off".to_owned()),
            ObjectError::Rows(error) => error.into(),
            ObjectError::Store(object_store::Error::NotFound { .. }) => Self::NoObject,
            ObjectError::Store(error) => {
                warn!(error = &error as &dyn std::error::Error, "the object store failed");
                Self::ObjectsAway
            }
        }
    }
}
