//! Bodies of calls that nobody waits for: into the message, or where it carries no such body into the object store.
//! Never holds more of one than a message carries.

mod fetch;
mod outflow;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use funcatron_broker::message::SpilledBody;
use funcatron_crds::Digest;
use http::Version;
use hyper::body::{Body as _, Incoming};
use tracing::debug;
use uuid::Uuid;

use crate::apps::AppPart;
use crate::body::{self, Filled, MESSAGE_BODY_BYTES_MAX, Share};
use crate::core::{Core, Count};
use crate::direct::Received;
use crate::problem::Problem;
use crate::submission::{Destination, Payload};

pub(crate) use fetch::{ObjectBody, fetch, is_object};
pub(crate) use store::Objects;

use outflow::{Outflow, Progress};
use store::Object;

/// A body in the object store, as long as its call is not accepted: dropped before, it is taken away again.
#[derive(Debug)]
pub(crate) struct Spilled {
    object: Object,
    objects: Arc<Objects>,
    digest: Digest,
    size: u64,
    /// Its first bytes, for the ledger.
    first: Bytes,
    is_kept: bool,
}

impl Spilled {
    /// What the call's message says of it; it may be fetched for as long as the call may run.
    pub(crate) fn to_message(&self, deadline_ms: u64) -> SpilledBody {
        let at = self.objects.address(&self.object, deadline_ms);
        SpilledBody { digest: self.digest.to_string(), size: self.size, at }
    }

    /// Its first bytes.
    pub(crate) fn first(&self) -> &Bytes {
        &self.first
    }

    /// Its call is in its queue, or may be.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Spilled {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (objects, object) = (Arc::clone(&self.objects), self.object.clone());
        tokio::spawn(async move {
            if let Err(error) = objects.delete(&object).await {
                debug!(%error, call = %object.call, "the ledger takes away the body of a call that was not accepted");
            }
        });
    }
}

/// Takes the body of a call that nobody waits for.
pub(crate) async fn receive(
    core: &Core,
    to: &Destination,
    id: Uuid,
    version: Version,
    mut body: Incoming,
) -> Result<Received, Problem> {
    let limit = to.app.body_bytes_max;
    let declared = body.size_hint().lower();
    if declared > limit {
        return Err(Problem::BodyTooLarge(limit));
    }
    let in_message = core.config.limits.message_body_bytes_max.min(MESSAGE_BODY_BYTES_MAX).min(limit);
    let mut first = (Bytes::new(), Share::none(&core.budget));
    if declared <= in_message {
        let filled = body::fill(&mut body, in_message, &core.budget, core.body_times()).await;
        match filled.map_err(|error| Problem::unread(&error))? {
            Filled::Whole(body, share) => {
                return Ok(Received { payload: Payload::Message(body), _share: share });
            }
            Filled::More(bytes, share) => first = (bytes, share),
        }
    }
    if limit == in_message {
        return Err(Problem::BodyTooLarge(limit));
    }
    let objects = core.objects.as_ref().ok_or(Problem::NoObjectStore(in_message))?;
    let _places = places(core, &to.app)?;
    let object = Object { namespace: to.app.namespace.to_string(), app: to.app.app.to_string(), call: id };
    let (first, _share) = first;
    let spilled =
        put(core, objects, object, Outflow::new(first, body, version, limit, core.body_times())).await?;
    Ok(Received { payload: Payload::Spilled(spilled), _share: Share::none(&core.budget) })
}

/// A place of those for streams: like one it holds a connection and what is on its way.
fn places(core: &Core, app: &AppPart) -> Result<[Count; 2], Problem> {
    let place = core.enter_stream().ok_or(Problem::GatewayBusy)?;
    let of_app = Count::up(&app.counts.streams, core.config.limits.app_streams_max);
    Ok([place, of_app.ok_or(Problem::TenantBusy("App"))?])
}

async fn put(
    core: &Core,
    objects: &Arc<Objects>,
    object: Object,
    (outflow, progress): (Outflow, Progress),
) -> Result<Spilled, Problem> {
    let put = objects.put(&object, outflow, &progress).await;
    if let Some(error) = progress.broken() {
        return Err(Problem::unread(&error));
    }
    put.map_err(|error| {
        debug!(%error, call = %object.call, "a body was not put into the object store");
        Problem::from(error)
    })?;
    let Some((digest, size, first)) = progress.whole() else { return Err(Problem::ObjectsAway) };
    core.metrics.spilled.inc();
    Ok(Spilled { object, objects: Arc::clone(objects), digest, size, first, is_kept: false })
}
