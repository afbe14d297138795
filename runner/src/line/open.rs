//! Opens a line: a connection first, then an upgrade with the token of a call that has just come, so that the gateway
//! still waits for that call when it looks.

use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::message::{LINE_PATH, LINE_PROTOCOL};
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::Opener;

/// A gateway in the same cluster accepts within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// It answers as fast; a busy one is given time.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a call in this time the connection is given up, before its gateway does so.
const CALL_WAIT: Duration = Duration::from_secs(30);

/// A connection that is a line now, and what came with the word that it is.
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    pub(super) first: Bytes,
}

/// Opens a line to the gateway at an address; `None` where it has none for this runner, or too few calls come from it.
pub(super) async fn open(at: &str, mut openers: mpsc::Receiver<Opener>) -> Option<Opened> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(at)).await.ok()?.ok()?;
    stream.set_nodelay(true).ok()?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(connection.with_upgrades());
    let opened = ask(at, &mut requests, &mut openers).await;
    if opened.is_none() {
        driver.abort();
    }
    opened
}

async fn ask(
    at: &str,
    requests: &mut http1::SendRequest<Empty<Bytes>>,
    openers: &mut mpsc::Receiver<Opener>,
) -> Option<Opened> {
    loop {
        // What came before there was a connection, or while the last one was asked with, may be answered by now.
        while openers.try_recv().is_ok() {}
        let opener = timeout(CALL_WAIT, openers.recv()).await.ok()??;
        let answer = timeout(ASK_TIMEOUT, requests.send_request(request(at, &opener)?)).await.ok()?;
        let answer: Response<Incoming> = answer.ok()?;
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => return switch(at, answer).await,
            // The call was answered faster; the next one may not be.
            StatusCode::FORBIDDEN => {
                debug!(at, call = %opener.0, "the gateway no longer waits for this call")
            }
            status => {
                debug!(at, %status, "the gateway takes no line; replies go through the broker");
                return None;
            }
        }
        requests.ready().await.ok()?;
    }
}

fn request(at: &str, (id, token): &Opener) -> Option<Request<Empty<Bytes>>> {
    let request = Request::get(format!("{LINE_PATH}{id}"))
        .header(HOST, at)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, LINE_PROTOCOL)
        .header(AUTHORIZATION, format!("Bearer {token}"));
    request.body(Empty::new()).ok()
}

async fn switch(at: &str, answer: Response<Incoming>) -> Option<Opened> {
    let upgraded = timeout(ASK_TIMEOUT, hyper::upgrade::on(answer)).await.ok()?.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    debug!(at, "replies go by a line");
    Some(Opened { stream: parts.io.into_inner(), first: parts.read_buf })
}
