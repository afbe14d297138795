//! Connections that switch protocols, between a gateway that a test plays and a real server.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Outcome, WEBSOCKET};
use funcatron_runner::Endpoint;
use http::StatusCode;
use kit::gateway::{Gateway, answered};
use kit::hosting::{Runner, at, dedicated};
use kit::server::Server;
use kit::streams::{Listener, PlayedFunction, Stream};
use tempfile::TempDir;

struct Stage {
    _dir: TempDir,
    gateway: Gateway,
    listener: Listener,
    server: Server,
    runner: Runner,
}

async fn stage() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let server = Server::start().await;
    let runner = Runner::start(&broker, at(dir.path(), Endpoint::Http(server.port), 1, false));
    Stage { _dir: dir, gateway, listener: Listener::start().await, server, runner }
}

/// Offers a call's client a switch.
fn offer(listener: &Listener, call: &mut Call) {
    listener.offer(call, false);
    call.direct.as_mut().unwrap().upgrade = Some(WEBSOCKET.to_owned());
}

impl Stage {
    /// Asks for a WebSocket there.
    async fn ask(&mut self, path: &str) -> CallId {
        let mut call = Call { url: format!("http://shop.example{path}"), ..self.gateway.call("") };
        call.headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        call.headers.insert("sec-websocket-protocol", "chat, other".parse().unwrap());
        offer(&self.listener, &mut call);
        self.gateway.send(call).await
    }

    /// A stream that has switched.
    async fn switched(&mut self, path: &str) -> Stream {
        self.ask(path).await;
        let mut stream = self.listener.stream().await;
        assert_eq!(stream.head().await.status, StatusCode::SWITCHING_PROTOCOLS);
        stream
    }

    /// Whether a plain call runs, as it does once the one slot is free.
    async fn serves_on(&mut self) {
        let call = Call { url: "http://shop.example/status/200".into(), ..self.gateway.call("") };
        let id = self.gateway.send(call).await;
        assert_eq!(answered(&self.gateway.reply(id).await).0, 200);
    }
}

/// The next bytes of an answer, as many as there are in `wanted`.
async fn reads(stream: &mut Stream, wanted: &str) {
    let mut read = Vec::new();
    while read.len() < wanted.len() {
        read.extend_from_slice(&stream.next().await.unwrap());
    }
    assert_eq!(String::from_utf8(read).unwrap(), wanted);
}

#[tokio::test]
async fn a_server_grants_the_switch_and_bytes_go_both_ways_until_both_have_ended() {
    let mut stage = stage().await;
    stage.ask("/ws/raw?room=7").await;
    let mut stream = stage.listener.stream().await;
    let head = stream.head().await;
    assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(head.headers["sec-websocket-protocol"], "chat");
    assert!(!head.headers.contains_key("connection") && !head.headers.contains_key("upgrade"));
    for word in ["one", "two"] {
        stream.body.write(word).await;
        reads(&mut stream, word).await;
    }
    stream.end_body();
    assert_eq!(stream.rest().await.unwrap(), b"that was all", "the server speaks on after the client's end");
    stage.server.says("closed /ws/raw?room=7").await;
    stage.serves_on().await;
    assert!(stage.gateway.has_no_more_replies(), "it was answered over its stream");
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_connection_holds_its_slot_for_as_long_as_it_lives() {
    let mut stage = stage().await;
    let mut stream = stage.switched("/ws/bye").await;
    assert_eq!(stream.rest().await.unwrap(), b"bye");
    let waiting = stage.gateway.send(stage.gateway.call("")).await;
    // The server has ended its side, and the client has not.
    stream.body.write(vec![7; 100_000]).await;
    assert_eq!(stage.gateway.state(&stage.gateway.queue()).await.ready, 1);
    stream.end_body();
    stage.server.says("read 100000").await;
    assert_eq!(answered(&stage.gateway.reply(waiting).await).0, 200);
    stage.runner.stop().await;
}

#[tokio::test]
async fn an_answer_that_grants_nothing_is_an_answer_like_any_other() {
    let mut stage = stage().await;
    for (path, status, body) in [("/ws/refused", 403, "not you"), ("/ws/plain", 200, "no upgrade here")] {
        let id = stage.ask(path).await;
        let _stream = stage.listener.stream().await;
        assert_eq!(answered(&stage.gateway.reply(id).await), (status, body));
    }
    stage.ask("/large").await;
    let mut stream = stage.listener.stream().await;
    assert_eq!(stream.head().await.status, StatusCode::OK);
    stream.end_body();
    assert_eq!(stream.rest().await.unwrap().len(), 300_000);
    stage.serves_on().await;
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_switch_to_something_else_fails_and_closes_its_connection() {
    let mut stage = stage().await;
    let id = stage.ask("/ws/other").await;
    let _stream = stage.listener.stream().await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    stage.server.says("closed /ws/other").await;
    stage.serves_on().await;
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_servers_connection_along() {
    let mut stage = stage().await;
    let mut stream = stage.switched("/ws/mute").await;
    reads(&mut stream, "mute").await;
    drop(stream);
    stage.server.says("closed /ws/mute").await;
    stage.serves_on().await;
    // Before the server has answered as well.
    stage.ask("/hang").await;
    let stream = stage.listener.stream().await;
    stage.server.says("called /hang").await;
    drop(stream);
    stage.server.says("hung-up /hang").await;
    stage.serves_on().await;
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_ends_the_stream() {
    let mut stage = stage().await;
    let mut stream = stage.switched("/ws/exit").await;
    stream.body.write("x").await;
    assert!(stream.rest().await.is_ok_and(|rest| rest.is_empty()));
    stage.server.ended().await;
    stream.end_body();
    let port = stage.server.port;
    stage.server = Server::start_at(port).await;
    stage.serves_on().await;
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_time_that_runs_out_before_the_switch_is_told_and_none_runs_after_it() {
    let mut stage = stage().await;
    let mut late = stage.gateway.short_call("", 300);
    late.url = "http://shop.example/hang".into();
    offer(&stage.listener, &mut late);
    let id = stage.gateway.send(late).await;
    let _stream = stage.listener.stream().await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::TimedOut);
    stage.server.says("hung-up /hang").await;
    let mut brief = stage.gateway.short_call("", 1000);
    brief.url = "http://shop.example/ws/raw".into();
    let until = tokio::time::Instant::now() + Duration::from_millis(1500);
    offer(&stage.listener, &mut brief);
    stage.gateway.send(brief).await;
    let mut stream = stage.listener.stream().await;
    assert_eq!(stream.head().await.status, StatusCode::SWITCHING_PROTOCOLS);
    tokio::time::sleep_until(until).await;
    stream.body.write("later").await;
    reads(&mut stream, "later").await;
    stream.end_body();
    assert_eq!(stream.rest().await.unwrap(), b"that was all");
    stage.runner.stop().await;
}

#[tokio::test]
async fn nobody_is_read_faster_than_the_other_takes() {
    const PIECE: usize = 64 << 10;
    let mut stage = stage().await;
    let mut stream = stage.switched("/ws/raw").await;
    // The server echoes, and nobody reads that: soon it takes nothing more.
    let piece = Bytes::from(vec![7; PIECE]);
    let taken = stream.body.flood(&piece, 1000, Duration::from_millis(500)).await;
    assert!(taken < 700, "{taken} pieces of {PIECE} bytes went in");
    stream.end_body();
    let echoed = stream.rest().await.unwrap().len() - b"that was all".len();
    // The last piece had left already where only its way on was blocked.
    assert!(
        [taken, taken + 1].contains(&(echoed / PIECE)) && echoed.is_multiple_of(PIECE),
        "{echoed} of {taken}"
    );
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_function_of_fns_contract_is_called_as_if_nothing_had_been_asked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let listener = Listener::start().await;
    let mut function = PlayedFunction::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(dir.path(), 1));
    let mut call = gateway.call("");
    offer(&listener, &mut call);
    let id = gateway.send(call).await;
    let called = function.called().await;
    assert!(!called.head.headers.contains_key("upgrade"), "{:?}", called.head.headers);
    let (mut writer, _body) = called.answer(200, &[("content-length", "5")]);
    writer.write("plain").await;
    assert_eq!(answered(&gateway.reply(id).await), (200, "plain"));
    assert_eq!(listener.connections(), 0);
    assert!(function.is_idle(), "it was called once");
    runner.stop().await;
}
