//! A runner of an image that is a plain HTTP server: a real one, in a process of its own.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use bytes::Bytes;
use funcatron_broker::link::{Envelope, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, Intent, Outcome, Reply, ReportEvent};
use funcatron_runner::Endpoint;
use http::{HeaderMap, Method};
use kit::gateway::{Gateway, answered};
use kit::hosting::{Runner, at};
use kit::server::Server;
use kit::streams::Listener;
use kit::{REVISION, eventually};
use serde_json::Value;
use tempfile::TempDir;

struct Stage {
    dir: TempDir,
    broker: LocalBroker,
    gateway: Gateway,
    server: Server,
    runner: Runner,
}

async fn stage(concurrency: u32) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let server = Server::start().await;
    let runner = Runner::start(&broker, at(dir.path(), Endpoint::Http(server.port), concurrency, false));
    Stage { dir, broker, gateway, server, runner }
}

impl Stage {
    fn call(&self, method: Method, path: &str) -> Call {
        Call { method, url: format!("http://shop.example{path}"), ..self.gateway.call("") }
    }

    async fn ask(&mut self, call: Call) -> Reply {
        let id = self.gateway.send(call).await;
        self.gateway.reply(id).await
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.ask(self.call(Method::GET, path)).await
    }

    /// What the server saw of a request.
    async fn seen(&mut self, call: Call) -> Value {
        let reply = self.ask(call).await;
        assert_eq!(answered(&reply).0, 200);
        serde_json::from_slice(&reply.body).unwrap()
    }
}

fn values<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = seen["headers"].as_array().unwrap().iter();
    headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_server_sees_the_clients_own_request() {
    let mut stage = stage(1).await;
    let mut call = stage.call(Method::PATCH, "/v1/orders/a%2Fb?x=1&x=2");
    call.headers.insert("host", "shop.example:8080".parse().unwrap());
    call.headers.append("cookie", "a=1".parse().unwrap());
    call.headers.insert("x-forwarded-proto", "https".parse().unwrap());
    call.headers.insert("fn-attempt", "forged".parse().unwrap());
    call.body = Bytes::from_static(b"{\"a\": 1}");
    let id = call.id.to_string();
    let seen = stage.seen(call).await;
    assert_eq!((&seen["method"], &seen["path"]), (&"PATCH".into(), &"/v1/orders/a%2Fb?x=1&x=2".into()));
    assert_eq!(seen["body"], "{\"a\": 1}");
    for (name, wanted) in [
        ("host", "shop.example:8080"),
        ("cookie", "a=1"),
        ("content-type", "text/plain"),
        ("content-length", "8"),
        ("x-client", "curl"),
        ("x-forwarded-proto", "https"),
        ("fn-call-id", id.as_str()),
        ("fn-attempt", "1"),
    ] {
        assert_eq!(values(&seen, name), [wanted], "{name}");
    }
    let deadline = values(&seen, "fn-deadline");
    assert!(deadline[0].ends_with('Z'), "{deadline:?}");
    stage.runner.stop().await;
}

#[tokio::test]
async fn an_answer_goes_back_as_it_is() {
    let mut stage = stage(1).await;
    for status in [200, 201, 204, 302, 304, 404, 418, 500, 502, 504] {
        let reply = stage.get(&format!("/status/{status}")).await;
        let body = if [204, 304].contains(&status) { "" } else { "as asked" };
        assert_eq!(answered(&reply), (status, body));
        assert_eq!(reply.headers["x-own"], "1");
        assert!(reply.headers.contains_key("date"), "{:?}", reply.headers);
    }
    let head = stage.ask(stage.call(Method::HEAD, "/status/200")).await;
    assert_eq!(answered(&head), (200, ""));
    assert_eq!(answered(&stage.get("/chunks").await), (200, "onetwo"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn an_invocation_and_an_event_are_posts_to_the_root() {
    let mut stage = stage(1).await;
    let mut call = stage.call(Method::POST, "/invoke/team/hello?x=1");
    (call.intent, call.body) = (Intent::Invoke, Bytes::from_static(b"hi"));
    let seen = stage.seen(call).await;
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["body"]),
        (&"POST".into(), &"/?x=1".into(), &"hi".into())
    );
    stage.runner.stop().await;

    let durable = stage.gateway.declare_durable().await;
    let config = at(stage.dir.path(), Endpoint::Http(stage.server.port), 1, true);
    let runner = Runner::start(&stage.broker, config);
    let event = Envelope { body: Bytes::from_static(b"paid"), ..Envelope::default() };
    stage.gateway.link.publish(Target::queue(&durable), event, true).await.unwrap();
    stage.server.says("called /").await;
    runner.stop().await;
    assert_eq!(stage.gateway.state(&durable).await.ready, 0, "the event was acknowledged");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let stage = stage(1).await;
    let mut listener = Listener::start().await;
    let mut call = stage.call(Method::POST, "/echo");
    listener.offer(&mut call, true);
    stage.gateway.send(call).await;
    let mut stream = listener.stream().await;
    for _ in 0..5 {
        stream.body.write(vec![7; 50_000]).await;
    }
    stream.end_body();
    let head = stream.head().await;
    assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &"text/plain".parse().unwrap()));
    assert_eq!(head.headers["content-length"], "250000");
    assert_eq!(stream.rest().await.unwrap(), vec![7; 250_000]);
    // A large answer to a small request takes the stream as well.
    let mut call = stage.call(Method::GET, "/large");
    listener.offer(&mut call, false);
    stage.gateway.send(call).await;
    let mut stream = listener.stream().await;
    assert_eq!(stream.head().await.headers["content-length"], "300000");
    stream.end_body();
    assert_eq!(stream.rest().await.unwrap().len(), 300_000);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_request_whose_time_is_over_hurts_no_other() {
    let mut stage = stage(2).await;
    let mut call = stage.gateway.short_call("", 300);
    call.url = "http://shop.example/hang".into();
    let late = stage.gateway.send(call).await;
    stage.server.says("called /hang").await;
    assert_eq!(answered(&stage.get("/status/200").await).0, 200, "it runs beside");
    assert_eq!(stage.gateway.reply(late).await.outcome, Outcome::TimedOut);
    stage.server.says("hung-up /hang").await;
    for _ in 0..3 {
        assert_eq!(answered(&stage.get("/status/200").await).0, 200);
    }
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Loaded);
    stage.runner.stop().await;
    let last = stage.gateway.report(ReportEvent::Unloaded).await;
    assert_eq!(last.revision, REVISION, "nothing was reported stuck");
}

#[tokio::test]
async fn a_broken_connection_fails_its_call_and_a_server_that_ends_is_waited_for() {
    let mut stage = stage(1).await;
    assert_eq!(stage.get("/break").await.outcome, Outcome::Failed);
    assert_eq!(answered(&stage.get("/status/200").await).0, 200);
    assert_eq!(stage.get("/exit").await.outcome, Outcome::Failed);
    stage.server.ended().await;
    let waiting = stage.gateway.send(stage.call(Method::GET, "/status/200")).await;
    // The kubelet starts the container again.
    let port = stage.server.port;
    stage.server = Server::start_at(port).await;
    assert_eq!(answered(&stage.gateway.reply(waiting).await).0, 200);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_runner_takes_nothing_before_its_server_accepts() {
    let server = Server::start().await;
    let port = server.port;
    server.kill().await;
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let runner = Runner::start(&broker, at(dir.path(), Endpoint::Http(port), 1, false));
    eventually("the runner is linked", async || runner.cable.has_link()).await;
    let queue = gateway.queue();
    let mut call = gateway.call("");
    (call.url, call.headers) = ("http://shop.example/status/200".into(), HeaderMap::new());
    let id = gateway.send(call).await;
    assert_eq!(gateway.state(&queue).await.consumers, 0);
    assert!(!gateway.has_report());
    let _server = Server::start_at(port).await;
    assert_eq!(answered(&gateway.reply(id).await), (200, "as asked"));
    assert_eq!(gateway.report(ReportEvent::Loaded).await.revision, REVISION);
    runner.stop().await;
}
