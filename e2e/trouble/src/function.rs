//! A function that answers with the number of its call, counts its runs, and can be held up, as Fn's http-stream
//! contract has it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;

/// What a call takes: as long as this, there are always some in flight when trouble begins.
const WORK: Duration = Duration::from_millis(100);

/// What the function has done so far.
#[derive(Debug)]
pub struct Function {
    runs: Mutex<HashMap<u64, usize>>,
    running: AtomicUsize,
    is_open: watch::Sender<bool>,
    serving: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Function {
    /// Listens on a socket, and serves until it is dropped.
    pub fn serve(socket: &Path) -> Result<Arc<Self>> {
        let listener = UnixListener::bind(socket).context("listen on the function's socket")?;
        let function = Arc::new(Self {
            runs: Mutex::default(),
            running: AtomicUsize::new(0),
            is_open: watch::Sender::new(true),
            serving: Mutex::default(),
        });
        let weak = Arc::downgrade(&function);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let weak = weak.clone();
                let service = service_fn(move |request| {
                    let function = weak.upgrade();
                    async move { Ok::<_, Infallible>(run(function, request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        *function.serving.lock() = Some(serving.abort_handle());
        Ok(function)
    }

    /// How often each call was begun, by its number.
    pub fn runs(&self) -> HashMap<u64, usize> {
        self.runs.lock().clone()
    }

    /// Calls that are running now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Has every call wait before its end.
    pub fn hold(&self) {
        self.is_open.send_replace(false);
    }

    /// Lets calls end.
    pub fn release(&self) {
        self.is_open.send_replace(true);
    }

    async fn work(&self, number: u64) {
        *self.runs.lock().entry(number).or_default() += 1;
        let _running = Running::new(&self.running);
        tokio::time::sleep(WORK).await;
        // Its sender lives in `self`: the wait ends by the word alone.
        let _ = self.is_open.subscribe().wait_for(|open| *open).await;
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.serving.lock().take().iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// One call that runs, however it ends.
struct Running<'a>(&'a AtomicUsize);

impl<'a> Running<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn run(function: Option<Arc<Function>>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let number = number(&request);
    // The body is read to its end, as a function would; these have none that matters.
    let _ = request.into_body().collect().await;
    if let (Some(function), Some(number)) = (function, number) {
        function.work(number).await;
    }
    let text = number.map_or_else(String::new, |number| number.to_string());
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert("fn-http-status", HeaderValue::from_static("200"));
    answer
}

/// The last part of the URL.
fn number(request: &Request<Incoming>) -> Option<u64> {
    let url = request.headers().get("fn-http-request-url")?.to_str().ok()?;
    url.rsplit('/').next()?.parse().ok()
}
