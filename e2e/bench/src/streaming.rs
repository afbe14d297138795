//! A function that streams, as Fn's http-stream contract has it: a sink that answers with a digest, one that counts, a
//! source, an echo.
//! Never gathers a body.

use std::convert::Infallible;
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::digest::{Context, SHA256};
use tokio::net::UnixListener;

use crate::function::socket;
use crate::{end_with_driver, greet, one_thread};

/// What is written at once.
const PIECE_BYTES: u64 = 64 << 10;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves until the driver ends.
pub(crate) fn serve(folder: &Path) -> Result<()> {
    end_with_driver();
    one_thread()?.block_on(async {
        let listener = UnixListener::bind(socket(folder)).context("listen")?;
        greet("function")?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(call)));
        }
    })
}

async fn call(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = path(request.headers());
    let body = request.into_body();
    let (kind, length, body) = match path.rsplit_once('/') {
        Some((_, "sink")) => ("text/plain", None, sink(body).await),
        Some((_, "count")) => ("text/plain", None, count(body).await),
        Some((_, "echo")) => ("text/event-stream", None, body.boxed()),
        Some(("/source", bytes)) => {
            let length = bytes.parse().unwrap_or(0);
            let frames = pieces(length).map(|piece| Ok(Frame::data(piece)));
            ("application/octet-stream", Some(length), BoxBody::new(StreamBody::new(frames)))
        }
        _ => ("text/plain", None, whole("no such function".to_owned())),
    };
    let answer = Response::builder().header("content-type", kind).header("fn-http-status", "200");
    let answer = length.into_iter().fold(answer, |answer, length| answer.header("content-length", length));
    Ok(answer.body(body).unwrap_or_default())
}

fn path(headers: &HeaderMap) -> String {
    let url = headers.get("fn-http-request-url").and_then(|url| url.to_str().ok()).unwrap_or_default();
    url.parse::<http::Uri>().map(|url| url.path().to_owned()).unwrap_or_default()
}

/// The digest of a body; of one that breaks off, what no digest is.
async fn sink(mut body: Incoming) -> Body {
    let mut digest = Context::new(&SHA256);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return whole("broken off".to_owned()) };
        if let Ok(data) = frame.into_data() {
            digest.update(&data);
        }
    }
    whole(hex(digest))
}

/// How many bytes a body has; of one that breaks off, what is no number.
async fn count(mut body: Incoming) -> Body {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return whole("broken off".to_owned()) };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    whole(bytes.to_string())
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// So many bytes, no piece like the one before.
pub(crate) fn pieces(bytes: u64) -> impl Stream<Item = Bytes> + Send + Sync + 'static {
    let lengths =
        (0..bytes.div_ceil(PIECE_BYTES)).map(move |at| (at, PIECE_BYTES.min(bytes - at * PIECE_BYTES)));
    stream::iter(lengths.map(|(at, length)| {
        let length = usize::try_from(length).unwrap_or_default();
        Bytes::from(vec![at.to_le_bytes()[0] ^ at.to_le_bytes()[1]; length])
    }))
}

/// A digest in words.
pub(crate) fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
