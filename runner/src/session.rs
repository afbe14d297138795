//! One broker link's life, as those see it who work over several: what is sent over it, and when it is down.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use funcatron_broker::link::{Link, LinkError, Target};
use funcatron_broker::message::{Report, ReportEvent};
use funcatron_broker::names::{AppNames, ExchangeName, QueueName, REPORTS_KEY};
use funcatron_crds::RevisionName;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::claims::Claims;
use crate::settler::Settler;

/// Who this runner is, and what it writes on everything it sends.
#[derive(Debug)]
pub(crate) struct Identity {
    pub names: AppNames,
    pub namespace: String,
    pub app: String,
    pub runner: String,
    pub replies: ExchangeName,
}

/// A link and whether it is down.
pub(crate) struct Session {
    pub link: Arc<dyn Link>,
    pub settler: Settler,
    /// This runner's own queue, for as long as the link lives.
    pub queue: QueueName,
    /// What waits for a word of the ledger's in that queue.
    pub claims: Claims,
    down: CancellationToken,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("down", &self.down.is_cancelled()).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that is down once the guard is dropped.
    pub(crate) fn new(
        identity: Arc<Identity>,
        link: Arc<dyn Link>,
        queue: QueueName,
    ) -> (Arc<Self>, DropGuard) {
        let down = CancellationToken::new();
        let settler = Settler::start(identity, Arc::clone(&link));
        let session = Arc::new(Self { link, settler, queue, claims: Claims::default(), down: down.clone() });
        (session, down.drop_guard())
    }

    /// Whether what came over it can no longer be settled.
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_cancelled()
    }

    /// Waits until it is down.
    pub(crate) async fn over(&self) {
        self.down.cancelled().await;
    }
}

/// The present session, as those see it who outlive it.
pub(crate) type Sessions = watch::Receiver<Option<Arc<Session>>>;

/// A revision in words, for logs and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub fn_name: String,
    pub revision: RevisionName,
}

/// What is to be told of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub event: ReportEvent,
    pub reason: Option<String>,
    pub log: Option<String>,
}

impl News {
    /// News that need no explanation.
    pub(crate) const fn plain(event: ReportEvent) -> Self {
        Self { event, reason: None, log: None }
    }
}

/// Sends reports over whatever session there is.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    identity: Arc<Identity>,
    sessions: Sessions,
}

impl Reporter {
    pub(crate) const fn new(identity: Arc<Identity>, sessions: Sessions) -> Self {
        Self { identity, sessions }
    }

    /// Sends one report. Without a session it is dropped: the operator asks until it has an answer.
    pub(crate) async fn report(&self, subject: &Subject, news: News) {
        let News { event, reason, log } = news;
        let reason_shown = reason.as_deref().unwrap_or_default();
        match event {
            ReportEvent::Failed | ReportEvent::KeyMissing | ReportEvent::Stuck => {
                warn!(revision = %subject.revision, ?event, reason = reason_shown, "report");
            }
            ReportEvent::Loaded | ReportEvent::Unloaded => {
                info!(revision = %subject.revision, ?event, "report")
            }
        }
        let report = Report {
            user_id: Some(self.identity.names.user().to_owned()),
            event,
            namespace: self.identity.namespace.clone(),
            app: self.identity.app.clone(),
            fn_name: subject.fn_name.clone(),
            revision: subject.revision.as_str().to_owned(),
            runner: self.identity.runner.clone(),
            reason,
            log: log.filter(|log| !log.is_empty()),
        };
        let session = self.sessions.borrow().clone();
        let Some(session) = session else { return };
        if let Err(error) = self.send(&session, report).await {
            debug!(%error, "report not sent");
        }
    }

    async fn send(&self, session: &Session, report: Report) -> Result<(), LinkError> {
        let envelope = report.into_envelope().map_err(|error| LinkError::Unsendable(error.to_string()))?;
        session.link.publish(Target::exchange(&self.identity.replies, REPORTS_KEY), envelope, false).await
    }
}

/// The time of day in Unix milliseconds, as deadlines have it.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
