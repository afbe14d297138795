//! Tells the operator of a revision's queue that is not there, though its table names it: deleted by hand, most likely.
//! Never makes the queue: only the operator knows whether it is to be.

use std::sync::atomic::Ordering;

use funcatron_broker::link::Target;
use funcatron_broker::message::MissingQueue;
use tracing::{debug, warn};

use crate::apps::{AppPart, RevisionPart};
use crate::core::{Core, unix_ms};

/// Between two words about one queue, however many calls miss it: the reports queue is bounded, and holds others' words.
const TELL_INTERVAL_MS: u64 = 1_000;

/// Tells, unless it was told a moment ago.
pub(crate) async fn tell(core: &Core, app: &AppPart, revision: &RevisionPart) {
    let (now_ms, told_ms) = (unix_ms(), &revision.told_missing_ms);
    let last_ms = told_ms.load(Ordering::Relaxed);
    let is_due = now_ms.saturating_sub(last_ms) >= TELL_INTERVAL_MS;
    // Of those who find it due at once, one tells.
    if !is_due || told_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    let Some(session) = core.uplink.current() else { return };
    warn!(queue = %revision.queue, "a revision's queue is not there");
    let missing = MissingQueue {
        namespace: app.namespace.to_string(),
        app: app.app.to_string(),
        fn_name: revision.fn_name.to_string(),
    };
    let reports = core.tables.installation().reports_queue();
    let Ok(envelope) = missing.into_envelope() else { return };
    // What is lost here, the next call that misses the queue tells again.
    if let Err(error) = session.link.publish(Target::queue(&reports), envelope, false).await {
        debug!(%error, "the operator is not told of a missing queue");
    }
}
