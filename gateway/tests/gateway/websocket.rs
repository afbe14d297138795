//! Connections that go on as WebSockets: a client on a real connection, and a runner that a test plays.

use std::net::SocketAddr;
use std::time::Duration;

use funcatron_broker::message::{Outcome, WEBSOCKET};
use funcatron_gateway::Limits;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::streams::*;
use crate::support::*;

const SWITCHING: StatusCode = StatusCode::SWITCHING_PROTOCOLS;
/// What a browser says of itself.
const ASKS: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: https://shop.example.com\r\n";

/// A client's connection.
struct Socket(TcpStream);

impl Socket {
    async fn ask(to: SocketAddr, request: &str) -> Self {
        let mut socket = Self(TcpStream::connect(to).await.unwrap());
        socket.write(request).await;
        socket
    }

    /// Asks for a WebSocket.
    async fn get(to: SocketAddr, path: &str) -> Self {
        Self::ask(to, &format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{ASKS}\r\n")).await
    }

    async fn write(&mut self, text: &str) {
        soon(self.0.write_all(text.as_bytes())).await.unwrap();
    }

    /// An answer's head, in lower case.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(self.0.read_u8()).await.unwrap());
        }
        String::from_utf8(head).unwrap().to_lowercase()
    }

    async fn reads(&mut self, wanted: &str) {
        let mut read = vec![0; wanted.len()];
        soon(self.0.read_exact(&mut read)).await.unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), wanted);
    }

    /// Whether the connection ends, with nothing more said.
    async fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest.is_empty()
    }
}

fn accepting() -> HeaderMap {
    let pairs =
        [("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), ("x-own", "1"), ("upgrade", "other")];
    let pairs = pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    HeaderMap::from_iter(pairs)
}

/// A connection that has switched.
async fn switched(fixture: &Fixture, runner: &mut Runner) -> (Socket, Played) {
    let mut client = Socket::get(fixture.public, "/page").await;
    let mut stream = open(&taken(runner).await).await;
    stream.head(SWITCHING, accepting()).await;
    assert!(client.head().await.starts_with("http/1.1 101 "));
    (client, stream)
}

async fn nothing_is_held(fixture: &Fixture) {
    eventually(async || fixture.metric("funcatron_gateway_calls_in_flight").await == 0.0).await;
    eventually(async || fixture.metric("funcatron_gateway_direct_streams").await == 0.0).await;
}

fn end(stream: &mut Played) {
    drop(std::mem::replace(&mut stream.answer, pieces().0));
}

#[tokio::test]
async fn a_connection_switches_and_carries_both_ways_until_both_sides_have_ended() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Socket::get(fixture.public, "/page/chat?room=7").await;
    let call = taken(&mut runner).await;
    assert_eq!(offer(&call).upgrade.as_deref(), Some(WEBSOCKET));
    assert!(!offer(&call).body && call.body.is_empty());
    assert!(!call.headers.contains_key("connection") && !call.headers.contains_key("upgrade"));
    assert_eq!(call.headers["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(call.headers["origin"], "https://shop.example.com");
    let mut stream = open(&call).await;
    assert!(futures::poll!(stream.body.frame()).is_pending());
    stream.head(SWITCHING, accepting()).await;
    let head = client.head().await;
    let id = format!("fn-call-id: {}\r\n", call.id);
    for line in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "x-own: 1\r\n", &id] {
        assert_eq!(head.matches(line).count(), 1, "{line:?} in {head}");
    }
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for word in ["one", "two"] {
        client.write(word).await;
        assert_eq!(next(&mut stream.body).await.unwrap(), word);
        stream.answer.write(word.to_uppercase()).await;
        client.reads(&word.to_uppercase()).await;
    }
    assert_eq!(fixture.metric("funcatron_gateway_calls_in_flight").await, 1.0);
    assert_eq!(fixture.metric("funcatron_gateway_direct_streams").await, 1.0);
    // The client's end is told, and the function may still speak.
    client.0.shutdown().await.unwrap();
    assert_eq!(next(&mut stream.body).await, None);
    assert!(stream.body.is_end_stream());
    stream.answer.write("last").await;
    end(&mut stream);
    client.reads("last").await;
    assert!(client.is_over().await);
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn the_functions_end_is_told_and_the_client_may_still_speak() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, mut stream) = switched(&fixture, &mut runner).await;
    end(&mut stream);
    let mut byte = [0];
    assert_eq!(soon(client.0.read(&mut byte)).await.unwrap(), 0);
    client.write("last").await;
    assert_eq!(next(&mut stream.body).await.unwrap(), "last");
    drop(client);
    assert_eq!(next(&mut stream.body).await, None);
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn an_answer_that_grants_nothing_passes_and_the_connection_serves_on() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Socket::get(fixture.public, "/page").await;
    runner.serve(Outcome::Answer(StatusCode::FORBIDDEN), "not you").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 403 ") && !head.contains("upgrade"), "{head}");
    client.reads("not you").await;
    // So does one that comes over the stream, of whose end the runner is told.
    client.write(&format!("GET /page HTTP/1.1\r\nhost: {HOST}\r\n{ASKS}\r\n")).await;
    let mut stream = open(&taken(&mut runner).await).await;
    stream.head(StatusCode::OK, HeaderMap::from_iter([(http::header::CONTENT_LENGTH, 4.into())])).await;
    stream.answer.write("text").await;
    end(&mut stream);
    assert!(client.head().await.starts_with("http/1.1 200 "));
    client.reads("text").await;
    assert_eq!(next(&mut stream.body).await, None);
    client.write(&format!("GET /page HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await;
    runner.serve(Outcome::Answer(StatusCode::OK), "more").await;
    assert!(client.head().await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_nonsense() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let playing = async {
        let mut stream = open(&taken(&mut runner).await).await;
        stream.head(SWITCHING, accepting()).await;
        stream.answer.gone().await;
    };
    let (answer, ()) = tokio::join!(fixture.get("/page"), playing);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "function-failed"));
}

#[tokio::test]
async fn whatever_else_is_asked_for_is_answered_as_if_it_were_not() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let with = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nhost: {HOST}\r\n{ASKS}{more}");
    for (request, streams) in [
        (with("POST /page", "content-length: 2\r\n\r\n{}"), true),
        (with("GET /page", "content-length: 2\r\n\r\n{}"), true),
        (format!("GET /page HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"), true),
        (with("GET /kept", "\r\n"), false),
    ] {
        let mut client = Socket::ask(fixture.public, &request).await;
        let call = runner.serve(Outcome::Answer(StatusCode::OK), "plain").await;
        assert!(call.direct.as_ref().is_none_or(|offer| offer.upgrade.is_none()), "{request}");
        assert_eq!(call.direct.is_some(), streams, "{request}");
        assert!(client.head().await.starts_with("http/1.1 200 "), "{request}");
    }
    let request = Request::get(format!("http://{HOST}/page")).header("sec-websocket-version", "13");
    let request = request.body(Full::default()).unwrap();
    let mut sender = h2(fixture.public).await;
    let asking = tokio::spawn(sender.send_request(request));
    let call = runner.serve(Outcome::Answer(StatusCode::OK), "plain").await;
    assert_eq!(offer(&call).upgrade, None);
    assert_eq!(soon(asking).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_fn_is_connected_to_by_its_name_and_otherwise_posted_to() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = Socket::get(fixture.internal, "/invoke/team-a/page").await;
    let call = taken(&mut runner).await;
    assert_eq!(offer(&call).upgrade.as_deref(), Some(WEBSOCKET));
    let mut stream = open(&call).await;
    stream.head(SWITCHING, accepting()).await;
    assert!(client.head().await.starts_with("http/1.1 101 "));
    let plain = send(fixture.internal, Method::GET, "gateway", "/invoke/team-a/page", &[], "").await;
    assert_eq!(plain.status, 405);
}

#[tokio::test]
async fn a_client_that_leaves_breaks_the_stream_off() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    // Before the switch …
    let client = Socket::get(fixture.public, "/page").await;
    let mut stream = open(&taken(&mut runner).await).await;
    drop(client);
    stream.answer.gone().await;
    assert!(soon(stream.body.frame()).await.unwrap().is_err());
    // … and after it, in a way that is no end.
    let (client, mut stream) = switched(&fixture, &mut runner).await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    stream.answer.gone().await;
    assert!(soon(stream.body.frame()).await.unwrap().is_err());
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn a_runner_that_leaves_ends_the_connection() {
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, stream) = switched(&fixture, &mut runner).await;
    drop(stream);
    assert!(client.is_over().await);
    let (mut client, mut stream) = switched(&fixture, &mut runner).await;
    std::mem::replace(&mut stream.answer, pieces().0).break_off().await;
    assert!(client.is_over().await);
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_ends() {
    let fixture = with(Limits { stream_idle_timeout: BRIEF, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, mut stream) = switched(&fixture, &mut runner).await;
    let began = tokio::time::Instant::now();
    // Either side's word keeps it.
    while began.elapsed() < BRIEF * 2 {
        client.write("a").await;
        assert_eq!(next(&mut stream.body).await.unwrap(), "a");
        tokio::time::sleep(BRIEF / 10).await;
    }
    assert!(client.is_over().await);
    stream.answer.gone().await;
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn nobody_is_read_faster_than_the_other_takes() {
    const PIECE: usize = 64 << 10;
    /// Far beyond what windows and the kernel's buffers hold together.
    const FLOOD: usize = 64 << 20;
    let fixture = fixture().await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, mut stream) = switched(&fixture, &mut runner).await;
    let piece = bytes(PIECE);
    let (mut up, mut down) = (0, 0);
    while up < FLOOD
        && let Ok(written) = tokio::time::timeout(BRIEF, client.0.write(&piece)).await
    {
        up += written.unwrap();
    }
    while down < FLOOD && tokio::time::timeout(BRIEF, stream.answer.write(piece.clone())).await.is_ok() {
        down += PIECE;
    }
    assert!(up < FLOOD / 2 && down < FLOOD / 2, "{up} and {down} bytes went in");
    // What was taken is all there.
    let (mut reading, mut writing) = client.0.into_split();
    end(&mut stream);
    let mut read = Vec::new();
    soon(reading.read_to_end(&mut read)).await.unwrap();
    assert!(read.len() >= down, "{} of {down}", read.len());
    writing.shutdown().await.unwrap();
    let mut taken = 0;
    while let Some(piece) = next(&mut stream.body).await {
        taken += piece.len();
    }
    assert_eq!(taken, up);
    nothing_is_held(&fixture).await;
}

#[tokio::test]
async fn a_drain_waits_for_connections_and_not_for_ever() {
    let fixture = with(Limits { drain_timeout: Duration::from_secs(20), ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, mut stream) = switched(&fixture, &mut runner).await;
    fixture.shutdown.cancel();
    eventually(async || TcpStream::connect(fixture.public).await.is_err()).await;
    client.write("still").await;
    assert_eq!(next(&mut stream.body).await.unwrap(), "still");
    client.0.shutdown().await.unwrap();
    end(&mut stream);
    soon(fixture.served).await.unwrap();

    let fixture = with(Limits { drain_timeout: BRIEF, ..Limits::default() }).await;
    let mut runner = fixture.runner("00000001").await;
    let (mut client, stream) = switched(&fixture, &mut runner).await;
    fixture.shutdown.cancel();
    assert!(client.is_over().await);
    stream.answer.gone().await;
    soon(fixture.served).await.unwrap();
}
