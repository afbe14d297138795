//! The body of a response: whole, or coming. Whole ones, by far the most, cost no allocation.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use crate::direct::{AnswerBody, ReceiptBody, UploadBody};
use crate::handover::Handover;
use crate::spill::ObjectBody;

/// Whether answers of this status have no body, whatever a function sends (RFC 9110, 15).
pub(crate) fn is_bodyless(status: StatusCode) -> bool {
    [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED].contains(&status)
}

/// What is written to a client, or to a runner that has opened a stream.
pub(crate) enum ResponseBody {
    /// All of it.
    Whole(Full<Bytes>),
    /// A function's answer, as it comes.
    Answer(Box<AnswerBody>),
    /// A request's body on its way to a runner.
    Upload(Box<UploadBody>),
    /// A body out of the object store on its way to a runner.
    Object(Box<ObjectBody>),
    /// Nothing, until a runner's answer has been read.
    Receipt(ReceiptBody),
    /// Nothing: the connection is to be handed over after the head.
    Handover(Box<Handover>),
}

impl ResponseBody {
    /// What the connection is to be handed over to, once.
    pub(crate) fn take_handover(&mut self) -> Option<Box<Handover>> {
        match std::mem::replace(self, Self::Whole(Full::default())) {
            Self::Handover(handover) => Some(handover),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl From<Full<Bytes>> for ResponseBody {
    fn from(body: Full<Bytes>) -> Self {
        Self::Whole(body)
    }
}

impl From<AnswerBody> for ResponseBody {
    fn from(body: AnswerBody) -> Self {
        Self::Answer(Box::new(body))
    }
}

impl From<UploadBody> for ResponseBody {
    fn from(body: UploadBody) -> Self {
        Self::Upload(Box::new(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            Self::Answer(body) => {
                Pin::new(&mut **body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
            Self::Upload(body) => {
                Pin::new(&mut **body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
            Self::Object(body) => {
                Pin::new(&mut **body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
            Self::Receipt(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            Self::Handover(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Answer(body) => body.is_end_stream(),
            Self::Upload(body) => body.is_end_stream(),
            Self::Object(body) => body.is_end_stream(),
            Self::Receipt(body) => body.is_end_stream(),
            Self::Handover(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Answer(body) => body.size_hint(),
            Self::Upload(body) => body.size_hint(),
            Self::Object(body) => body.size_hint(),
            Self::Receipt(body) => body.size_hint(),
            Self::Handover(_) => SizeHint::with_exact(0),
        }
    }
}
