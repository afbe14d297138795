//! Asks shared runners to load a revision, until one of them reports. Dedicated runners need no asking.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use funcatron_broker::message::{Wake, WakeKind};
use funcatron_crds::Digest;
use kube::ResourceExt;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::decide::Ask;
use super::observe::Observed;
use crate::context::{Context, ReconcileError};
use crate::keys::Name;
use crate::objects::revisions::Stored;

/// How long a wake's addresses may be fetched: a wake lives 30 s at most, and a slow load may need its code twice.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(600);

/// Sends a `load` if one is due; says when to look again.
pub(super) async fn ask(ctx: &Context, key: &Name, observed: &Observed, latest: &Stored) -> Option<Duration> {
    let runtime = latest.record.runtime.as_deref()?;
    let now = Instant::now();
    let due = ctx.memory.with_fn(key, |memory| memory.load(&latest.name).map(|load| load.ask(now)))?;
    let interval = match due {
        Ask::Never => return None,
        Ask::In(wait) => return Some(wait),
        Ask::Now(interval) => interval,
    };
    // A new link reconciles everything, so its absence needs no look again.
    if !ctx.broker.is_up() {
        return None;
    }
    if let Err(error) = send(ctx, key, observed.durable, latest, runtime, interval).await {
        warn!(%key, revision = %latest.name, %error, "cannot ask for a load");
    } else {
        debug!(%key, revision = %latest.name, "asked for a load");
    }
    ctx.memory.with_fn(key, |memory| memory.load(&latest.name).map(|load| load.asked(now)));
    Some(interval)
}

/// Sends one `load`, which lives until the next is due.
pub(crate) async fn send(
    ctx: &Context,
    key: &Name,
    durable: bool,
    latest: &Stored,
    runtime: &str,
    interval: Duration,
) -> Result<(), ReconcileError> {
    let Stored { name, number: _, record } = latest;
    let names = ctx.names(&key.namespace, &record.app)?;
    let address = |digest: &Digest| {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + ADDRESS_LIFETIME;
        let base = &ctx.config.gateway_internal_url;
        ctx.config.signing_key.bundle_url(base, &key.namespace, &record.app, digest, expires.as_secs())
    };
    let wake = Wake {
        kind: WakeKind::Load,
        namespace: key.namespace.clone(),
        app: record.app.clone(),
        fn_name: key.name.clone(),
        revision: name.as_str().to_owned(),
        run: record.run.as_str().to_owned(),
        run_url: address(&record.run),
        code: record.code.as_ref().map(|code| code.as_str().to_owned()),
        code_url: record.code.as_ref().map(address),
        queue: names.revision_queue(name.as_str())?.as_str().to_owned(),
        durable_queue: match durable {
            true => Some(names.durable_queue(&key.name)?.as_str().to_owned()),
            false => None,
        },
    };
    let expiration_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    // Names and digests are far below a message's bounds.
    let Ok(envelope) = wake.into_envelope(expiration_ms) else { return Ok(()) };
    ctx.broker.ensure(funcatron_broker::topology::wake(&names, runtime)?).await?;
    ctx.broker.publish(&names.wake_queue(runtime)?, envelope).await?;
    Ok(())
}

/// The revision that serves a Fn, where shared runners host it: what a durable queue with nobody at it asks for.
pub(crate) fn served_by_shared(ctx: &Context, key: &Name) -> Option<(Stored, String)> {
    let function = ctx.caches.fns.get(&key.namespace, &key.name)?;
    let revision = ctx.memory.with_known_fn(key, |memory| memory.serving.clone()).flatten().flatten()?;
    let object = ctx.caches.revisions.get(&function.namespace()?, revision.as_str())?;
    let stored = crate::objects::revisions::read(&object)?;
    let runtime = stored.record.runtime.clone()?;
    Some((stored, runtime))
}
