//! Direct calls: what a call's message says of the stream on which its bodies may go past the broker, and the frame
//! with which an answer begins there. docs/wire.md describes both. Never performs I/O.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;

use crate::link::HEADER_BYTES_MAX;
use crate::message::reply::status_code;
use crate::message::{DecodeError, EncodeError, http_headers};

/// Where a runner has no line, answers above this go over a stream: from here on it costs less than what the broker spends
/// on a message that it can no longer send together with others.
pub const DIRECT_BYTES_MIN: u64 = 16 * 1024;
/// The one protocol that a stream goes on in (RFC 6455).
pub const WEBSOCKET: &str = "websocket";
/// Below it a gateway's internal listener takes streams, by the id of their call.
pub const DIRECT_PATH: &str = "/direct/";
/// The header with which a runner says that it has the request's body already, of any value.
pub const FN_HAS_BODY: &str = "fn-has-body";
/// What cannot be guessed in the age of the universe.
const TOKEN_BYTES: usize = 16;
/// The head's length, before it.
const LENGTH_BYTES: usize = 4;
/// Of statuses below 200 the one with which a stream may begin.
const SWITCHING_PROTOCOLS: i64 = 101;
/// The status, first in the head.
const STATUS_BYTES: usize = 2;

/// The right to open one stream, once.
#[derive(Clone, Copy)]
pub struct Token([u8; TOKEN_BYTES]);

impl Token {
    /// How long it is on a line.
    pub(super) const BYTES: usize = TOKEN_BYTES;

    pub(super) const fn bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }

    pub(super) const fn from_bytes(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// One that nobody has guessed.
    pub fn fresh() -> Self {
        Self(rand::random())
    }

    /// Reads a token; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl PartialEq for Token {
    /// In a time that does not tell how much of it is right.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a token is 22 characters of base64url"))
    }
}

/// A gateway's offer to take a call's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Host and port of the internal listener of the gateway that waits.
    pub at: String,
    /// Its token; void once it was used, and with the attempt.
    pub token: Token,
    /// Whether the request's body is not in the message, but comes over the stream or a line.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub body: bool,
    /// Whether that body is small, and to be had on a line as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub line: bool,
    /// The protocol that the client asks to go on in, which a function may grant; a runner that knows no such thing runs
    /// the call as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
}

/// An answer as far as it is known before its body: what a stream begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead {
    /// The HTTP status; 101 where the stream goes on in the protocol that was asked for.
    pub status: StatusCode,
    /// The HTTP headers; `Content-Length` where the body's length is known.
    pub headers: HeaderMap,
}

impl AnswerHead {
    /// The frame: its length, then status and headers.
    pub fn to_bytes(&self) -> Result<Bytes, EncodeError> {
        let length = STATUS_BYTES + http_headers::bytes(&self.headers);
        if length > HEADER_BYTES_MAX {
            return Err(EncodeError::TooLarge(length));
        }
        let mut frame = BytesMut::with_capacity(LENGTH_BYTES + length);
        frame.put_u32(0);
        frame.put_u16(self.status.as_u16());
        http_headers::put(&self.headers, true, &mut frame)?;
        let length = u32::try_from(frame.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
        frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    fn read(frame: &Bytes) -> Result<Self, DecodeError> {
        let status = i64::from(u16::from_be_bytes([frame[0], frame[1]]));
        let headers = http_headers::parse(&frame.slice(STATUS_BYTES..))?;
        let status = match status {
            SWITCHING_PROTOCOLS => StatusCode::SWITCHING_PROTOCOLS,
            other => status_code(other)?,
        };
        Ok(Self { status, headers })
    }
}

/// Why a stream does not begin with an answer's head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadHeadError {
    /// The length before it is none that a head may have.
    #[error("a head of {0} bytes, and 2 to {HEADER_BYTES_MAX} are allowed")]
    Length(usize),
    /// What stands in it.
    #[error(transparent)]
    Head(#[from] DecodeError),
    /// It grants an upgrade that nobody asked for.
    #[error("status 101 to a request that asked for no upgrade")]
    Unasked,
}

/// Gathers an answer's head from the pieces that come.
#[derive(Debug, Default)]
pub struct AnswerHeadReader(BytesMut);

impl AnswerHeadReader {
    /// Takes one piece more; once the head is whole, gives it with the first of the body's bytes.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<(AnswerHead, Bytes)>, ReadHeadError> {
        self.0.extend_from_slice(piece);
        let Some((length, rest)) = self.0.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(STATUS_BYTES..=HEADER_BYTES_MAX).contains(&length) {
            return Err(ReadHeadError::Length(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let mut all = std::mem::take(&mut self.0).freeze().split_off(LENGTH_BYTES);
        let first = all.split_off(length);
        Ok(Some((AnswerHead::read(&all)?, first)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{CONTENT_LENGTH, SET_COOKIE};

    use super::*;

    fn head() -> AnswerHead {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
        headers.append(SET_COOKIE, HeaderValue::from_static("a=1"));
        headers.append(SET_COOKIE, HeaderValue::from_static("b=2"));
        AnswerHead { status: StatusCode::CREATED, headers }
    }

    #[test]
    fn a_head_stands_on_the_wire_as_documented() {
        let frame = head().to_bytes().unwrap();
        let text = b"content-length: 9\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\n";
        assert_eq!(frame[..4], (u32::try_from(text.len()).unwrap() + 2).to_be_bytes());
        assert_eq!(frame[4..6], 201_u16.to_be_bytes());
        assert_eq!(frame[6..], text[..]);
        let bare = AnswerHead { status: StatusCode::OK, headers: HeaderMap::new() };
        assert_eq!(bare.to_bytes().unwrap()[..], [0, 0, 0, 2, 0, 200]);
    }

    #[test]
    fn a_head_is_read_however_it_is_cut_and_the_body_begins_behind_it() {
        let mut stream = head().to_bytes().unwrap().to_vec();
        let whole = stream.len();
        stream.extend_from_slice(b"body");
        for cut in 0..=whole {
            let mut reader = AnswerHeadReader::default();
            let early = reader.push(&stream[..cut]).unwrap();
            let (read, first) = match early {
                Some((read, first)) => (read, [&first[..], &stream[cut..]].concat()),
                None => {
                    reader.push(&stream[cut..]).unwrap().map(|(read, first)| (read, first.to_vec())).unwrap()
                }
            };
            assert_eq!((read, &first[..]), (head(), &b"body"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn a_head_that_is_none_is_an_error_and_holds_no_memory() {
        for length in [0, 1, HEADER_BYTES_MAX + 1, usize::try_from(u32::MAX).unwrap()] {
            let frame = u32::try_from(length).unwrap().to_be_bytes();
            let read = AnswerHeadReader::default().push(&frame);
            assert_eq!(read.map(|_| ()), Err(ReadHeadError::Length(length)));
        }
        for frame in [&[0, 0, 0, 2, 0, 100][..], &[0, 0, 0, 3, 0, 200, b'x'], &[0, 0, 0, 2, 255, 255]] {
            let read = AnswerHeadReader::default().push(frame);
            assert!(matches!(read, Err(ReadHeadError::Head(_))), "{frame:?}");
        }
    }

    #[test]
    fn a_stream_may_begin_by_switching_protocols() {
        let (head, first) = AnswerHeadReader::default().push(&[0, 0, 0, 2, 0, 101, 9]).unwrap().unwrap();
        assert_eq!((head.status, &first[..]), (StatusCode::SWITCHING_PROTOCOLS, &[9][..]));
    }

    #[test]
    fn a_head_that_would_not_fit_is_not_sent() {
        let mut large = head();
        large.headers.insert("x", HeaderValue::from_str(&"x".repeat(HEADER_BYTES_MAX)).unwrap());
        assert!(matches!(large.to_bytes(), Err(EncodeError::TooLarge(_))));
    }

    #[test]
    fn a_token_is_22_characters_and_shows_itself_to_nobody() {
        let token = Token::fresh();
        let text = token.to_string();
        assert_eq!((text.len(), Token::parse(&text)), (22, Some(token)));
        assert!(token != Token::fresh());
        assert!(!format!("{token:?}").contains(&text));
        for wrong in ["", "AAAA", &text[1..], &format!("{text}A"), "!!!!!!!!!!!!!!!!!!!!!!"] {
            assert_eq!(Token::parse(wrong), None, "{wrong}");
        }
    }
}
