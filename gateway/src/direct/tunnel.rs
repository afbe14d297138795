//! A client's connection that has switched protocols: bytes both ways between it and its runner's stream, each way no
//! faster than they are taken. Gathers nothing, and never looks at a byte.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::debug;

use crate::core::Place;
use crate::direct::answer::{AnswerBody, AnswerError};
use crate::direct::receipt::{Gone, Receipt, Sender};
use crate::direct::stream::Stream;

/// Read of a client at once: as much as goes in one frame of HTTP/2.
const READ_BYTES: usize = 16 << 10;
/// Once one side has ended, the other says its last within seconds; one that does not holds its places no longer.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);

/// Why a connection ends before both sides have ended it.
#[derive(Debug, Error)]
enum TunnelError {
    #[error("the client's connection broke")]
    Client(#[source] io::Error),
    #[error(transparent)]
    Runner(#[from] AnswerError),
    #[error("the runner takes nothing more")]
    Gone,
    #[error("one side went on for too long after the other's end")]
    Late,
}

impl From<Gone> for TunnelError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// This gateway's half of a stream that has switched.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) receipt: Receipt,
    pub(crate) stream: Arc<Stream>,
}

/// What a connection carries from its switch on. Dropped, it breaks both sides off.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) body: AnswerBody,
    pub(crate) switch: Switch,
    /// The call counts for as long as it is connected.
    pub(crate) _place: Place,
}

impl Tunnel {
    /// Carries until both sides have ended, or one is gone.
    pub(crate) async fn run(self, client: impl AsyncRead + AsyncWrite) {
        let Self { body, switch: Switch { receipt, stream }, _place } = self;
        let (reading, writing) = tokio::io::split(client);
        let up = to_runner(reading, receipt.carry(), &stream);
        if let Err(error) = both(up, to_client(body, writing)).await {
            debug!(%error, "a switched connection broke off");
        }
    }
}

async fn to_runner(client: impl AsyncRead, runner: Sender, stream: &Stream) -> Result<(), TunnelError> {
    let (mut client, mut buffer) = (pin!(client), BytesMut::new());
    loop {
        buffer.reserve(READ_BYTES);
        let read = tokio::select! {
            biased;
            () = runner.gone() => return Err(TunnelError::Gone),
            read = client.read_buf(&mut buffer) => read.map_err(TunnelError::Client)?,
        };
        stream.moved();
        if read == 0 {
            return Ok(runner.end().await?);
        }
        runner.send(buffer.split().freeze()).await?;
    }
}

async fn to_client(mut runner: AnswerBody, client: impl AsyncWrite) -> Result<(), TunnelError> {
    let mut client = pin!(client);
    while let Some(frame) = runner.frame().await {
        if let Ok(data) = frame?.into_data() {
            client.write_all(&data).await.map_err(TunnelError::Client)?;
        }
    }
    client.shutdown().await.map_err(TunnelError::Client)
}

/// Both ways, until both have ended. One that breaks takes the other along; one that ends gives it a while.
async fn both(
    one: impl Future<Output = Result<(), TunnelError>>,
    other: impl Future<Output = Result<(), TunnelError>>,
) -> Result<(), TunnelError> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let rest = tokio::select! {
        ended = &mut one => {
            ended?;
            timeout(HALF_CLOSED_MAX, other).await
        }
        ended = &mut other => {
            ended?;
            timeout(HALF_CLOSED_MAX, one).await
        }
    };
    rest.unwrap_or(Err(TunnelError::Late))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_side_outlives_the_others_end_for_a_while_and_its_break_not_at_all() {
        let began = Instant::now();
        assert!(matches!(both(ready(Ok(())), pending()).await, Err(TunnelError::Late)));
        assert!(matches!(both(pending(), ready(Ok(()))).await, Err(TunnelError::Late)));
        assert_eq!(began.elapsed(), HALF_CLOSED_MAX * 2);
        assert!(matches!(both(pending(), ready(Err(TunnelError::Gone))).await, Err(TunnelError::Gone)));
        assert!(matches!(both(ready(Err(TunnelError::Gone)), pending()).await, Err(TunnelError::Gone)));
        assert_eq!(began.elapsed(), HALF_CLOSED_MAX * 2);
        assert!(both(ready(Ok(())), ready(Ok(()))).await.is_ok());
    }
}
