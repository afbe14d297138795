//! This gateway's half of a stream whose request's body was in the message: empty, and open until the answer has been
//! read. Its end is what a runner waits for that is about to leave. Never carries a byte.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use thiserror::Error;
use tokio::sync::oneshot;

/// The answer was not read to its end.
#[derive(Debug, Error)]
#[error("the answer was not read to its end")]
pub(crate) struct Unread;

/// Held by whoever reads the answer; dropped, the half is broken off.
#[derive(Debug)]
pub(crate) struct Receipt(oneshot::Sender<()>);

/// The half.
#[derive(Debug)]
pub(crate) struct ReceiptBody(oneshot::Receiver<()>);

pub(crate) fn receipt() -> (Receipt, ReceiptBody) {
    let (sender, receiver) = oneshot::channel();
    (Receipt(sender), ReceiptBody(receiver))
}

impl Receipt {
    /// The answer has been read.
    pub(crate) fn give(self) {
        // A runner that left a moment ago asks for none.
        let _ = self.0.send(());
    }
}

impl Body for ReceiptBody {
    type Data = Bytes;
    type Error = Unread;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unread>>> {
        Pin::new(&mut self.0).poll(cx).map(|given| given.err().map(|_| Err(Unread)))
    }
}
