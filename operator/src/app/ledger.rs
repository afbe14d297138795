//! What the call ledger is told of an App: that it is there, which of its calls it wants kept and for how long, and that
//! it is gone. Told once for each change, since it waits in a durable queue.

use std::time::Duration;

use funcatron_broker::message::{AppEvent, Record};
use funcatron_broker::topology;
use funcatron_crds::{App, RecordedCalls};

use tracing::warn;

use crate::context::{Context, ReconcileError, now};
use crate::keys::Name;

/// What an App wants of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    retention_ms: Option<u64>,
    record: Record,
}

impl Wish {
    fn of(app: &App) -> Self {
        let retention = app.spec.retention.as_ref().and_then(|retention| retention.calls.as_ref());
        let retention = retention.and_then(|length| length.to_duration().ok());
        Self { retention_ms: retention.map(as_ms), record: record(app) }
    }
}

fn as_ms(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

fn record(app: &App) -> Record {
    match app.spec.record {
        Some(RecordedCalls::All) => Record::All,
        Some(RecordedCalls::Async) | None => Record::Async,
    }
}

/// Tells the ledger, unless it knows. An App serves whether or not it is told; the next look tries again.
pub(super) async fn tell(ctx: &Context, key: &Name, app: &App) {
    let wish = Wish::of(app);
    if ctx.config.ledger_url.is_none() || ctx.memory.wish_told(key) == Some(wish) {
        return;
    }
    match send(ctx, key, wish, false).await {
        Ok(()) => ctx.memory.keep_wish(key, wish),
        Err(error) => warn!(%key, %error, "the ledger is not told what the App wants kept"),
    }
}

/// Tells the ledger that the App is gone.
pub(super) async fn tell_end(ctx: &Context, key: &Name, app: &App) -> Result<(), ReconcileError> {
    ctx.memory.forget_wish(key);
    match ctx.config.ledger_url.is_some() {
        true => send(ctx, key, Wish::of(app), true).await,
        false => Ok(()),
    }
}

async fn send(ctx: &Context, key: &Name, wish: Wish, deleted: bool) -> Result<(), ReconcileError> {
    let installation = &ctx.config.installation;
    let Wish { retention_ms, record } = wish;
    let event = AppEvent {
        user_id: None,
        namespace: key.namespace.clone(),
        app: key.name.clone(),
        at_ms: u64::try_from(now().0.as_millisecond()).unwrap_or(0),
        retention_ms,
        record,
        deleted,
    };
    let envelope = event.into_envelope().map_err(ReconcileError::Message)?;
    ctx.broker.ensure(topology::ledger(installation)).await?;
    Ok(ctx.broker.publish_confirmed(&installation.ledger_queue(), envelope).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{AppRetention, AppSpec, Span};

    #[test]
    fn an_app_that_says_nothing_leaves_it_to_the_ledger() {
        let wish = Wish::of(&App::new("shop", AppSpec::default()));
        assert_eq!(wish, Wish { retention_ms: None, record: Record::Async });
    }

    #[test]
    fn what_an_app_wants_kept_is_told() {
        let retention = Some(AppRetention { calls: Some(Span::new("72h")) });
        let spec = AppSpec { retention, record: Some(RecordedCalls::All), ..AppSpec::default() };
        let wish = Wish::of(&App::new("shop", spec));
        assert_eq!(wish, Wish { retention_ms: Some(72 * 3_600_000), record: Record::All });
    }
}
