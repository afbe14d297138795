//! A function that echoes, as Fn's http-stream contract has it.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use crate::{end_with_driver, greet, one_thread};

/// Where the function listens.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("function.sock")
}

/// Serves until the driver ends.
pub(crate) fn serve(folder: &Path) -> Result<()> {
    end_with_driver();
    one_thread()?.block_on(async {
        let listener = UnixListener::bind(socket(folder)).context("listen")?;
        greet("function")?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)));
        }
    })
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    // A body that breaks off is answered short, which the load counts as wrong.
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert("fn-http-status", HeaderValue::from_static("200"));
    Ok(answer)
}
