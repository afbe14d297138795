//! A running function process as calls see it, and the phases of bringing one up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::message::CallId;
use futures::future::BoxFuture;
use http::Request;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::Endpoint;
use crate::http_stream::body::RequestBody;
use crate::http_stream::client::{Connection, ExchangeError, Exchanged, Keep, Pool};
use crate::http_stream::contract::Contract;
use crate::http_stream::socket::ConnectError;
use crate::session::News;

/// An exchange that may outlive its call.
pub(crate) type Exchange = BoxFuture<'static, Result<Exchanged, ExchangeError>>;

/// How a function process broke the contract.
pub(crate) enum Breakage {
    /// It did not answer in time. The exchange goes on: its end tells that the function lives.
    Hung(Exchange),
    /// It answered what is no answer.
    Nonsense(String),
    /// Its connection broke, or could not be made.
    Broken(String),
}

impl fmt::Debug for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung(_) => f.write_str("hung"),
            Self::Nonsense(why) => write!(f, "nonsense: {why}"),
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

/// What ended a function process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Its own doing, or this runner's.
    Own,
    /// Its host ended, and took along what it ran.
    WithHost,
}

/// A host kills and reaps within milliseconds; one that takes longer keeps what a function had written to itself.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);

/// What calls had written that ran when their process ended, by call.
pub(crate) type LastWords = BTreeMap<String, String>;

/// One function process that listens.
#[derive(Debug)]
pub(crate) struct Instance {
    pool: Arc<Pool>,
    condemned: CancellationToken,
    /// Nothing while it lives.
    dead: watch::Sender<Option<Death>>,
    breakage: mpsc::Sender<Breakage>,
    /// Absent, where no host tells what its calls write.
    last_words: Option<watch::Sender<Option<LastWords>>>,
}

impl Instance {
    /// A process that has come up at `endpoint`; the first breakage of it comes out of the receiver.
    pub(crate) fn new(
        endpoint: Endpoint,
        concurrency: u16,
        tells_logs: bool,
    ) -> (Arc<Self>, mpsc::Receiver<Breakage>) {
        // One breakage ends an instance: there is room for one.
        let (breakage, breakages) = mpsc::channel(1);
        let (condemned, dead) = (CancellationToken::new(), watch::Sender::new(None));
        let pool = Pool::new(endpoint, usize::from(concurrency));
        let last_words = tells_logs.then(|| watch::Sender::new(None));
        (Arc::new(Self { pool, condemned, dead, breakage, last_words }), breakages)
    }

    /// What it speaks.
    pub(crate) fn contract(&self) -> Contract {
        self.pool.endpoint().contract()
    }

    /// A connection to send one request on. Where this fails, nothing was sent.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectError> {
        self.pool.connect().await
    }

    /// Sends a request. The exchange owns what it needs.
    pub(crate) fn exchange(
        &self,
        connection: Connection,
        request: Request<RequestBody>,
        keep: Keep,
    ) -> Exchange {
        Box::pin(Arc::clone(&self.pool).exchange(connection, request, keep))
    }

    /// No further call starts here.
    pub(crate) fn condemn(&self, breakage: Breakage) {
        self.condemned.cancel();
        // A second breakage says nothing new.
        let _ = self.breakage.try_send(breakage);
    }

    /// It let a call's time pass. A plain server is told by the end of the call's connection, and serves on.
    pub(crate) fn overran(&self, exchange: Exchange) {
        if self.contract().is_kept_by_the_process() {
            self.condemn(Breakage::Hung(exchange));
        }
    }

    /// It answered what is no answer. A plain server may have done so for one request alone.
    pub(crate) fn talked_nonsense(&self, why: &str) {
        if self.contract().is_kept_by_the_process() {
            self.condemn(Breakage::Nonsense(why.to_owned()));
        } else {
            debug!(why, "a function's answer makes no sense");
        }
    }

    /// Whether a call may start here.
    pub(crate) fn takes_calls(&self) -> bool {
        !self.condemned.is_cancelled() && self.dead.borrow().is_none()
    }

    /// The process is gone, or about to be killed: what runs there will not end.
    pub(crate) fn bury(&self, death: Death) {
        self.dead.send_replace(Some(death));
    }

    /// Whether its host tells what its calls write.
    pub(crate) fn tells_logs(&self) -> bool {
        self.last_words.is_some()
    }

    /// The process is gone, and this is what its calls had written.
    pub(crate) fn leave(&self, words: LastWords) {
        if let Some(last_words) = &self.last_words {
            last_words.send_replace(Some(words));
        }
    }

    /// What a call had written when its process ended, as far as its host says so in time.
    pub(crate) async fn last_words(&self, id: CallId) -> Option<String> {
        let mut told = self.last_words.as_ref()?.subscribe();
        let told = tokio::time::timeout(LAST_WORDS_WAIT, told.wait_for(Option::is_some)).await;
        told.ok()?.ok()?.as_ref()?.get(&id.to_string()).cloned()
    }

    /// Resolves once the process is gone.
    pub(crate) async fn died(&self) -> Death {
        let mut dead = self.dead.subscribe();
        let died = dead.wait_for(Option::is_some).await;
        // The sender lives as long as this instance.
        died.ok().and_then(|death| *death).unwrap_or(Death::Own)
    }
}

/// How far a revision has come up.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Not yet, or not again.
    Starting,
    /// It takes calls.
    Up(Arc<Instance>),
    /// It will not come up here: why, as it was reported.
    Failed(News),
}

impl Phase {
    /// The process to call, if there is one that takes calls.
    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        match self {
            Self::Up(instance) if instance.takes_calls() => Some(instance),
            _ => None,
        }
    }
}

/// How far a revision has come up, as those see it who wait for it.
pub(crate) type Phases = watch::Receiver<Phase>;
