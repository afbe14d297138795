//! What a runner sends on a stream. Ends cleanly on a word of its sender's alone: one that is dropped breaks it off, so
//! that half an answer is never taken for a whole one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait: one, since what the gateway does not take is not to be read from the function.
const WAITING_MAX: usize = 1;

/// The answer ended before its end.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct BrokenOff;

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// Told when it is taken; an answer that is dropped before tells nothing.
    End(oneshot::Sender<()>),
}

/// Nobody takes the answer any more.
#[derive(Debug)]
pub(crate) struct Gone;

/// Sends an answer.
#[derive(Debug)]
pub(crate) struct Sender(mpsc::Sender<Piece>);

/// The answer, as the HTTP library takes it.
#[derive(Debug)]
pub(crate) struct Outgoing(mpsc::Receiver<Piece>);

/// Both ends of one answer.
pub(crate) fn outgoing() -> (Sender, Outgoing) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Sender(sender), Outgoing(receiver))
}

impl Sender {
    /// Sends one piece, once there is room for it.
    pub(crate) async fn send(&self, data: Bytes) -> Result<(), Gone> {
        self.0.send(Piece::Data(data)).await.map_err(|_| Gone)
    }

    /// Says that this was all, and waits until it has been taken.
    pub(crate) async fn end(self) -> Result<(), Gone> {
        let (taken, ended) = oneshot::channel();
        self.0.send(Piece::End(taken)).await.map_err(|_| Gone)?;
        ended.await.map_err(|_| Gone)?;
        self.0.closed().await;
        Ok(())
    }

    /// Resolves once nobody takes the answer any more.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        Poll::Ready(match ready!(self.0.poll_recv(cx)) {
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::End(taken)) => {
                // A sender that waits no more need not know.
                let _ = taken.send(());
                None
            }
            None => Some(Err(BrokenOff)),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn only_a_word_of_the_senders_ends_an_answer_cleanly() {
        let (sender, mut body) = outgoing();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let (ended, none) = tokio::join!(sender.end(), async {
            let frame = body.frame().await;
            drop(body);
            frame.is_none()
        });
        assert!(ended.is_ok() && none);
        let (sender, body) = outgoing();
        let (ended, ()) = tokio::join!(sender.end(), async { drop(body) });
        assert!(ended.is_err(), "an end that nobody took is none");
        let (sender, mut body) = outgoing();
        drop(sender);
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_sender_waits_for_room_and_sees_that_nobody_takes() {
        let (sender, body) = outgoing();
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        let mut second = std::pin::pin!(sender.send(Bytes::from_static(b"b")));
        assert!(futures::poll!(&mut second).is_pending());
        drop(body);
        assert!(second.await.is_err());
        sender.gone().await;
    }
}
