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

use crate::lanes::{Lane, Way, measure};
use crate::{greet, obey, one_thread};

/// The gateway answers 503 until gateway and runner have reached the broker.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often that is tried.
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// Calls as the driver says, once a first call was answered.
pub(crate) fn load(to: SocketAddr) -> Result<()> {
    let thread = one_thread()?;
    thread.block_on(first_answer(to))?;
    greet("load")?;
    obey(|order| {
        thread.block_on(async {
            let mut lanes = Vec::with_capacity(order.in_flight);
            for _ in 0..order.in_flight {
                lanes.push(HttpLane::open(to, order.way, order.body()).await?);
            }
            measure(lanes, order.lasting()).await
        })
    })
}

async fn first_answer(to: SocketAddr) -> Result<()> {
    let began = Instant::now();
    let mut lane = HttpLane::open(to, Way::Auto, Bytes::from_static(b"first")).await?;
    while let Err(error) = lane.call().await {
        ensure!(began.elapsed() < START_DEADLINE, error.context("no call was answered in time"));
        tokio::time::sleep(TRY_INTERVAL).await;
    }
    Ok(())
}

struct HttpLane {
    sender: SendRequest<Full<Bytes>>,
    way: Way,
    body: Bytes,
}

impl HttpLane {
    async fn open(to: SocketAddr, way: Way, body: Bytes) -> Result<Self> {
        let stream = TcpStream::connect(to).await.context("connect to the gateway")?;
        stream.set_nodelay(true).context("send small requests at once")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
        tokio::spawn(connection);
        Ok(Self { sender, way, body })
    }
}

impl Lane for HttpLane {
    async fn call(&mut self) -> Result<()> {
        let Self { sender, way, body } = self;
        let request = Request::post(way.path())
            .header("host", "localhost")
            .header("accept", "*/*")
            .header("content-type", "text/plain")
            .header("user-agent", "bench");
        let request = request.body(Full::new(body.clone())).context("build a request")?;
        let response = sender.send_request(request).await.context("call")?;
        let status = response.status();
        let answer = response.into_body().collect().await.context("read an answer")?.to_bytes();
        let expected = if *way == Way::Async { StatusCode::ACCEPTED } else { StatusCode::OK };
        ensure!(status == expected, "the gateway answered {status}: {}", String::from_utf8_lossy(&answer));
        ensure!(*way == Way::Async || answer == *body, "the product answered with {} bytes", answer.len());
        Ok(())
    }
}
