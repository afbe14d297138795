//! Bridges' reports: believed only of the App whose broker user sent them, then remembered.

use std::time::Instant;

use funcatron_broker::link::Envelope;
use funcatron_broker::message::BridgeReport;
use funcatron_crds::BridgedQueue;
use tracing::{debug, info, warn};

use crate::context::Context;
use crate::keys::{Key, Kind, Name};
use crate::trigger::bridged::Heard;

/// What became of it, for the metrics.
pub(super) fn take(ctx: &Context, envelope: &Envelope) -> &'static str {
    let report = match BridgeReport::from_envelope(envelope) {
        Ok(report) => report,
        Err(error) => {
            debug!(%error, "dropping a bridge's report that cannot be read");
            return "unreadable";
        }
    };
    let BridgeReport { user_id, namespace, app, trigger, configured, bridge, state, reason } = report;
    let user = ctx.names(&namespace, &app).ok().map(|names| names.user().to_owned());
    if user.is_none() || user != user_id {
        warn!("dropping a bridge's report whose sender is not its App's user");
        return "forged";
    }
    let known = ctx.caches.triggers.get(&namespace, &trigger).filter(|trigger| trigger.spec.app == app);
    let Some(queue) = known.and_then(|known| BridgedQueue::of(&trigger, &known.spec)) else {
        return "unknown";
    };
    if queue.configured != configured {
        // A pod that is being replaced.
        return "stale";
    }
    let name = Name::new(namespace, trigger);
    let word = Some((state, reason));
    if ctx.memory.hear(&name, Heard { configured, word: word.clone(), at: Instant::now() }) {
        info!(trigger = %name, bridge, ?word, "bridge reported");
        ctx.queue.add(Key { kind: Kind::Trigger, name });
    }
    "taken"
}
