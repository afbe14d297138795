//! The messages of ours: call, reply, wake, report, cancel, and what the ledger is told; from typed to envelope and back.
//!
//! The HTTP body is the message's body, untouched; everything else rides in properties and headers, as
//! docs/wire.md says. Tenants' runners write replies and reports, so every envelope is read as hostile:
//! what is missing, wrongly typed or too much is an error that names it. Never performs I/O.

mod bridge_report;
mod call;
pub mod cloud_events;
mod direct;
mod event_reply;
mod events;
mod fields;
mod http_headers;
mod line;
mod notes;
mod replies;
mod reply;
mod spilled;

use std::fmt;
use std::str::FromStr;

pub use bridge_report::{BridgeReport, BridgeState};
pub use call::{AGE_DEFAULT_MS, ATTEMPTS_DEFAULT, Call, Intent, Undecodable};
pub use direct::{
    AnswerHead, AnswerHeadReader, DIRECT_BYTES_MIN, DIRECT_PATH, FN_HAS_BODY, Offer, ReadHeadError, Token,
    WEBSOCKET,
};
pub use event_reply::EventReply;
pub use events::{
    ATTEMPTS_MAX, AppEvent, BODY_BYTES_KEPT, CallEvent, CallbackTarget, Claim, Claimed, Ended, FnEvent,
    Happened, LOG_BYTES_KEPT, LedgerMessage, Record, RecordedAnswer, RecordedBody, RecordedRequest, Source,
    Verdict, fresh_claimant, is_redacted, redact,
};
pub use line::{
    FrameError, FromGateway, FromRunner, LINE_BODY_BYTES_MAX, LINE_BODY_BYTES_MIN, LINE_PATH, LINE_PROTOCOL,
    fits_line, put_body, put_reply, put_taken, put_want, take_from_gateway, take_from_runner,
};
pub use notes::{Cancel, DurableQueue, MissingQueue, Report, ReportEvent, Wake, WakeKind};
pub use replies::{Packed, pack};
pub use reply::{Outcome, Reply, Unread};
pub use spilled::SpilledBody;

use crate::envelope::Envelope;
use events::check_claimant;

/// The wire's major version, in `fn-wire` on every message but the calls of [`WIRE_VERSION_BODY`] and
/// [`WIRE_VERSION_SPILLED`].
pub const WIRE_VERSION: i64 = 1;
/// The version of a call whose request's body comes over its stream: a runner that knows no streams refuses it, rather
/// than call the function with an empty body.
pub const WIRE_VERSION_BODY: i64 = 2;
/// The version of a call whose body is in the object store: a runner that cannot fetch it refuses the call likewise.
pub const WIRE_VERSION_SPILLED: i64 = 3;
/// The header that carries it.
pub const WIRE_HEADER: &str = "fn-wire";
/// A JSON body of ours is names, digests and a log's tail.
pub const JSON_BYTES_MAX: usize = 16 * 1024;
/// An event of a call holds an HTTP message's kept part (in base64) and a log's tail.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Why an envelope is no message of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The AMQP type is another.
    #[error("type is {found:?}, expected {expected:?}")]
    Kind {
        /// What was to be read.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A version that is not understood.
    #[error("fn-wire is {0}, which is not understood")]
    Wire(i64),
    /// A header or property is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A header has another type.
    #[error("{name} is {found}, expected {expected}")]
    Type {
        /// The header.
        name: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A header or property has a value that makes no sense.
    #[error("{name} is not valid: {reason}")]
    Value {
        /// The header or property.
        name: String,
        /// Why not.
        reason: String,
    },
    /// More headers than a message may have.
    #[error("{0} headers, and 256 are allowed")]
    TooMany(usize),
    /// The JSON body is not what it should be.
    #[error("body cannot be read: {0}")]
    Body(String),
}

/// Why a message cannot be sent as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A property is longer than AMQP's short strings.
    #[error("{name} is longer than 255 bytes")]
    Long {
        /// The property.
        name: String,
    },
    /// More HTTP headers than a message may have.
    #[error("{0} headers, and 256 are allowed")]
    TooMany(usize),
    /// Headers do not fit an AMQP frame.
    #[error("headers of {0} bytes, and 98304 are allowed")]
    TooLarge(usize),
    /// The JSON body is too large.
    #[error("body of {bytes} bytes, and {max} are allowed")]
    Body {
        /// Its size.
        bytes: usize,
        /// The bound of its type.
        max: usize,
    },
}

/// Names the call whose end a callback tells; nobody outside can send it, since a gateway takes `fn-` headers off.
pub const CALLBACK_OF_HEADER: &str = "fn-callback-of";

/// One call's id: a UUIDv7, or of a schedule a UUIDv8 that sorts among those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(uuid::Uuid);

impl CallId {
    /// A new id, of now.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// An id made elsewhere.
    pub fn from_uuid(id: uuid::Uuid) -> Self {
        Self(id)
    }

    /// As a UUID.
    pub fn uuid(self) -> uuid::Uuid {
        self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for CallId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        uuid::Uuid::try_parse(text).map(Self)
    }
}

/// Whether a message is one of ours. In a durable queue one that is not is an event.
pub fn is_ours(envelope: &Envelope) -> bool {
    envelope.headers.get(WIRE_HEADER).is_some()
}

#[cfg(test)]
mod tests;
