//! Lines: connections on which runners send replies past the broker, many at a time, and fetch small requests' bodies.
//!
//! A line is its App's: it is opened with the token of one of the App's calls, and what comes over it counts as sent by
//! the App's user, exactly as if the broker had checked that.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use funcatron_broker::message::{
    FrameError, FromRunner, LINE_PATH, LINE_PROTOCOL, put_body, put_taken, take_from_runner,
};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Response, StatusCode, Version, request};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::core::{Core, Count};
use crate::direct::shown;
use crate::handover::Handover;
use crate::pending::{Lender, OpenError};
use crate::problem::Problem;
use crate::response::ResponseBody;

/// Read at once: as many small replies as come together, and what an idle line holds.
const READ_BYTES: usize = 16 << 10;
/// Written together, but for the body that goes beyond it.
const SAID_BYTES: usize = 128 << 10;
/// A line on which nothing came for this long, and at most for twice as long, is closed; its runner opens another.
const IDLE: Duration = Duration::from_secs(300);

/// Why a line ends before its runner ends it.
#[derive(Debug, Error)]
enum LineError {
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A line that was opened with a right token.
pub(crate) struct Line {
    core: Arc<Core>,
    user: Arc<str>,
    /// Its places among all lines and among its App's.
    _places: [Count; 2],
}

/// Whether a request on the internal listener is a runner's for a line.
pub(crate) fn is_line(head: &request::Parts) -> bool {
    head.uri.path().starts_with(LINE_PATH)
}

/// Opens a line for the App of the call that it names.
pub(crate) fn open(core: &Arc<Core>, head: &request::Parts) -> Result<Response<ResponseBody>, Problem> {
    check(head)?;
    let limits = &core.config.limits;
    let place = Count::up(&core.lines, limits.lines_max).ok_or(Problem::GatewayBusy)?;
    let lent = shown(head, LINE_PATH).ok_or(OpenError::Void);
    let lent = lent.and_then(|(id, token)| core.pending.lend_line(id, token, limits.app_lines_max));
    let Lender { user, place: of_app } = lent.map_err(|error| match error {
        OpenError::Void => {
            core.metrics.lines_refused.inc();
            Problem::Forbidden("no call waits that has this token".to_owned())
        }
        OpenError::Busy => Problem::GatewayBusy,
    })?;
    core.metrics.lines_opened.inc();
    let line = Line { core: Arc::clone(core), user, _places: [place, of_app] };
    let mut response = Response::new(ResponseBody::Handover(Box::new(Handover::Line(line))));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(LINE_PROTOCOL));
    Ok(response)
}

fn check(head: &request::Parts) -> Result<(), Problem> {
    if head.method != Method::GET {
        return Err(Problem::MethodNotAllowed(Method::GET.to_string()));
    }
    let asked = head.headers.get(UPGRADE).is_some_and(|protocol| protocol == LINE_PROTOCOL);
    if head.version != Version::HTTP_11 || !asked {
        return Err(Problem::BadRequest("a line needs HTTP/1.1 and an upgrade to funcatron-line"));
    }
    Ok(())
}

impl Line {
    /// Takes replies until the runner ends it, or the drain begins: what was not taken then comes through the broker.
    pub(crate) async fn run(self, runner: impl AsyncRead + AsyncWrite + Unpin, drain: &CancellationToken) {
        if let Some(Err(error)) = drain.run_until_cancelled(self.take(runner)).await {
            debug!(user = %self.user, %error, "a line broke off");
        }
    }

    async fn take(&self, mut runner: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), LineError> {
        let (mut bytes, mut said, mut count) = (BytesMut::new(), BytesMut::new(), 0_u64);
        let (mut looks, mut has_moved) = (interval(IDLE), true);
        loop {
            bytes.reserve(READ_BYTES);
            let read = tokio::select! {
                biased;
                read = runner.read_buf(&mut bytes) => read?,
                _ = looks.tick() => {
                    if !std::mem::replace(&mut has_moved, false) {
                        return Ok(());
                    }
                    continue;
                }
            };
            if read == 0 {
                return Ok(());
            }
            has_moved = true;
            let before = count;
            while let Some(frame) = take_from_runner(&mut bytes, &self.user)? {
                match frame {
                    FromRunner::Reply(reply) => {
                        count += 1;
                        self.core.metrics.reply(self.core.pending.settle(reply));
                    }
                    FromRunner::Want(id, token) => {
                        let body = self.core.pending.body(id.uuid(), token, &self.user);
                        put_body(id, body.as_ref(), &mut said);
                    }
                }
                if said.len() >= SAID_BYTES {
                    runner.write_all_buf(&mut said).await?;
                }
            }
            if count > before {
                put_taken(count, &mut said);
            }
            if !said.is_empty() {
                runner.write_all_buf(&mut said).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use funcatron_broker::names::Installation;
    use funcatron_crds::address::SigningKey;
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::config::{GatewayConfig, HostPolicy, Limits};
    use crate::{MemoryBundles, TableStore};

    /// Short of the time in which something must come.
    const IN_TIME: Duration = Duration::from_secs(299);

    fn core() -> Arc<Core> {
        let nowhere = ([127, 0, 0, 1], 0).into();
        let config = GatewayConfig {
            public: nowhere,
            internal: nowhere,
            ops: nowhere,
            gateway_hostname: String::new(),
            internal_base: String::new(),
            direct_at: String::new(),
            ledger_url: None,
            signing_key: SigningKey::new(&[7; 32]).unwrap(),
            serve_by_host: HostPolicy::Strict,
            limits: Limits::default(),
        };
        let installation = Installation::parse("test").unwrap();
        let tables = Arc::new(TableStore::new(&installation, config.own_host()));
        Core::new(Arc::new(config), tables, Arc::new(MemoryBundles::default())).0
    }

    /// The runner's end of a line, and what carries it on.
    fn line(core: &Arc<Core>, drain: CancellationToken) -> (DuplexStream, JoinHandle<()>) {
        let (runner, gateway) = duplex(1024);
        let places = [&core.lines; 2].map(|count| Count::up(count, usize::MAX).unwrap());
        let line = Line { core: Arc::clone(core), user: "test.team-a.shop".into(), _places: places };
        (runner, tokio::spawn(async move { line.run(gateway, &drain).await }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_in_use_stays_open_and_a_silent_one_is_closed() {
        let core = core();
        let (mut runner, running) = line(&core, CancellationToken::new());
        for count in 1..=10 {
            sleep(IN_TIME).await;
            // A reply without anything in it, which is taken for what it is.
            runner.write_all(&[1, 0, 0, 0, 0]).await.unwrap();
            assert_eq!((runner.read_u8().await.unwrap(), runner.read_u64().await.unwrap()), (3, count));
        }
        assert!(!running.is_finished());
        let silent = Instant::now();
        assert_eq!(runner.read(&mut [0; 8]).await.unwrap(), 0, "it says nothing, and ends");
        assert!((IDLE / 2..=IDLE * 2).contains(&silent.elapsed()), "{:?}", silent.elapsed());
        running.await.unwrap();
        assert_eq!(core.lines.load(std::sync::atomic::Ordering::Relaxed), 0, "its places are free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_that_hears_nothing_ends_with_the_drain() {
        let (core, drain) = (core(), CancellationToken::new());
        let (mut runner, running) = line(&core, drain.clone());
        let record = [1, 0, 0, 0, 0];
        // Until the words that it does not read fill the connection, and then its own replies.
        while tokio::time::timeout(IN_TIME, runner.write_all(&record)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!running.is_finished());
        drain.cancel();
        running.await.unwrap();
    }
}
