//! HTTP/1.1 to a function, the caller's side: Fn's http-stream contract, `POST /call` on a Unix socket, or plain requests
//! on a port of the pod's own.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod contract;
pub(crate) mod endpoint;
mod plain;
mod request;
pub(crate) mod socket;
pub(crate) mod switched;
