//! HTTP/1.1 clients on keep-alive connections, each with one request at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::lanes::{Lane, measure};
use crate::{BODY, greet, obey, one_thread};

/// The gateway answers 503 until gateway and runner have reached the broker.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often that is tried.
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// Calls as the driver says, once a first call was answered.
pub(crate) fn load(to: SocketAddr) -> Result<()> {
    let thread = one_thread()?;
    thread.block_on(first_answer(to))?;
    greet("load")?;
    obey(|in_flight, lasting| {
        thread.block_on(async {
            let mut lanes = Vec::with_capacity(in_flight);
            for _ in 0..in_flight {
                lanes.push(HttpLane::open(to).await?);
            }
            measure(lanes, lasting).await
        })
    })
}

async fn first_answer(to: SocketAddr) -> Result<()> {
    let began = Instant::now();
    let mut lane = HttpLane::open(to).await?;
    while let Err(error) = lane.call().await {
        ensure!(began.elapsed() < START_DEADLINE, error.context("no call was answered in time"));
        tokio::time::sleep(TRY_INTERVAL).await;
    }
    Ok(())
}

struct HttpLane(SendRequest<Full<Bytes>>);

impl HttpLane {
    async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await.context("connect to the gateway")?;
        stream.set_nodelay(true).context("send small requests at once")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl Lane for HttpLane {
    async fn call(&mut self) -> Result<()> {
        let request = Request::post("/echo")
            .header("host", "localhost")
            .header("accept", "*/*")
            .header("content-type", "text/plain")
            .header("user-agent", "bench");
        let request = request.body(Full::new(Bytes::from_static(&BODY))).context("build a request")?;
        let response = self.0.send_request(request).await.context("call")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("read an answer")?.to_bytes();
        ensure!(
            status == StatusCode::OK,
            "the gateway answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        ensure!(body == BODY[..], "the product answered with {} bytes", body.len());
        Ok(())
    }
}
