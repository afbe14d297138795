//! What a function speaks: how a message becomes its request, and what its answer means. Pure.

use bytes::Bytes;
use funcatron_broker::link::Envelope;
use funcatron_broker::message::Call;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;

use super::answer::{self, Answer};
use super::{plain, request};

/// The contract of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contract {
    /// Fn's http-stream: every call is a `POST /call`, and what is the client's is wrapped.
    Fn,
    /// A plain HTTP server: nothing is wrapped.
    Http,
}

/// Where an event came through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Through<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
}

impl Contract {
    /// The request of a call. `attempt` and `deadline_ms` are this attempt's.
    pub(crate) fn of_call(self, call: Call, attempt: u32, deadline_ms: u64) -> Request<Full<Bytes>> {
        match self {
            Self::Fn => request::of_call(call, attempt, deadline_ms),
            Self::Http => plain::of_call(call, attempt, deadline_ms),
        }
    }

    /// The request of an event: a message that somebody published with no function in mind.
    pub(crate) fn of_event(
        self,
        event: Envelope,
        through: Through<'_>,
        attempt: u32,
        deadline_ms: u64,
    ) -> Request<Full<Bytes>> {
        match self {
            Self::Fn => request::of_event(event, through, attempt, deadline_ms),
            Self::Http => plain::of_event(event, through, attempt, deadline_ms),
        }
    }

    /// What an answer means.
    pub(crate) fn read<B>(self, answer: Response<B>) -> Answer<B> {
        match self {
            Self::Fn => answer::read(answer),
            Self::Http => plain::read(answer),
        }
    }

    /// Has a request ask for a protocol to go on in, where its function may grant that; says whether it does.
    pub(crate) fn ask_to_switch(self, headers: &mut HeaderMap, protocol: Option<&str>) -> bool {
        self == Self::Http && plain::ask_to_switch(headers, protocol)
    }

    /// The headers that travel of an answer that grants it, or why it grants something else.
    pub(crate) fn switched(headers: HeaderMap) -> Result<HeaderMap, &'static str> {
        plain::switched(headers)
    }

    /// Whether time that runs out, or an answer that makes no sense, speaks against the process. A library of Fn's keeps
    /// the deadline itself; a plain server knows none, and has other requests, which must not suffer for one of them.
    pub(crate) fn is_kept_by_the_process(self) -> bool {
        self == Self::Fn
    }
}
