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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use proptest::prelude::*;

    use super::*;
    use crate::message::Outcome;

    const USER: &str = "inst.team-a.shop";

    fn reply(number: u128, body: impl Into<Bytes>) -> Reply {
        Reply {
            id: CallId::from_uuid(Uuid::from_u128(number)),
            user_id: Some(USER.to_owned()),
            attempt: 1,
            outcome: Outcome::Answer(StatusCode::OK),
            headers: HeaderMap::new(),
            body: body.into(),
        }
    }

    fn with_headers(number: u128, lines: usize) -> Reply {
        let mut sent = reply(number, "");
        sent.headers.extend((0..lines).map(|at| {
            let name = http::HeaderName::try_from(format!("x-{at}")).unwrap();
            (Some(name), http::HeaderValue::from_static("value"))
        }));
        sent
    }

    fn on_line(replies: &[Reply]) -> BytesMut {
        let mut bytes = BytesMut::new();
        replies.iter().for_each(|reply| put_reply(reply, &mut bytes));
        bytes
    }

    fn take_from_line(bytes: &mut BytesMut, user: &str) -> Result<Option<Result<Reply, Unread>>, FrameError> {
        take_from_runner(bytes, user).map(|frame| {
            frame.map(|frame| match frame {
                FromRunner::Reply(reply) => reply,
                FromRunner::Want(..) => panic!("nobody wants a body"),
            })
        })
    }

    /// All that has come whole.
    fn all(bytes: &mut BytesMut) -> Vec<Result<Reply, Unread>> {
        std::iter::from_fn(|| take_from_line(bytes, USER).unwrap()).collect()
    }

    /// A body with which a reply weighs just what a line carries.
    fn longest() -> Reply {
        let rest = REPLY_BYTES_MAX - weight(&reply(1, "")).unwrap();
        reply(1, vec![b'x'; rest])
    }

    #[test]
    fn replies_come_back_as_they_went_wherever_the_line_is_cut() {
        let failed = Reply { outcome: Outcome::Failed, attempt: u32::MAX, ..reply(2, "it broke") };
        let sent = [with_headers(1, 3), failed, reply(3, "")];
        let whole = on_line(&sent);
        for cut in 0..=whole.len() {
            let mut bytes = BytesMut::from(&whole[..cut]);
            let mut got = all(&mut bytes);
            bytes.put_slice(&whole[cut..]);
            got.extend(all(&mut bytes));
            let got: Vec<Reply> = got.into_iter().collect::<Result<_, _>>().unwrap();
            assert_eq!((got.as_slice(), bytes.len()), (&sent[..], 0), "cut at {cut}");
        }
    }

    #[test]
    fn byte_by_byte_nothing_comes_before_it_is_whole() {
        let (sent, mut bytes, mut got) = ([reply(1, "one"), reply(2, "two")], BytesMut::new(), Vec::new());
        for byte in on_line(&sent) {
            bytes.put_u8(byte);
            got.extend(all(&mut bytes));
        }
        assert_eq!(got.into_iter().map(Result::unwrap).collect::<Vec<_>>(), sent);
    }

    #[test]
    fn the_sender_is_who_opened_the_line() {
        let forged = Reply { user_id: Some("inst.team-b.shop".to_owned()), ..reply(1, "") };
        let got = take_from_line(&mut on_line(&[forged]), USER).unwrap().unwrap().unwrap();
        assert_eq!(got.user_id.as_deref(), Some(USER), "what a runner says of itself does not count");
    }

    #[test]
    fn the_longest_reply_that_fits_comes_back_and_a_longer_one_does_not_fit() {
        let sent = longest();
        assert!(fits_line(&sent));
        let got = take_from_line(&mut on_line(std::slice::from_ref(&sent)), USER).unwrap().unwrap();
        assert_eq!(got.unwrap(), sent);
        let longer = reply(1, vec![b'x'; sent.body.len() + 1]);
        assert!(!fits_line(&longer));
    }

    #[test]
    fn headers_weigh_and_too_many_do_not_fit() {
        let (few, many) = (with_headers(1, 256), with_headers(1, 257));
        assert!(fits_line(&few) && !fits_line(&many));
        let got = take_from_line(&mut on_line(std::slice::from_ref(&few)), USER).unwrap().unwrap();
        assert_eq!(got.unwrap(), few);
        let mut heavy = longest();
        heavy.headers.insert("x", http::HeaderValue::from_static(""));
        assert!(!fits_line(&heavy));
    }

    #[test]
    fn a_record_beyond_the_bound_is_refused_before_it_has_come() {
        for length in [REPLY_BYTES_MAX + 1, usize::try_from(u32::MAX).unwrap()] {
            let mut bytes = on_line(&[reply(1, "before")]);
            bytes.put_u8(REPLY);
            bytes.put_u32(u32::try_from(length).unwrap());
            assert!(take_from_line(&mut bytes, USER).unwrap().is_some());
            assert_eq!(take_from_line(&mut bytes, USER).unwrap_err(), FrameError::TooLong(length));
            assert!(bytes.capacity() < REPLY_BYTES_MAX, "no room was made for it");
        }
    }

    #[test]
    fn a_nonsense_record_counts_and_hurts_no_other() {
        let mut bytes = on_line(&[reply(1, "before")]);
        let start = bytes.len();
        bytes.unsplit(on_line(&[reply(2, "spoilt")]));
        // Behind kind, length, id and attempt stands the status.
        bytes[start + 25..start + 27].copy_from_slice(&99_u16.to_be_bytes());
        bytes.put_slice(&[REPLY, 0, 0, 0, 0]);
        bytes.put_slice(&[REPLY, 0, 0, 0, 3, 0, 0, 0]);
        bytes.unsplit(on_line(&[reply(3, "after")]));
        let got = all(&mut bytes);
        assert_eq!(got.len(), 5);
        assert_eq!(
            (got[0].as_ref().unwrap(), got[4].as_ref().unwrap()),
            (&reply(1, "before"), &reply(3, "after"))
        );
        let spoilt = got[1].as_ref().unwrap_err();
        assert_eq!((spoilt.id, spoilt.user_id.as_deref()), (Some(reply(2, "").id), Some(USER)));
        for nameless in [&got[2], &got[3]] {
            assert_eq!(nameless.as_ref().unwrap_err().id, None);
        }
    }

    fn id(number: u128) -> CallId {
        CallId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn a_body_is_asked_for_by_id_and_token_between_replies() {
        let (token, mut bytes) = (Token::fresh(), on_line(&[reply(1, "before")]));
        put_want(id(7), token, &mut bytes);
        bytes.unsplit(on_line(&[reply(2, "after")]));
        let mut got = Vec::new();
        let mut come = BytesMut::new();
        for byte in bytes {
            come.put_u8(byte);
            got.extend(take_from_runner(&mut come, USER).unwrap());
        }
        assert_eq!(got[1], FromRunner::Want(id(7), token));
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn what_a_gateway_sends_comes_back_as_it_went_wherever_it_is_cut() {
        let (body, mut whole) = (Bytes::from_static(b"body"), BytesMut::new());
        put_taken(u64::MAX, &mut whole);
        put_body(id(1), Some(&body), &mut whole);
        put_body(id(2), None, &mut whole);
        put_body(id(3), Some(&Bytes::new()), &mut whole);
        let sent = [
            FromGateway::Taken(u64::MAX),
            FromGateway::Body(id(1), Some(body)),
            FromGateway::Body(id(2), None),
            FromGateway::Body(id(3), Some(Bytes::new())),
        ];
        for cut in 0..=whole.len() {
            let mut bytes = BytesMut::from(&whole[..cut]);
            let mut got: Vec<_> = std::iter::from_fn(|| take_from_gateway(&mut bytes).unwrap()).collect();
            bytes.put_slice(&whole[cut..]);
            got.extend(std::iter::from_fn(|| take_from_gateway(&mut bytes).unwrap()));
            assert_eq!((got.as_slice(), bytes.len()), (&sent[..], 0), "cut at {cut}");
        }
    }

    #[test]
    fn a_body_beyond_the_bound_and_an_unknown_frame_are_refused_before_they_have_come() {
        let mut bytes = BytesMut::new();
        bytes.put_u8(BODY);
        bytes.put_slice(&[0; ID_BYTES]);
        bytes.put_u32(u32::try_from(LINE_BODY_BYTES_MAX).unwrap() + 1);
        assert_eq!(take_from_gateway(&mut bytes), Err(FrameError::TooLong(LINE_BODY_BYTES_MAX + 1)));
        for unknown in [0, 6, u8::MAX] {
            let mut bytes = BytesMut::from(&[unknown][..]);
            assert_eq!(take_from_gateway(&mut bytes), Err(FrameError::Unknown(unknown)));
            assert_eq!(take_from_runner(&mut bytes, USER), Err(FrameError::Unknown(unknown)));
        }
    }

    proptest! {
        /// However it is spoilt: those before it are read, and there is an error or a reply, never a panic.
        #[test]
        fn hostile_bytes_never_panic(
            at in 0_usize..200, spoilt in proptest::collection::vec(any::<u8>(), 0..40), cut in 0_usize..200,
        ) {
            let first = on_line(&[reply(1, "before")]);
            let mut bytes = on_line(&[reply(1, "before"), with_headers(2, 2), reply(3, "after")]);
            bytes.truncate((first.len() + cut).min(bytes.len()));
            let at = (first.len() + at).min(bytes.len());
            let end = (at + spoilt.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&spoilt[..end - at]);
            prop_assert_eq!(take_from_line(&mut bytes, USER).unwrap().unwrap().unwrap(), reply(1, "before"));
            while let Ok(Some(_)) = take_from_runner(&mut bytes, USER) {}
        }
    }
}
