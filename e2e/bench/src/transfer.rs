//! One large body through a server, timed and counted, without a digest that would cost more than the way.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use futures::StreamExt as _;

/// What is written at once.
const PIECE: &[u8] = &[b'x'; 64 << 10];

/// From whom to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// Sends or receives `bytes`, a multiple of 64 KiB; says how long it took.
pub(crate) async fn transfer(to: SocketAddr, direction: Direction, bytes: u64) -> Result<Duration> {
    let (path, sent) = match direction {
        Direction::Up => ("/count".to_owned(), bytes),
        Direction::Down => (format!("/source/{bytes}"), 0),
    };
    let stream = TcpStream::connect(to).await.context("connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    tokio::spawn(connection);
    let pieces = (0..sent / PIECE.len() as u64).map(|_| Bytes::from_static(PIECE));
    let frames = stream::iter(pieces.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece))));
    let request = Request::post(path).header("host", "localhost").body(StreamBody::new(frames))?;
    let began = Instant::now();
    let answer = sender.send_request(request).await.context("ask")?;
    ensure!(answer.status() == StatusCode::OK, "it was answered {}", answer.status());
    match direction {
        Direction::Up => {
            let said = answer.into_body().collect().await.context("read how much came")?.to_bytes();
            ensure!(said == bytes.to_string(), "{} of {bytes} bytes came", String::from_utf8_lossy(&said));
        }
        Direction::Down => {
            let mut body = BodyStream::new(answer.into_body());
            let mut got = 0;
            while let Some(frame) = body.next().await {
                got += frame.context("the answer broke off")?.data_ref().map_or(0, Bytes::len) as u64;
            }
            ensure!(got == bytes, "{got} of {bytes} bytes came");
        }
    }
    Ok(began.elapsed())
}
