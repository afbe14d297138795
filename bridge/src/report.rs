//! Tells the operator how each queue stands: at once when that changes, and now and then, in case it was lost.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Link, LinkError, Target};
use funcatron_broker::message::{BridgeReport, BridgeState};
use funcatron_broker::names::{AppNames, ExchangeName, REPORTS_KEY};
use funcatron_crds::BridgedQueue;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::BridgeConfig;
use crate::board::{Board, Verdict};

/// The operator forgets what it has not heard for a few of these.
const AGAIN: Duration = Duration::from_secs(30);

/// Who tells, and of what.
pub(crate) struct Reporter {
    names: AppNames,
    replies: ExchangeName,
    namespace: String,
    app: String,
    pod: String,
    queues: Vec<BridgedQueue>,
    board: Arc<Board>,
}

impl Reporter {
    pub(crate) fn new(config: &BridgeConfig, board: Arc<Board>) -> Self {
        let BridgeConfig { names, namespace, app, pod, queues, .. } = config.clone();
        let replies = names.installation().reply_exchange();
        Self { names, replies, namespace, app, pod, queues, board }
    }

    /// Tells over one link until that is down.
    pub(crate) async fn run(&self, link: &dyn Link) {
        let mut told: Vec<Option<Verdict>> = vec![None; self.queues.len()];
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = again.tick() => told.fill(None),
                () = self.board.changed() => {}
            }
            for ((queue, verdict), told) in self.queues.iter().zip(self.board.verdicts()).zip(&mut told) {
                if told.as_ref() == Some(&verdict) {
                    continue;
                }
                match self.tell(link, queue, verdict.clone()).await {
                    Ok(()) => *told = Some(verdict),
                    Err(error) => debug!(%error, "report not sent"),
                }
            }
        }
    }

    async fn tell(&self, link: &dyn Link, queue: &BridgedQueue, verdict: Verdict) -> Result<(), LinkError> {
        let (state, reason) = match verdict {
            Verdict::Starting => (BridgeState::Starting, None),
            Verdict::Running => (BridgeState::Running, None),
            Verdict::Trouble(why) => (BridgeState::Trouble, Some(why)),
        };
        let report = BridgeReport {
            user_id: Some(self.names.user().to_owned()),
            namespace: self.namespace.clone(),
            app: self.app.clone(),
            trigger: queue.trigger.clone(),
            configured: queue.configured.clone(),
            bridge: self.pod.clone(),
            state,
            reason,
        };
        let envelope = report.into_envelope().map_err(|error| LinkError::Unsendable(error.to_string()))?;
        link.publish(Target::exchange(&self.replies, REPORTS_KEY), envelope, false).await
    }
}
