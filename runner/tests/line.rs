//! Replies over a line to a gateway that a test plays, and through the broker wherever the line does not bring them.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Outcome, Reply, Token, put_taken};
use futures::future::join_all;
use http::StatusCode;
use kit::eventually;
use kit::function::Function;
use kit::gateway::{Gateway, answered};
use kit::hosting::{Runner, dedicated};
use kit::lines::{AskedLine, LineListener, PlayedLine};
use tempfile::TempDir;

/// Less than a runner waits before it asks a gateway again that has refused it, or with which its line went wrong.
const NOT_AT_ONCE: Duration = Duration::from_secs(4);
/// A little less than a runner waits for a gateway to take a reply.
const PATIENT: Duration = Duration::from_millis(1_900);

struct Stage {
    dir: TempDir,
    gateway: Gateway,
    listener: LineListener,
    function: Function,
    runner: Runner,
}

async fn stage(concurrency: u32) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(dir.path(), concurrency));
    let listener = LineListener::start().await;
    Stage { dir, gateway, listener, function, runner }
}

impl Stage {
    async fn send(&self, body: &str) -> CallId {
        self.send_with_token(self.gateway.call(body)).await.0
    }

    async fn send_with_token(&self, mut call: Call) -> (CallId, Token) {
        let token = self.listener.offer(&mut call);
        (self.gateway.send(call).await, token)
    }

    /// Calls whose replies come through the broker, until the runner asks for a line.
    async fn asked(&mut self) -> AskedLine {
        loop {
            let id = self.send("no line yet").await;
            assert_eq!(answered(&self.gateway.reply(id).await), (200, "no line yet"));
            if let Some(asked) = self.listener.try_asked() {
                return asked;
            }
        }
    }

    /// An open line, over which one reply has come and was taken.
    async fn line(&mut self) -> PlayedLine {
        let mut line = self.asked().await.open().await;
        self.until_used(&mut line).await;
        line
    }

    /// Calls until a reply comes over the line.
    async fn until_used(&mut self, line: &mut PlayedLine) {
        loop {
            let id = self.send("which way").await;
            let Self { gateway, .. } = self;
            tokio::select! {
                reply = line.next() => {
                    assert_eq!((reply.id, answered(&reply)), (id, (200, "which way")));
                    line.say_taken(1).await;
                    return;
                }
                reply = gateway.reply(id) => assert_eq!(answered(&reply), (200, "which way")),
            }
        }
    }

    /// Whether a call is answered through the broker.
    async fn is_answered_through_the_broker(&mut self, body: &str) {
        let id = self.send(body).await;
        assert_eq!(answered(&self.gateway.reply(id).await), (200, body));
    }

    /// Everything was answered once, and every delivery was acknowledged.
    async fn stop(mut self) {
        self.runner.stop().await;
        assert!(self.gateway.has_no_more_replies());
        let state = self.gateway.state(&self.gateway.queue()).await;
        assert_eq!(state.ready, 0, "every delivery was acknowledged");
    }
}

#[tokio::test]
async fn a_line_is_asked_for_with_the_token_of_a_call_that_waits() {
    let mut stage = stage(2).await;
    let (held, token) = stage.send_with_token(stage.gateway.call("hold")).await;
    eventually("the runner connects", async || stage.listener.connections() == 1).await;
    assert!(
        stage.listener.try_asked().is_none(),
        "what came before there was a connection may be answered by now"
    );
    let asked = loop {
        let (id, token) = stage.send_with_token(stage.gateway.call("x")).await;
        stage.gateway.reply(id).await;
        if let Some(asked) = stage.listener.try_asked() {
            assert_eq!(asked.head.headers["authorization"], format!("Bearer {token}"));
            assert_eq!(asked.call(), id.to_string());
            break asked;
        }
    };
    assert_ne!(asked.head.headers["authorization"], format!("Bearer {token}"));
    assert_eq!((asked.head.method.as_str(), &asked.head.version), ("GET", &http::Version::HTTP_11));
    assert_eq!(asked.head.headers["upgrade"], "funcatron-line");
    assert_eq!(asked.head.headers["connection"], "upgrade");
    stage.function.release();
    stage.gateway.reply(held).await;
    stage.stop().await;
}

#[tokio::test]
async fn replies_go_over_the_line_once_it_is_open() {
    let mut stage = stage(1).await;
    let mut line = stage.line().await;
    for (n, (body, outcome)) in [
        ("one", Outcome::Answer(StatusCode::OK)),
        ("created", Outcome::Answer(StatusCode::CREATED)),
        ("fail", Outcome::Failed),
        ("two", Outcome::Answer(StatusCode::OK)),
    ]
    .into_iter()
    .enumerate()
    {
        let id = stage.send(body).await;
        let reply = line.next().await;
        assert_eq!((reply.id, reply.attempt, reply.outcome), (id, 1, outcome));
        line.say_taken(n as u64 + 2).await;
        if body == "created" {
            assert_eq!(
                (&reply.headers["location"], &reply.headers["content-type"]),
                (&"/orders/7".parse().unwrap(), &"text/x".parse().unwrap())
            );
        }
    }
    assert_eq!(stage.listener.connections(), 1);
    stage.stop().await;
}

#[tokio::test]
async fn a_delivery_is_acknowledged_once_its_reply_was_taken_and_not_before() {
    for (is_taken, come_back) in [(false, 2), (true, 1)] {
        let mut stage = stage(1).await;
        let mut line = stage.line().await;
        let id = stage.send("x").await;
        assert_eq!(line.next().await.id, id);
        stage.send("hold").await;
        if is_taken {
            line.say_taken(2).await;
            eventually("the slot is free", async || stage.function.running() == 1).await;
        }
        let Stage { gateway, runner, .. } = stage;
        runner.kill().await;
        let queue = gateway.queue();
        let what = "what was not acknowledged comes back";
        eventually(what, async || gateway.state(&queue).await.ready == come_back).await;
    }
}

#[tokio::test]
async fn several_replies_are_settled_with_one_word_that_may_come_in_pieces() {
    let mut stage = stage(8).await;
    let mut line = stage.line().await;
    let mut sent = Vec::new();
    for _ in 0..8 {
        sent.push(stage.send("hold").await);
    }
    eventually("all run", async || stage.function.running() == 8).await;
    stage.function.release();
    let mut got = Vec::new();
    for _ in 0..8 {
        let reply = line.next().await;
        assert_eq!(answered(&reply), (200, "late"));
        got.push(reply.id);
    }
    got.sort();
    sent.sort();
    assert_eq!(got, sent);
    let mut word = BytesMut::new();
    put_taken(9, &mut word);
    line.say(&word[..3]).await;
    line.say(&word[3..]).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_line_that_breaks_loses_no_reply_and_sends_none_twice() {
    let mut stage = stage(4).await;
    let mut line = stage.line().await;
    let mut sent = Vec::new();
    for body in ["one", "two", "three"] {
        sent.push(stage.send(body).await);
        line.next().await;
    }
    // The first of them was taken.
    line.say_taken(2).await;
    drop(line);
    for (id, body) in sent.into_iter().zip(["one", "two", "three"]).skip(1) {
        assert_eq!(answered(&stage.gateway.reply(id).await), (200, body));
    }
    let mut line = stage.line().await;
    let id = stage.send("over the next").await;
    assert_eq!(line.next().await.id, id);
    line.say_taken(2).await;
    assert_eq!(stage.listener.connections(), 2);
    stage.stop().await;
}

#[tokio::test]
async fn a_line_that_ends_between_two_calls_costs_none_of_them_anything() {
    let mut stage = stage(1).await;
    drop(stage.line().await);
    for body in ["one", "two", "three"] {
        stage.is_answered_through_the_broker(body).await;
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_gateway_that_takes_nothing_gets_its_replies_through_the_broker() {
    let mut stage = stage(2).await;
    let mut line = stage.line().await;
    let since = Instant::now();
    let (one, two) = (stage.send("one").await, stage.send("two").await);
    let mut got = [line.next().await.id, line.next().await.id];
    got.sort();
    assert_eq!(got, [one, two]);
    assert_eq!(answered(&stage.gateway.reply(one).await), (200, "one"));
    assert!(since.elapsed() >= PATIENT, "{:?}", since.elapsed());
    assert_eq!(answered(&stage.gateway.reply(two).await), (200, "two"));
    line.ended().await;
    // Another line would cost the next replies as much.
    drop(stage.asked().await);
    assert!(since.elapsed() >= PATIENT + NOT_AT_ONCE, "asked again after {:?}", since.elapsed());
    stage.stop().await;
}

/// Sends calls whose answers are more than the sockets between runner and gateway hold.
async fn send_much(stage: &Stage) -> Vec<CallId> {
    let mut sent = Vec::new();
    for _ in 0..200 {
        sent.push(stage.send(&"x".repeat(60_000)).await);
    }
    sent
}

#[tokio::test]
async fn a_gateway_that_reads_nothing_gets_its_replies_through_the_broker() {
    let mut stage = stage(128).await;
    let line = stage.line().await;
    for id in send_much(&stage).await {
        assert_eq!(stage.gateway.reply(id).await.body.len(), 60_000);
    }
    drop(line);
    stage.stop().await;
}

#[tokio::test]
async fn a_line_that_breaks_with_replies_yet_to_be_written_loses_none() {
    let mut stage = stage(128).await;
    let line = stage.line().await;
    let sent = send_much(&stage).await;
    let many = "as many have run as there are slots";
    eventually(many, async || stage.function.seen().len() >= 128 && stage.function.running() == 0).await;
    drop(line);
    for id in sent {
        assert_eq!(stage.gateway.reply(id).await.body.len(), 60_000);
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_gateway_that_took_more_than_was_sent_or_less_than_before_is_not_believed() {
    // At once, since each waits.
    join_all([3, 0, u64::MAX].map(async |nonsense| {
        let mut stage = stage(1).await;
        let mut line = stage.line().await;
        let id = stage.send("x").await;
        assert_eq!(line.next().await.id, id);
        line.say_taken(nonsense).await;
        let since = Instant::now();
        assert_eq!(answered(&stage.gateway.reply(id).await), (200, "x"), "{nonsense}");
        line.ended().await;
        drop(stage.asked().await);
        assert!(since.elapsed() >= NOT_AT_ONCE, "{nonsense}: asked again after {:?}", since.elapsed());
        stage.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_call_that_was_answered_meanwhile_leaves_the_line_to_the_next() {
    let mut stage = stage(1).await;
    let first = stage.asked().await;
    let call = first.call().to_owned();
    first.refuse(StatusCode::FORBIDDEN);
    let next = stage.asked().await;
    assert_ne!(next.call(), call);
    let mut line = next.open().await;
    stage.until_used(&mut line).await;
    assert_eq!(stage.listener.connections(), 1, "the connection is kept");
    stage.stop().await;
}

#[tokio::test]
async fn a_gateway_that_has_no_line_is_not_asked_again_at_once() {
    for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND] {
        let mut stage = stage(1).await;
        stage.asked().await.refuse(status);
        let since = Instant::now();
        // Calls are answered meanwhile.
        let again = stage.asked().await;
        assert!(since.elapsed() >= NOT_AT_ONCE, "after {:?}", since.elapsed());
        again.refuse(status);
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_is_answered_through_the_broker() {
    let mut stage = stage(1).await;
    stage.listener.at = gone().await;
    for _ in 0..20 {
        stage.is_answered_through_the_broker("x").await;
    }
    stage.stop().await;
}

/// An address where nobody listens.
async fn gone() -> std::net::SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn each_gateway_has_a_line_of_its_own() {
    let mut stage = stage(2).await;
    let mut first = stage.line().await;
    let other = std::mem::replace(&mut stage.listener, LineListener::start().await);
    let mut second = stage.line().await;
    let id = stage.send("to the second").await;
    assert_eq!(second.next().await.id, id);
    second.say_taken(2).await;
    stage.listener = other;
    let id = stage.send("to the first").await;
    assert_eq!(first.next().await.id, id);
    first.say_taken(2).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_for_a_line_goes_through_the_broker() {
    let mut stage = stage(1).await;
    let mut line = stage.line().await;
    // This gateway has no stream either.
    let large = "x".repeat(100_000);
    stage.is_answered_through_the_broker(&large).await;
    let id = stage.send("small").await;
    assert_eq!(line.next().await.id, id);
    line.say_taken(2).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_what_is_on_the_line() {
    let mut stage = stage(2).await;
    let mut line = stage.line().await;
    let held = stage.send("hold").await;
    eventually("it runs", async || stage.function.running() == 1).await;
    let id = stage.send("x").await;
    assert_eq!(line.next().await.id, id);
    stage.runner.drain(&stage.dir.path().join("ready")).await;
    stage.function.release();
    let reply: Reply = line.next().await;
    assert_eq!((reply.id, answered(&reply)), (held, (200, "late")), "a line serves through a drain");
    assert!(!stage.runner.has_ended(), "two replies are on their way");
    line.say_taken(3).await;
    stage.stop().await;
    line.ended().await;
}

#[tokio::test]
async fn a_shutdown_sends_through_the_broker_what_no_gateway_takes() {
    let mut stage = stage(1).await;
    let mut line = stage.line().await;
    let id = stage.send("x").await;
    assert_eq!(line.next().await.id, id);
    let Stage { dir: _dir, mut gateway, listener: _listener, function: _function, runner } = stage;
    runner.stop().await;
    assert_eq!(answered(&gateway.reply(id).await), (200, "x"));
    assert!(gateway.has_no_more_replies());
    assert_eq!(gateway.state(&gateway.queue()).await.ready, 0, "its delivery was acknowledged");
}

/// A call whose body is to be had on the line.
async fn with_body_beside(stage: &Stage) -> (CallId, Token) {
    let mut call = stage.gateway.call("");
    let token = stage.listener.offer(&mut call);
    call.direct.iter_mut().for_each(|offer| (offer.body, offer.line) = (true, true));
    (stage.gateway.send(call).await, token)
}

#[tokio::test]
async fn a_body_comes_over_the_line_to_the_call_that_wants_it() {
    let mut stage = stage(2).await;
    let mut line = stage.line().await;
    let (one, first) = with_body_beside(&stage).await;
    assert_eq!(line.wanted().await, (one, first));
    let (two, second) = with_body_beside(&stage).await;
    assert_eq!(line.wanted().await, (two, second));
    for (count, id, body) in [(2, two, "two"), (3, one, "one")] {
        line.give(CallId::fresh(), Some(&"nobody's".into())).await;
        line.give(id, Some(&body.into())).await;
        let reply = line.next().await;
        assert_eq!((reply.id, answered(&reply)), (id, (200, body)));
        line.say_taken(count).await;
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_call_whose_body_is_not_to_be_had_anywhere_does_not_run() {
    let mut stage = stage(1).await;
    let mut line = stage.line().await;
    let (id, _) = with_body_beside(&stage).await;
    line.wanted().await;
    // This gateway has no streams either.
    line.give(id, None).await;
    let reply = line.next().await;
    assert_eq!((reply.id, reply.outcome), (id, Outcome::NotHere));
    line.say_taken(2).await;
    let (id, _) = with_body_beside(&stage).await;
    line.wanted().await;
    drop(line);
    assert_eq!(
        stage.gateway.reply(id).await.outcome,
        Outcome::NotHere,
        "the line broke before it brought it"
    );
    stage.stop().await;
}
