//! This gateway's half of a stream whose request's body was in the message: empty, and open until the answer has been
//! read. Its end is what a runner waits for that is about to leave. Once the stream has switched protocols, the half is
//! what the client sends from then on.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait: one, since what the runner does not take is not to be read from the client.
const WAITING_MAX: usize = 1;

/// The half ends before its end.
#[derive(Debug, Error)]
#[error("the answer was not read to its end, or the client broke off what it sent")]
pub(crate) struct Unread;

/// Nobody takes the half any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// Held by whoever reads the answer; dropped, the half is broken off.
#[derive(Debug)]
pub(crate) struct Receipt(oneshot::Sender<Given>);

#[derive(Debug)]
enum Given {
    /// The answer has been read.
    Read,
    /// From here on the client speaks.
    Switched(mpsc::Receiver<Piece>),
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// Sends what a client says after a switch; dropped before its end, the half is broken off.
#[derive(Debug)]
pub(crate) struct Sender(mpsc::Sender<Piece>);

/// The half.
#[derive(Debug)]
pub(crate) struct ReceiptBody {
    given: oneshot::Receiver<Given>,
    switched: Option<mpsc::Receiver<Piece>>,
}

pub(crate) fn receipt() -> (Receipt, ReceiptBody) {
    let (sender, given) = oneshot::channel();
    (Receipt(sender), ReceiptBody { given, switched: None })
}

impl Receipt {
    /// The answer has been read.
    pub(crate) fn give(self) {
        // A runner that left a moment ago asks for none.
        let _ = self.0.send(Given::Read);
    }

    /// The client speaks from here on.
    pub(crate) fn carry(self) -> Sender {
        let (sender, pieces) = mpsc::channel(WAITING_MAX);
        // A runner that left a moment ago takes nothing, which the sender sees.
        let _ = self.0.send(Given::Switched(pieces));
        Sender(sender)
    }
}

impl Sender {
    /// Sends one piece, once there is room for it.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Gone> {
        self.0.send(Piece::Data(data)).await.map_err(|_| Gone)
    }

    /// Says that this was all.
    pub(crate) async fn end(self) -> Result<(), Gone> {
        self.0.send(Piece::End).await.map_err(|_| Gone)
    }

    /// Resolves once nobody takes the half any more.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }
}

impl Body for ReceiptBody {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        loop {
            if let Some(pieces) = &mut self.switched {
                return pieces.poll_recv(cx).map(|piece| match piece {
                    Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
                    Some(Piece::End) => None,
                    None => Some(Err(Unread)),
                });
            }
            match ready!(Pin::new(&mut self.given).poll(cx)) {
                Ok(Given::Switched(pieces)) => self.switched = Some(pieces),
                Ok(Given::Read) => return Poll::Ready(None),
                Err(_) => return Poll::Ready(Some(Err(Unread))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn the_half_ends_with_the_receipt_and_breaks_off_without() {
        let (receipt, mut body) = receipt();
        receipt.give();
        assert!(body.frame().await.is_none());
        let (receipt, mut body) = super::receipt();
        drop(receipt);
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn after_a_switch_the_half_is_what_the_client_sends() {
        let (receipt, mut body) = receipt();
        let sender = receipt.carry();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let (ended, frame) = tokio::join!(sender.end(), body.frame());
        assert!(ended.is_ok() && frame.is_none());
        let (receipt, mut body) = super::receipt();
        drop(receipt.carry());
        assert!(body.frame().await.unwrap().is_err(), "a client that breaks off has not ended");
    }

    #[tokio::test]
    async fn a_client_is_read_no_faster_than_the_runner_takes() {
        let (receipt, body) = receipt();
        let sender = receipt.carry();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        let mut second = std::pin::pin!(sender.send(Bytes::from_static(b"b")));
        assert!(futures::poll!(&mut second).is_pending());
        drop(body);
        assert!(second.await.is_err());
        sender.gone().await;
    }
}
