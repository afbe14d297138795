//! Fn's http-stream contract, the caller's side: `POST /call` in HTTP/1.1 on a Unix socket.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod request;
pub(crate) mod socket;
