//! Clients that have asked a gateway once and stay connected, as browsers and proxies do.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{end_with_driver, greet, one_thread};

/// Connections that are opened at once: the listener's backlog is 1,024 at most systems.
const OPENING_AT_ONCE: usize = 64;

/// Opens them, greets, and holds them until the driver ends.
pub(crate) fn hold(to: SocketAddr, connections: usize) -> Result<()> {
    end_with_driver();
    one_thread()?.block_on(async {
        let opening = stream::iter((0..connections).map(|_| open(to))).buffer_unordered(OPENING_AT_ONCE);
        let held: Vec<_> = opening.try_collect().await?;
        greet(&held.len().to_string())?;
        std::future::pending().await
    })
}

async fn open(to: SocketAddr) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(to).await.context("connect to the gateway")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    tokio::spawn(connection);
    // What no table knows is answered by the gateway alone.
    let request = Request::get("/t/nobody/nothing/here").header("host", "localhost").body(Empty::new());
    let response = sender.send_request(request.context("build a request")?).await.context("ask once")?;
    // Whatever it says: the connection is what counts.
    response.into_body().collect().await.context("read an answer")?;
    Ok(sender)
}
