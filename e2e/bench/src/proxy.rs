//! A plain hyper proxy from TCP to the function's socket: the baseline of streams.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::function::socket;
use crate::{end_with_driver, greet, threads};

/// Where the streaming function finds the path.
const REQUEST_URL: &str = "fn-http-request-url";

/// Serves until the driver ends.
pub(crate) fn serve(folder: &Path) -> Result<()> {
    end_with_driver();
    threads()?.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("listen")?;
        greet(&listener.local_addr().context("find the own address")?.to_string())?;
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tokio::spawn(connection(stream, socket(folder)));
        }
    })
}

async fn connection(stream: TcpStream, socket: std::path::PathBuf) -> Result<()> {
    stream.set_nodelay(true).context("send small pieces at once")?;
    let pass = |request| pass(request, socket.clone());
    let served = server::Builder::new().serve_connection(TokioIo::new(stream), service_fn(pass)).await;
    served.context("serve a connection")
}

async fn pass(mut request: Request<Incoming>, socket: std::path::PathBuf) -> Result<Response<Incoming>> {
    let url = format!("http://proxy{}", request.uri());
    request.headers_mut().insert(REQUEST_URL, HeaderValue::try_from(url).context("name the URL")?);
    *request.uri_mut() = http::Uri::from_static("/call");
    let stream = UnixStream::connect(socket).await.context("connect to the function")?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    tokio::spawn(connection);
    sender.send_request(request).await.context("pass a request on")
}
