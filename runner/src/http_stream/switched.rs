//! A function's connection that has switched protocols: no HTTP any more, and never pooled again.

use bytes::Bytes;
use http::response;

use super::client::{Connection, ExchangeError};
use super::endpoint::Stream;

/// An answer with status 101. Dropped, it closes the connection.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(super) head: response::Parts,
    pub(super) connection: Connection,
}

impl Switched {
    /// Its head, the connection itself, and what the function had sent behind the head.
    pub(crate) async fn into_parts(self) -> Result<(response::Parts, Stream, Bytes), ExchangeError> {
        let (stream, first) = self.connection.into_stream().await?;
        Ok((self.head, stream, first))
    }
}
