//! A line: one connection from a runner to a gateway, on which replies and small requests' bodies pass the broker by.
//! docs/wire.md describes it.
//!
//! What a runner sends is as hostile as any reply; whose it is, the gateway knows from the call that opened the line.
//! Never performs I/O.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

use crate::message::replies::{self, weight};
use crate::message::{CallId, Reply, Token, Unread};

/// Below it a gateway's internal listener takes lines, by the id of a call that waits.
pub const LINE_PATH: &str = "/line/";
/// What the connection is upgraded to.
pub const LINE_PROTOCOL: &str = "funcatron-line";
/// Requests' bodies above this are not in their messages, but go by a line: with a call's other parts, RabbitMQ then
/// still sends two messages together (it does up to 1,414 bytes), and a body of 1 KiB was cheaper by a line, as measured.
pub const LINE_BODY_BYTES_MIN: u64 = 512;
/// Bodies above this go by a stream: nothing on a line waits longer for a large one than for this.
pub const LINE_BODY_BYTES_MAX: usize = 64 * 1024;
/// A reply with its headers.
const REPLY_BYTES_MAX: usize = LINE_BODY_BYTES_MAX + 16 * 1024;

/// First byte of a frame: a reply follows, its length before it.
const REPLY: u8 = 1;
/// A call's id and token follow: its body is wanted.
const WANT: u8 = 2;
/// How many replies have been taken follows.
const TAKEN: u8 = 3;
/// A call's id and body follow, the body's length before it.
const BODY: u8 = 4;
/// A call's id follows, whose body is not to be had.
const NO_BODY: u8 = 5;

const KIND_BYTES: usize = 1;
const LENGTH_BYTES: usize = 4;
const ID_BYTES: usize = 16;

/// A frame that nobody of ours sends: the line is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It says a length beyond the bound.
    #[error("a frame of {0} bytes, more than a line carries")]
    TooLong(usize),
    /// Its first byte is none that is known here.
    #[error("a frame of the unknown kind {0}")]
    Unknown(u8),
}

/// What a runner sends.
#[derive(Debug, PartialEq)]
pub enum FromRunner {
    /// A reply, or why what stood there is none.
    Reply(Result<Reply, Unread>),
    /// It wants a call's body, with the call's token.
    Want(CallId, Token),
}

/// What a gateway sends.
#[derive(Debug, PartialEq, Eq)]
pub enum FromGateway {
    /// So many replies has it taken since the line was opened.
    Taken(u64),
    /// A call's body; none, where nobody waits for the call with this token.
    Body(CallId, Option<Bytes>),
}

/// Whether a reply may go over a line.
pub fn fits_line(reply: &Reply) -> bool {
    weight(reply).is_some_and(|bytes| bytes <= REPLY_BYTES_MAX)
}

/// Writes a reply that fits.
pub fn put_reply(reply: &Reply, into: &mut BytesMut) {
    into.put_u8(REPLY);
    replies::put(reply, into);
}

/// Asks for a call's body.
pub fn put_want(id: CallId, token: Token, into: &mut BytesMut) {
    into.put_u8(WANT);
    into.put_slice(id.uuid().as_bytes());
    into.put_slice(token.bytes());
}

/// Says how many replies have been taken.
pub fn put_taken(count: u64, into: &mut BytesMut) {
    into.put_u8(TAKEN);
    into.put_u64(count);
}

/// Gives a call's body, or says that it is not to be had.
pub fn put_body(id: CallId, body: Option<&Bytes>, into: &mut BytesMut) {
    let sent = body.and_then(|body| Some((body, u32::try_from(body.len()).ok()?)));
    into.put_u8(if sent.is_some() { BODY } else { NO_BODY });
    into.put_slice(id.uuid().as_bytes());
    if let Some((body, length)) = sent {
        into.put_u32(length);
        into.put_slice(body);
    }
}

/// Takes the next frame out of what has come from a runner of `user`; `None` while it has not come whole.
pub fn take_from_runner(bytes: &mut BytesMut, user: &str) -> Result<Option<FromRunner>, FrameError> {
    Ok(match bytes.first() {
        None => None,
        Some(&REPLY) => with_length(bytes, KIND_BYTES, REPLY_BYTES_MAX)?
            .map(|reply| FromRunner::Reply(replies::record(reply, Some(user.to_owned())))),
        Some(&WANT) => fixed(bytes, ID_BYTES + Token::BYTES).map(|mut want| {
            let id = CallId::from_uuid(Uuid::from_u128(want.get_u128()));
            FromRunner::Want(id, Token::from_bytes(want.get_u128().to_be_bytes()))
        }),
        Some(&other) => return Err(FrameError::Unknown(other)),
    })
}

/// Takes the next frame out of what has come from a gateway; `None` while it has not come whole.
pub fn take_from_gateway(bytes: &mut BytesMut) -> Result<Option<FromGateway>, FrameError> {
    let id = |from: &[u8]| CallId::from_uuid(Uuid::from_slice(from).unwrap_or_default());
    Ok(match bytes.first() {
        None => None,
        Some(&TAKEN) => fixed(bytes, size_of::<u64>()).map(|mut taken| FromGateway::Taken(taken.get_u64())),
        Some(&BODY) => {
            let Some(called) = bytes.get(KIND_BYTES..KIND_BYTES + ID_BYTES).map(id) else { return Ok(None) };
            with_length(bytes, KIND_BYTES + ID_BYTES, LINE_BODY_BYTES_MAX)?
                .map(|body| FromGateway::Body(called, Some(body)))
        }
        Some(&NO_BODY) => fixed(bytes, ID_BYTES).map(|called| FromGateway::Body(id(&called), None)),
        Some(&other) => return Err(FrameError::Unknown(other)),
    })
}

/// What follows the first byte.
fn fixed(bytes: &mut BytesMut, length: usize) -> Option<Bytes> {
    (bytes.len() >= KIND_BYTES + length).then(|| {
        bytes.advance(KIND_BYTES);
        bytes.split_to(length).freeze()
    })
}

/// What follows a length that stands at `at`.
fn with_length(bytes: &mut BytesMut, at: usize, max: usize) -> Result<Option<Bytes>, FrameError> {
    let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<LENGTH_BYTES>()) else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > max {
        return Err(FrameError::TooLong(length));
    }
    let whole = at + LENGTH_BYTES + length;
    if bytes.len() < whole {
        // Room for all of it, so that it is not gathered piece by piece.
        bytes.reserve(whole - bytes.len());
        return Ok(None);
    }
    bytes.advance(at + LENGTH_BYTES);
    Ok(Some(bytes.split_to(length).freeze()))
}
