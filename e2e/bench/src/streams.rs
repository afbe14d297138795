//! Large bodies through the product, over two gateways in turn: whether they arrive as they were sent, how fast, and how
//! far they grow the processes on their way.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ring::digest::{Context, SHA256};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::parts::Part;
use crate::setup::Setup;
use crate::streaming::{hex, pieces};

/// What streams may grow a process by, however large they are.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// Far more than an event takes on a busy machine, and far less than a GiB does.
const SOON: Duration = Duration::from_secs(20);
/// Calls that warm each gateway up, so that what a first call allocates counts for no stream.
const WARM_BYTES: u64 = 4 << 20;
/// Events, each written only after the one before has come back.
const EVENTS: u32 = 20;

/// The processes on a stream's way.
struct Parts {
    gateways: [Part; 2],
    runner: Part,
    _function: Part,
}

/// Checks all of it, and prints what it took.
pub(crate) async fn check(amqp: &str, management: &str, bytes: u64) -> Result<()> {
    let setup = Setup::make(amqp, management).await?;
    let checked = with(&setup, amqp, bytes).await;
    setup.take_down().await?;
    checked
}

async fn with(setup: &Setup<'_>, amqp: &str, bytes: u64) -> Result<()> {
    let folder = std::env::temp_dir().join(setup.installation.as_str());
    std::fs::create_dir_all(&folder).context("make a folder")?;
    let checked = on(setup, amqp, bytes, folder.to_str().context("a folder's name")?).await;
    std::fs::remove_dir_all(&folder).context("remove the folder")?;
    checked
}

async fn on(setup: &Setup<'_>, amqp: &str, bytes: u64, folder: &str) -> Result<()> {
    let (id, folder) = (["--installation", setup.installation.as_str()], ["--folder", folder]);
    let function = Part::start("streaming", amqp, &[(folder[0], folder[1])]).await?;
    let only_id = [(id[0], id[1])];
    let gateway = || Part::start("gateway", amqp, &only_id);
    let gateways = [gateway().await?, gateway().await?];
    let options = [(id[0], id[1]), (folder[0], folder[1])];
    let runner = Part::start("runner", &setup.runner_url, &options).await?;
    let parts = Parts { gateways, runner, _function: function };
    for gateway in 0..2 {
        ready(&parts, gateway).await?;
        up(&parts, gateway, WARM_BYTES).await?;
        down(&parts, gateway, WARM_BYTES).await?;
        events(&parts, gateway).await.context("events")?;
    }
    measured(&parts, 0, "up", bytes, up(&parts, 0, bytes)).await?;
    measured(&parts, 1, "down", bytes, down(&parts, 1, bytes)).await
}

/// Until a first call is answered: links and runner have come up.
async fn ready(parts: &Parts, gateway: usize) -> Result<()> {
    timeout(SOON, async {
        while ask(parts, gateway, "/sink", pieces(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .context("no call is answered")
}

/// Runs a transfer; fails if it grows a process beyond the bound.
async fn measured(
    parts: &Parts,
    gateway: usize,
    way: &str,
    bytes: u64,
    transfer: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (gateway, runner) = (parts.gateways[gateway].process(), parts.runner.process());
    let before = [gateway.peak_from_now()?, runner.peak_from_now()?];
    let started = Instant::now();
    transfer.await.with_context(|| format!("{bytes} bytes {way}"))?;
    let mib_per_s = (bytes >> 20) as f64 / started.elapsed().as_secs_f64();
    let grown = [gateway.peak()?.saturating_sub(before[0]), runner.peak()?.saturating_sub(before[1])];
    let [gateway_kib, runner_kib] = grown.map(|bytes| bytes >> 10);
    println!(
        "{} MiB {way}: {mib_per_s:.0} MiB/s, gateway +{gateway_kib} KiB, runner +{runner_kib} KiB",
        bytes >> 20
    );
    ensure!(grown.iter().all(|grown| *grown < GROWTH_BYTES_MAX), "a process grew by more than 32 MiB");
    Ok(())
}

async fn up(parts: &Parts, gateway: usize, bytes: u64) -> Result<()> {
    let body = ask(parts, gateway, "/sink", pieces(bytes)).await?.into_body();
    let said = body.collect().await.context("read the digest")?.to_bytes();
    let sent = pieces(bytes).fold(Context::new(&SHA256), |mut digest, piece| async move {
        digest.update(&piece);
        digest
    });
    ensure!(said == hex(sent.await), "the function got other bytes than were sent");
    Ok(())
}

async fn down(parts: &Parts, gateway: usize, bytes: u64) -> Result<()> {
    let mut body = ask(parts, gateway, &format!("/source/{bytes}"), pieces(0)).await?.into_body();
    let (mut got, mut sent) = (Context::new(&SHA256), Context::new(&SHA256));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            got.update(&data);
        }
    }
    let mut pieces = std::pin::pin!(pieces(bytes));
    while let Some(piece) = pieces.next().await {
        sent.update(&piece);
    }
    ensure!(hex(got) == hex(sent), "the client got other bytes than were sent");
    Ok(())
}

/// Each event is written after the former came back: the answer has begun long before the request has ended.
async fn events(parts: &Parts, gateway: usize) -> Result<()> {
    let (mut writer, written) = mpsc::channel(0);
    let mut answer = timeout(SOON, ask(parts, gateway, "/echo", written)).await??.into_body();
    for number in 0..EVENTS {
        let event = Bytes::from(format!("data: {number}\n\n"));
        timeout(SOON, writer.send(event.clone())).await??;
        let back = timeout(SOON, answer.frame()).await?.context("the answer ended")??;
        ensure!(back.into_data().is_ok_and(|data| data == event), "another event came back");
    }
    drop(writer);
    let rest = timeout(SOON, answer.collect()).await??.to_bytes();
    ensure!(rest.is_empty(), "more came back than was written");
    Ok(())
}

async fn ask(
    parts: &Parts,
    gateway: usize,
    path: &str,
    body: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Response<Incoming>> {
    let to: SocketAddr = parts.gateways[gateway].greeting.parse().context("read the gateway's address")?;
    let stream = TcpStream::connect(to).await.context("connect to the gateway")?;
    let frames = body.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request =
        Request::post(path).header("host", "bench.example.com").body(StreamBody::new(Box::pin(frames)))?;
    let answer = sender.send_request(request).await.context("ask the gateway")?;
    ensure!(answer.status().is_success(), "the gateway answered {}", answer.status());
    Ok(answer)
}
