//! Connections: malformed and slow ones, many at once, HTTP/2, tables that change underneath, and the drain.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use funcatron_broker::message::Outcome;
use funcatron_gateway::{HostPolicy, Limits};
use futures::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

/// Sends bytes and reads until the gateway has said its last; the connection must then end by itself.
pub(crate) async fn raw(to: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malformed_http_is_refused_and_its_connection_closed() {
    let fixture = Fixture::start().await;
    let big = "x".repeat(400_000);
    for (request, status) in [
        ("GARBAGE\r\n\r\n".to_owned(), "400"),
        ("GET /page HTTP/9.9\r\nhost: a\r\n\r\n".to_owned(), "400"),
        ("GET /page HTTP/1.1\r\nhost: a\r\nbad header: 1\r\n\r\n".to_owned(), "400"),
        (
            "POST /page HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".to_owned(),
            "400",
        ),
        ("POST /page HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_owned(), "400"),
        ("POST /page HTTP/1.1\r\nhost: a\r\ntransfer-encoding: x\r\n\r\n".to_owned(), "400"),
        (format!("GET /page HTTP/1.1\r\nhost: a\r\nx: {big}\r\n\r\n"), "431"),
    ] {
        let answer = raw(fixture.public, &request).await;
        let shown: String = request.chars().take(60).collect();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?} got {answer:?}");
    }
}

#[tokio::test]
async fn a_request_cannot_be_smuggled_behind_another() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let both = "POST /page/outer HTTP/1.1\r\nhost: shop.example.com\r\ncontent-length: 5\r\n\
                transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /page/smuggled HTTP/1.1\r\nhost: shop.example.com\r\n\r\n";
    let answering = async { runner.serve(OK, "").await };
    let answer = tokio::select! {
        answer = raw(fixture.public, both) => answer,
        outer = answering => {
            // Chunked wins (RFC 9112, 6.1), and hyper ends the connection after it.
            assert!(outer.url.ends_with("/page/outer"));
            return;
        }
    };
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn what_hyper_lets_through_is_refused_in_our_own_words() {
    let fixture = Fixture::start().await;
    for request in [
        "GET /page HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET /page HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        "GET /page HTTP/1.1\r\nhost: user@a\r\nconnection: close\r\n\r\n",
    ] {
        let answer = raw(fixture.public, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("problems/bad-request"), "{answer}");
    }
    let long = "x".repeat(40_000);
    let answer = send(fixture.public, Method::GET, HOST, "/page", &[("x-long", &long)], "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (431, "head-too-large"));
}

#[tokio::test]
async fn a_head_or_a_body_that_drips_is_given_up() {
    let limits = Limits {
        head_timeout: Duration::from_millis(200),
        body_idle_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let fixture = Fixture::with(HostPolicy::Strict, limits).await;
    assert_eq!(raw(fixture.public, "").await, "", "a silent connection is closed");
    assert!(!raw(fixture.public, "GET /page HTTP/1.1\r\nhost").await.contains("200 OK"));
    let head = "POST /page HTTP/1.1\r\nhost: shop.example.com\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = raw(fixture.public, head).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body-too-slow"), "{answer}");
    assert_eq!(fixture.metric("funcatron_gateway_buffered_bytes").await, 0.0);
}

#[tokio::test]
async fn bodies_beyond_the_memory_for_them_are_503() {
    let limits = Limits { buffered_bytes_max: 100, ..Limits::default() };
    let fixture = Fixture::with(HostPolicy::Strict, limits).await;
    let answer = send(fixture.public, Method::POST, HOST, "/page", &[], vec![b'x'; 101]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "gateway-busy"));
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_or_refused_before_it_sends() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    let mut stream = TcpStream::connect(fixture.public).await.unwrap();
    let head =
        "POST /page HTTP/1.1\r\nhost: shop.example.com\r\nexpect: 100-continue\r\nconnection: close\r\n";
    stream.write_all(format!("{head}content-length: 3\r\n\r\n").as_bytes()).await.unwrap();
    let mut told = [0; 25];
    soon(stream.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"tea").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("tea"), "{answer}");
    let refused = raw(fixture.public, &format!("{head}content-length: 1001\r\n\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    echo.abort();
}

#[tokio::test]
async fn many_at_once_each_get_their_own_answer() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    let calls = (0..64).map(async |number: u32| {
        let body = format!("body {number}");
        let answer = send(fixture.public, Method::POST, HOST, "/page", &[], body.clone()).await;
        assert_eq!((answer.status, answer.text()), (200, body));
    });
    join_all(calls).await;
    let sender = h2(fixture.public).await;
    let calls = (0..64).map(|number: u32| {
        let mut sender = sender.clone();
        async move {
            let body = format!("body {number}");
            let request =
                Request::post(format!("http://{HOST}/page")).body(Full::new(body.clone().into())).unwrap();
            let answer = collected(soon(sender.send_request(request)).await.unwrap()).await;
            assert_eq!((answer.status, answer.text()), (200, body));
        }
    });
    join_all(calls).await;
    echo.abort();
}

#[tokio::test]
async fn over_http_2_the_authority_is_the_host() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let mut sender = h2(fixture.public).await;
    let request = Request::get(format!("http://{HOST}/page")).body(Full::default()).unwrap();
    let (answer, call) = tokio::join!(sender.send_request(request), runner.serve(OK, "h2"));
    assert_eq!(collected(answer.unwrap()).await.text(), "h2");
    assert_eq!(
        (call.url.as_str(), &call.headers["host"]),
        ("http://shop.example.com/page", &HOST.parse().unwrap())
    );
    let request = Request::head(format!("http://{HOST}/page")).body(Full::default()).unwrap();
    let (answer, _) = tokio::join!(sender.send_request(request), runner.serve(OK, "five!"));
    let answer = collected(answer.unwrap()).await;
    assert_eq!((answer.body.len(), &answer.headers["content-length"]), (0, &http::HeaderValue::from(5)));
}

#[tokio::test]
async fn tables_change_under_load_without_a_failed_request() {
    let fixture = Fixture::start().await;
    let echoes = [fixture.runner("00000001").await.echo(), fixture.runner("00000002").await.echo()];
    let swapped = std::sync::atomic::AtomicBool::new(false);
    let load = async {
        let (mut seen, mut after) = (std::collections::BTreeSet::new(), 0);
        while after < 20 {
            let answer = fixture.get("/page").await;
            assert_eq!(answer.status, 200);
            after += u32::from(swapped.load(std::sync::atomic::Ordering::SeqCst));
            seen.insert(answer.headers["x-revision"].to_str().unwrap().to_owned());
        }
        seen
    };
    let swaps = async {
        for round in 0..50 {
            let hash = if round % 2 == 0 { "00000001" } else { "00000002" };
            fixture.tables.put_app("team-a", "shop", Some(app(hash))).unwrap();
            let rules = [rule(None, "/page", "page", None), rule(None, &format!("/r{round}"), "page", None)];
            let table = route("shop", "site", &[HOST.to_owned()], &rules);
            fixture.tables.put_route("team-a", "site", Some(table)).unwrap();
            tokio::task::yield_now().await;
        }
        swapped.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (seen, ()) = tokio::join!(load, swaps);
    assert!(seen.contains(&revision("00000002")));
    echoes.iter().for_each(|echo| echo.abort());
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let stopping = async {
        let (call, delivery) = runner.take().await;
        fixture.shutdown.cancel();
        let public = fixture.public;
        eventually(async || TcpStream::connect(public).await.is_err()).await;
        assert_eq!(get(fixture.ops, "ops", "/readyz").await.status, 503);
        runner.reply(&call, reply(&call, OK, "finished")).await;
        delivery.ack().await.unwrap();
    };
    let (answer, ()) = tokio::join!(fixture.get("/page"), stopping);
    assert_eq!(answer.text(), "finished");
    soon(fixture.served).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_in_time_whatever_is_in_flight() {
    let limits = Limits { drain_timeout: Duration::from_millis(200), ..Limits::default() };
    let fixture = Fixture::with(HostPolicy::Strict, limits).await;
    let mut runner = fixture.runner("00000001").await;
    let mut client = TcpStream::connect(fixture.public).await.unwrap();
    client.write_all(b"GET /page HTTP/1.1\r\nhost: shop.example.com\r\n\r\n").await.unwrap();
    let (_call, _held) = runner.take().await;
    let started = Instant::now();
    fixture.shutdown.cancel();
    soon(fixture.served).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_drain() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    let mut idle = TcpStream::connect(fixture.public).await.unwrap();
    idle.write_all(b"GET /page HTTP/1.1\r\nhost: shop.example.com\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    soon(idle.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let _silent = TcpStream::connect(fixture.public).await.unwrap();
    fixture.shutdown.cancel();
    soon(fixture.served).await.unwrap();
    echo.abort();
}
