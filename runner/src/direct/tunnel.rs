//! A function's connection that has switched protocols: bytes both ways between it and the gateway's stream, each way no
//! faster than they are taken. Gathers nothing, and never looks at a byte.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use funcatron_broker::message::AnswerHead;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::outgoing::{Gone, Sender};
use super::{DirectCall, IDLE_MAX, Met, Open, failed};
use crate::attempted::{Attempted, judge};
use crate::http_stream::body::{BrokenOff, Inflow};
use crate::http_stream::contract::Contract;
use crate::http_stream::endpoint::Stream;
use crate::http_stream::switched::Switched;
use crate::instance::Death;

/// Read of the function at once: as much as goes in one frame of HTTP/2.
const READ_BYTES: usize = 16 << 10;
/// Once one side has ended, the other says its last within seconds; one that does not holds its slot no longer.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);

/// Why a connection ends before both sides have ended it.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("the client takes nothing more")]
    Gone,
    #[error("the client's side broke off")]
    Client(#[from] BrokenOff),
    #[error("the function's connection broke")]
    Function(#[source] io::Error),
    #[error("the function's process ended")]
    Died(Death),
    #[error("nothing moved for too long")]
    Idle,
    #[error("one side went on for too long after the other's end")]
    Late,
}

impl From<Gone> for TunnelError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// What a function sent when it switched.
struct Begun {
    /// Its answer's head, as the gateway reads it.
    head: Bytes,
    /// The first bytes of the new protocol.
    first: Bytes,
}

impl DirectCall<'_> {
    /// Carries a connection that has switched protocols, for as long as it lives.
    pub(super) async fn tunnel(&self, switched: Switched, open: Option<Open>) -> Met {
        let Some(open) = open else { return failed("there is no stream to go on in") };
        let (head, function, first) = match switched.into_parts().await {
            Ok(parts) => parts,
            Err(error) => return Met::Reply(judge(self.instance, Err(error)).await),
        };
        let headers = match Contract::switched(head.headers) {
            Ok(headers) => headers,
            Err(why) => {
                self.instance.talked_nonsense(why);
                return failed(why);
            }
        };
        let head = AnswerHead { status: StatusCode::SWITCHING_PROTOCOLS, headers };
        let begun = match head.to_bytes() {
            Ok(head) => Begun { head, first },
            Err(error) => return failed(format!("the function's answer cannot be carried: {error}")),
        };
        match self.carry(begun, function, open).await {
            Ok(()) => Met::Settled,
            Err(TunnelError::Died(death)) => Met::Reply(Attempted::died(death)),
            // The gateway waits no more, unless the head was lost with the stream.
            Err(error) => {
                debug!(call = %self.id, %error, "a switched connection broke off");
                failed(error.to_string())
            }
        }
    }

    async fn carry(&self, begun: Begun, function: Stream, open: Open) -> Result<(), TunnelError> {
        let Open { sender, inflow, _lease } = open;
        let (reading, writing) = tokio::io::split(function);
        let carrying = async {
            sender.send(begun.head).await?;
            let down = to_gateway(begun.first, reading, sender, &inflow);
            both(down, to_function(&inflow, writing)).await
        };
        tokio::select! {
            biased;
            carried = carrying => carried,
            death = self.instance.died() => Err(TunnelError::Died(death)),
            () = inflow.idle(IDLE_MAX) => Err(TunnelError::Idle),
        }
    }
}

async fn to_gateway(
    first: Bytes,
    function: impl AsyncRead,
    gateway: Sender,
    inflow: &Inflow,
) -> Result<(), TunnelError> {
    let (mut function, mut buffer) = (pin!(function), BytesMut::new());
    if !first.is_empty() {
        gateway.send(first).await?;
    }
    loop {
        buffer.reserve(READ_BYTES);
        let read = tokio::select! {
            biased;
            () = gateway.gone() => return Err(TunnelError::Gone),
            read = function.read_buf(&mut buffer) => read.map_err(TunnelError::Function)?,
        };
        inflow.moved();
        if read == 0 {
            return Ok(gateway.end().await?);
        }
        gateway.send(buffer.split().freeze()).await?;
    }
}

async fn to_function(inflow: &Inflow, function: impl AsyncWrite) -> Result<(), TunnelError> {
    let mut function = pin!(function);
    while let Some(piece) = inflow.next().await {
        function.write_all(&piece?).await.map_err(TunnelError::Function)?;
    }
    function.shutdown().await.map_err(TunnelError::Function)
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
        assert!(matches!(both(pending(), ready(Err(TunnelError::Idle))).await, Err(TunnelError::Idle)));
        assert!(matches!(both(ready(Err(TunnelError::Gone)), pending()).await, Err(TunnelError::Gone)));
        assert_eq!(began.elapsed(), HALF_CLOSED_MAX * 2);
        assert!(both(ready(Ok(())), ready(Ok(()))).await.is_ok());
    }
}
