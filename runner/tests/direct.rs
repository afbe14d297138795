//! Bodies that stream between a gateway and a function, both played by the test, through a runner.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::time::Duration;

use bytes::Bytes;
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Call, CallId, Outcome, ReportEvent};
use http::StatusCode;
use kit::eventually;
use kit::gateway::{Gateway, answered};
use kit::hosting::{Runner, dedicated};
use kit::streams::{Listener, PlayedFunction, next, rest};
use tempfile::TempDir;

/// More than a message is to carry.
const LARGE: usize = 300_000;

struct Stage {
    _dir: TempDir,
    gateway: Gateway,
    listener: Listener,
    function: PlayedFunction,
    runner: Runner,
}

impl Stage {
    /// Sends a call with a stream on offer; says its id and token.
    async fn send(&mut self, call: Call, body: bool) -> (CallId, String) {
        let mut call = call;
        let token = self.listener.offer(&mut call, body);
        (self.gateway.send(call).await, token)
    }

    /// A call with a body in its message.
    async fn ask(&mut self, body: &str) -> CallId {
        self.send(self.gateway.call(body), false).await.0
    }

    /// A call whose body comes over the stream.
    async fn upload(&mut self) -> (CallId, String) {
        self.send(self.gateway.call(""), true).await
    }

    /// Whether the next call runs, as it does once no slot is taken.
    async fn serves_on(&mut self) {
        let id = self.ask("next").await;
        let call = self.function.called().await;
        let (mut writer, _body) = call.answer(200, &[("content-length", "4")]);
        writer.write("fine").await;
        assert_eq!(answered(&self.gateway.reply(id).await), (200, "fine"));
    }

    async fn stop(mut self) {
        assert!(self.gateway.has_no_more_replies());
        self.runner.stop().await;
        let state = self.gateway.state(&self.gateway.queue()).await;
        assert_eq!(state.ready, 0, "every delivery was acknowledged");
    }
}

async fn stage(concurrency: u32) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let function = PlayedFunction::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(dir.path(), concurrency));
    let listener = Listener::start().await;
    Stage { _dir: dir, gateway, listener, function, runner }
}

#[tokio::test]
async fn a_body_comes_over_the_stream_and_a_large_answer_goes_back_over_it() {
    let mut stage = stage(1).await;
    let (id, token) = stage.upload().await;
    let asked = stage.listener.asked().await;
    assert_eq!(asked.path, format!("POST /direct/{id}"));
    assert_eq!(asked.authorization, format!("Bearer {token}"));
    let mut stream = asked.open();
    let mut call = stage.function.called().await;
    assert_eq!(call.head.headers["transfer-encoding"], "chunked");
    assert_eq!(call.head.headers["fn-http-h-x-client"], "curl");
    for word in ["one", "two"] {
        stream.body.write(word).await;
        assert_eq!(next(&mut call.body).await.unwrap().unwrap(), word);
    }
    let length = LARGE.to_string();
    let headers =
        [("content-length", length.as_str()), ("fn-http-status", "201"), ("content-type", "text/x")];
    let (mut answer, mut body) = call.answer(200, &headers);
    // The answer has begun, and the body has not ended.
    let head = stream.head().await;
    assert_eq!(head.status, StatusCode::CREATED);
    assert_eq!(
        (&head.headers["content-type"], &head.headers["content-length"]),
        (&"text/x".parse().unwrap(), &length.parse().unwrap())
    );
    stream.body.write("three").await;
    stream.end_body();
    assert_eq!(rest(&mut body).await.unwrap(), b"three");
    answer.write(vec![7; LARGE]).await;
    assert_eq!(stream.rest().await.unwrap(), vec![7; LARGE]);
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_small_answer_is_a_reply_also_where_it_says_no_length() {
    let mut stage = stage(1).await;
    for headers in [&[("content-length", "4")][..], &[]] {
        let id = stage.ask("x").await;
        let (mut answer, _body) = stage.function.called().await.answer(200, headers);
        answer.write("done").await;
        drop(answer);
        assert_eq!(answered(&stage.gateway.reply(id).await), (200, "done"), "{headers:?}");
    }
    assert_eq!(stage.listener.connections(), 0);
    stage.stop().await;
}

#[tokio::test]
async fn events_pass_as_they_are_written_and_endless_answers_too() {
    let mut stage = stage(1).await;
    for kind in ["text/event-stream; charset=utf-8", "application/x-ndjson"] {
        stage.ask("x").await;
        let (mut answer, _body) = stage.function.called().await.answer(200, &[("content-type", kind)]);
        let mut stream = stage.listener.stream().await;
        stream.end_body();
        assert_eq!(stream.head().await.headers["content-type"], kind);
        for word in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            answer.write(word).await;
            assert_eq!(stream.next().await.unwrap(), word, "one before the next is written");
        }
        drop(answer);
        assert_eq!(stream.next().await, None);
    }
    stage.stop().await;
}

#[tokio::test]
async fn an_answer_before_its_requests_end_is_whole_although_the_function_hangs_up() {
    let mut stage = stage(1).await;
    stage.upload().await;
    let mut stream = stage.listener.stream().await;
    stream.body.write("half").await;
    let length = LARGE.to_string();
    let headers = [("content-length", length.as_str()), ("connection", "close")];
    let (mut answer, body) = stage.function.called().await.answer(200, &headers);
    drop(body);
    stream.head().await;
    answer.write(vec![7; LARGE]).await;
    drop(answer);
    assert_eq!(stream.rest().await.unwrap().len(), LARGE);
    stream.body.break_off().await;
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let mut stage = stage(1).await;
    for _ in 0..10 {
        stage.ask("x").await;
        let (mut answer, _body) = stage.function.called().await.answer(200, &[]);
        answer.write(vec![1; LARGE]).await;
        drop(answer);
        let mut stream = stage.listener.stream().await;
        stream.head().await;
        assert_eq!(stream.rest().await.unwrap().len(), LARGE);
        stream.end_body();
    }
    assert_eq!(stage.listener.connections(), 1);
    stage.stop().await;
}

#[tokio::test]
async fn a_call_whose_token_is_void_does_not_run_and_says_so() {
    let mut stage = stage(1).await;
    let (id, _) = stage.upload().await;
    stage.listener.asked().await.refuse(StatusCode::FORBIDDEN);
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::NotHere);
    stage.serves_on().await;
    assert!(stage.function.is_idle(), "it did not run");
    stage.stop().await;
}

#[tokio::test]
async fn a_large_answer_without_a_stream_is_a_message() {
    let mut stage = stage(1).await;
    let length = LARGE.to_string();
    for headers in [&[("content-length", length.as_str())][..], &[]] {
        let id = stage.ask("x").await;
        let (mut answer, _body) = stage.function.called().await.answer(200, headers);
        let refusing = async {
            stage.listener.asked().await.refuse(StatusCode::SERVICE_UNAVAILABLE);
        };
        tokio::join!(refusing, answer.write(vec![7; LARGE]));
        drop(answer);
        let reply = stage.gateway.reply(id).await;
        assert_eq!((reply.outcome, reply.body.len()), (Outcome::Answer(StatusCode::OK), LARGE));
    }
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn an_answer_without_a_stream_and_without_an_end_ends_with_its_time() {
    let mut stage = stage(1).await;
    let (id, _) = stage.send(stage.gateway.short_call("x", 500), false).await;
    let headers = [("content-type", "text/event-stream")];
    let (mut answer, _body) = stage.function.called().await.answer(200, &headers);
    answer.write("data: 1\n\n").await;
    stage.listener.asked().await.refuse(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::TimedOut);
    answer.gone().await;
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_token_that_was_lost_with_a_kept_connection_loses_no_answer() {
    let mut stage = stage(1).await;
    let length = LARGE.to_string();
    let headers = [("content-length", length.as_str())];
    stage.ask("x").await;
    let (mut answer, _body) = stage.function.called().await.answer(200, &headers);
    let mut stream = stage.listener.stream().await;
    stream.head().await;
    tokio::join!(answer.write(vec![7; LARGE]), async { stream.rest().await.unwrap() });
    stream.end_body();
    let id = stage.ask("x").await;
    let (mut answer, _body) = stage.function.called().await.answer(200, &headers);
    let refusing = async {
        drop(stage.listener.asked().await);
        stage.listener.asked().await.refuse(StatusCode::FORBIDDEN);
    };
    tokio::join!(refusing, answer.write(vec![7; LARGE]));
    let reply = stage.gateway.reply(id).await;
    assert_eq!((reply.outcome, reply.body.len()), (Outcome::Answer(StatusCode::OK), LARGE));
    stage.stop().await;
}

#[tokio::test]
async fn an_answer_that_its_gateway_did_not_read_to_its_end_is_said_to_have_failed() {
    let mut stage = stage(1).await;
    let id = stage.ask("x").await;
    let (mut answer, _body) = stage.function.called().await.answer(200, &[]);
    answer.write(vec![7; 100]).await;
    let mut stream = stage.listener.stream().await;
    stream.head().await;
    drop(answer);
    assert_eq!(stream.rest().await.unwrap().len(), 100);
    assert!(stage.gateway.has_no_more_replies(), "it waits for the word that its answer was read");
    drop(stream.answer);
    stream.body.break_off().await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_call_whose_body_cannot_be_had_is_not_run_here() {
    let mut stage = stage(1).await;
    let (id, _) = stage.upload().await;
    stage.listener.asked().await.refuse(StatusCode::SERVICE_UNAVAILABLE);
    let reply = stage.gateway.reply(id).await;
    assert_eq!(reply.outcome, Outcome::NotHere);
    let mut call = stage.gateway.call("");
    stage.listener.offer(&mut call, true);
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    call.direct.as_mut().unwrap().at = gone.to_string();
    let id = stage.gateway.send(call).await;
    let reply = stage.gateway.reply(id).await;
    assert!(String::from_utf8_lossy(&reply.body).contains("cannot reach the gateway"), "{reply:?}");
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_hangs_up_on_the_function_and_frees_its_slot() {
    let mut stage = stage(1).await;
    for begun in [false, true] {
        let (id, _) = stage.upload().await;
        let mut stream = stage.listener.stream().await;
        stream.body.write("half").await;
        let mut call = stage.function.called().await;
        assert_eq!(next(&mut call.body).await.unwrap().unwrap(), "half");
        if begun {
            let (answer, mut body) = call.answer(200, &[("content-type", "text/event-stream")]);
            stream.head().await;
            stream.body.break_off().await;
            drop(stream.answer);
            assert!(next(&mut body).await.unwrap().is_err(), "half a body is no whole one");
            // The function still writes: it is told at the latest by that.
            drop(answer);
        } else {
            stream.body.break_off().await;
            assert!(next(&mut call.body).await.unwrap().is_err(), "half a body is no whole one");
        }
        // The runner cannot tell a client that left from a connection that broke.
        assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
        stage.serves_on().await;
    }
    stage.stop().await;
}

#[tokio::test]
async fn an_answer_that_the_function_breaks_off_is_broken_off() {
    let mut stage = stage(1).await;
    let id = stage.ask("x").await;
    let (mut answer, _body) = stage.function.called().await.answer(200, &[("content-length", "300000")]);
    let mut stream = stage.listener.stream().await;
    stream.head().await;
    answer.write("half").await;
    assert_eq!(stream.next().await.unwrap(), "half");
    answer.break_off().await;
    assert!(stream.rest().await.is_err());
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_function_that_fails_with_its_stream_open_is_a_reply() {
    let mut stage = stage(1).await;
    for (status, outcome) in [(502, Outcome::Failed), (504, Outcome::TimedOut)] {
        let (id, _) = stage.upload().await;
        let mut stream = stage.listener.stream().await;
        let (answer, _body) = stage.function.called().await.answer(status, &[]);
        drop(answer);
        assert_eq!(stage.gateway.reply(id).await.outcome, outcome);
        assert!(!matches!(next(&mut stream.answer).await, Some(Ok(_))), "no answer began");
    }
    stage.stop().await;
}

#[tokio::test]
async fn a_function_that_waits_for_its_request_is_not_to_blame_for_the_deadline() {
    let mut stage = stage(1).await;
    let (id, _) = stage.send(stage.gateway.short_call("", 300), true).await;
    let mut stream = stage.listener.stream().await;
    stream.body.write("half").await;
    let mut call = stage.function.called().await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::TimedOut);
    assert!(rest(&mut call.body).await.is_err(), "it is told by the end of its connection");
    stage.serves_on().await;
    stage.stop().await;
}

#[tokio::test]
async fn a_function_that_lets_its_request_wait_is_to_blame_for_the_deadline() {
    let mut stage = stage(1).await;
    let (id, _) = stage.send(stage.gateway.short_call("", 1_000), true).await;
    let mut stream = stage.listener.stream().await;
    let _call = stage.function.called().await;
    let piece = Bytes::from(vec![0; 256 << 10]);
    stream.body.flood(&piece, 100, Duration::from_millis(300)).await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::TimedOut);
    stage.gateway.report(ReportEvent::Stuck).await;
}

#[tokio::test]
async fn what_the_gateway_does_not_take_is_not_read_from_the_function() {
    let mut stage = stage(1).await;
    let id = stage.ask("x").await;
    let (mut answer, _body) = stage.function.called().await.answer(200, &[]);
    let piece = Bytes::from(vec![0; 256 << 10]);
    let (taken, stream) =
        tokio::join!(answer.flood(&piece, 100, Duration::from_millis(300)), stage.listener.stream());
    assert!(taken < 20, "{taken} pieces of 256 KiB were taken for a gateway that reads nothing");
    drop(stream);
    answer.gone().await;
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    stage.stop().await;
}

#[tokio::test]
async fn what_the_function_does_not_take_stays_with_the_gateway() {
    let mut stage = stage(1).await;
    let (id, _) = stage.upload().await;
    let mut stream = stage.listener.stream().await;
    let mut call = stage.function.called().await;
    let piece = Bytes::from(vec![0; 256 << 10]);
    let taken = stream.body.flood(&piece, 100, Duration::from_millis(300)).await;
    assert!(taken < 20, "{taken} pieces of 256 KiB were taken for a function that reads nothing");
    // Its connection breaks: dropped alone, the body would end cleanly after what was taken.
    stage.listener = Listener::start().await;
    assert!(rest(&mut call.body).await.is_err());
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::Failed);
    stage.stop().await;
}

#[tokio::test]
async fn a_function_that_ends_breaks_its_answer_off() {
    let mut stage = stage(1).await;
    stage.ask("x").await;
    let (mut answer, _body) =
        stage.function.called().await.answer(200, &[("content-type", "text/event-stream")]);
    let mut stream = stage.listener.stream().await;
    stream.head().await;
    answer.write("data: 1\n\n").await;
    assert_eq!(stream.next().await.unwrap(), "data: 1\n\n");
    let Stage { function, .. } = stage;
    drop(function);
    assert!(stream.rest().await.is_err());
}

#[tokio::test]
async fn a_runner_that_is_killed_breaks_its_streams_off() {
    let mut stage = stage(1).await;
    stage.upload().await;
    let mut stream = stage.listener.stream().await;
    stream.body.write("half").await;
    let mut call = stage.function.called().await;
    assert_eq!(next(&mut call.body).await.unwrap().unwrap(), "half");
    let (_answer, _body) = call.answer(200, &[("content-type", "text/event-stream")]);
    stream.head().await;
    let Stage { runner, .. } = stage;
    runner.kill().await;
    assert!(stream.rest().await.is_err());
    stream.body.gone().await;
}

#[tokio::test]
async fn slots_bound_streams_as_they_bound_calls() {
    let mut stage = stage(2).await;
    for _ in 0..3 {
        stage.upload().await;
    }
    let (first, second) = (stage.listener.stream().await, stage.listener.stream().await);
    let queue = stage.gateway.queue();
    eventually("two are running", async || stage.gateway.state(&queue).await.ready == 1).await;
    drop((first, second));
    let _third = stage.listener.stream().await;
}
