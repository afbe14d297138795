//! A line: one connection from a runner to a gateway, on which replies pass the broker by. docs/wire.md describes it.
//!
//! What a runner sends is as hostile as any reply; whose it is, the gateway knows from the call that opened the line.
//! Never performs I/O.

use bytes::{Buf as _, BytesMut};

use crate::message::replies::{self, weight};
use crate::message::{Reply, Unread};

/// Below it a gateway's internal listener takes lines, by the id of a call that waits.
pub const LINE_PATH: &str = "/line/";
/// What the connection is upgraded to.
pub const LINE_PROTOCOL: &str = "funcatron-line";
/// Replies above this go by another way: small ones wait no longer for a large one than for this.
const LINE_REPLY_BYTES_MAX: usize = 64 * 1024;
/// A frame's length, before it.
const LENGTH_BYTES: usize = 4;
/// A gateway's word: how many replies it has taken since the line was opened.
const LINE_TAKEN_BYTES: usize = 8;

/// Whether a reply may go over a line.
pub fn fits_line(reply: &Reply) -> bool {
    weight(reply).is_some_and(|bytes| bytes <= LINE_REPLY_BYTES_MAX)
}

/// Writes a reply that fits.
pub fn put_on_line(reply: &Reply, into: &mut BytesMut) {
    replies::put(reply, into);
}

/// A frame that no runner of ours sends: the line is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply of {0} bytes, where 65536 are allowed")]
pub struct TooLong(pub usize);

/// Takes the next reply out of what has come from `user`; `None` while it has not come whole.
pub fn take_from_line(bytes: &mut BytesMut, user: &str) -> Result<Option<Result<Reply, Unread>>, TooLong> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > LINE_REPLY_BYTES_MAX {
        return Err(TooLong(length));
    }
    if bytes.len() < LENGTH_BYTES + length {
        // Room for all of it, so that it is not gathered piece by piece.
        bytes.reserve(LENGTH_BYTES + length - bytes.len());
        return Ok(None);
    }
    bytes.advance(LENGTH_BYTES);
    Ok(Some(replies::record(bytes.split_to(length).freeze(), Some(user.to_owned()))))
}

/// Says how many replies have been taken.
pub fn taken(count: u64) -> [u8; LINE_TAKEN_BYTES] {
    count.to_be_bytes()
}

/// Reads the last such word that has come whole.
pub fn last_taken(bytes: &mut BytesMut) -> Option<u64> {
    let whole = bytes.len() / LINE_TAKEN_BYTES;
    bytes.advance(whole.checked_sub(1)? * LINE_TAKEN_BYTES);
    Some(bytes.get_u64())
}
