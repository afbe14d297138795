//! A runner of one image's revision, on a broker within the process.

// A helper that panics fails its test, as it should; the lint knows only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod kit;

use std::time::Duration;

use funcatron_broker::link::{Connector, ConsumeOptions, Event, HeaderValue, Target};
use funcatron_broker::local::LocalBroker;
use funcatron_broker::message::{Outcome, ReportEvent};
use funcatron_broker::names::BindingKey;
use funcatron_broker::topology;
use kit::function::Function;
use kit::gateway::{Gateway, answered};
use kit::hosting::{Runner, dedicated, dedicated_durable};
use kit::{FN, REVISION, eventually};
use tempfile::TempDir;

/// A broker, its gateway, a function and its runner.
struct Stage {
    dir: TempDir,
    broker: LocalBroker,
    gateway: Gateway,
    function: Function,
    runner: Runner,
}

async fn stage(concurrency: u32) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(dir.path(), concurrency));
    Stage { dir, broker, gateway, function, runner }
}

#[tokio::test]
async fn a_call_comes_as_fns_contract_says_and_its_answer_goes_back() {
    let mut stage = stage(1).await;
    let mut call = stage.gateway.call("created now");
    call.operation = Some("makeOrder".into());
    call.template = Some("/orders/{id}".into());
    call.params = vec![("id".into(), "7".into())];
    let id = stage.gateway.send(call).await;
    let reply = stage.gateway.reply(id).await;
    assert_eq!(answered(&reply), (201, "made"));
    assert_eq!(reply.attempt, 1);
    assert_eq!(reply.headers["location"], "/orders/7");
    assert_eq!(reply.headers["content-type"], "text/x");
    assert_eq!(reply.headers.len(), 2, "{:?}", reply.headers);

    let seen = stage.function.seen().remove(0);
    assert_eq!(seen.request_line, "POST /call HTTP/1.1");
    let header = |name: &str| seen.headers.get(name).map(String::as_str);
    assert_eq!(header("fn-call-id"), Some(id.to_string().as_str()));
    assert_eq!(header("fn-intent"), Some("httprequest"));
    assert_eq!(header("fn-http-method"), Some("GET"));
    assert_eq!(header("fn-http-request-url"), Some("http://shop.example/hello"));
    assert_eq!(header("fn-http-h-x-client"), Some("curl"));
    assert_eq!(header("fn-operation-id"), Some("makeOrder"));
    assert_eq!(header("fn-route-template"), Some("/orders/{id}"));
    assert_eq!(header("fn-path-params"), Some(r#"{"id":"7"}"#));
    assert_eq!(header("fn-attempt"), Some("1"));
    assert_eq!(header("content-type"), Some("text/plain"));
    assert!(header("fn-deadline").is_some_and(|deadline| deadline.ends_with('Z')), "{:?}", seen.headers);
    stage.runner.stop().await;
}

#[tokio::test]
async fn connections_are_kept_and_no_more_than_the_slots() {
    let mut stage = stage(2).await;
    for round in 0..50 {
        assert_eq!(answered(&stage.gateway.ask(&format!("call {round}")).await).0, 200);
    }
    // The first is the look whether the function accepts.
    assert!(stage.function.connections() <= 3, "{}", stage.function.connections());
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_library_that_says_failed_or_out_of_time_is_believed_and_serves_on() {
    let mut stage = stage(1).await;
    let failed = stage.gateway.ask("fail").await;
    assert_eq!(failed.outcome, Outcome::Failed);
    assert!(!failed.body.windows(6).any(|part| part == b"secret"), "a trace is not for the client");
    assert_eq!(stage.gateway.ask("timeout").await.outcome, Outcome::TimedOut);
    assert_eq!(answered(&stage.gateway.ask("fine").await), (200, "fine"));
    let report = stage.gateway.next_report().await;
    assert_eq!((report.event, report.revision.as_str()), (ReportEvent::Loaded, REVISION));
    assert_eq!((report.fn_name.as_str(), report.runner.as_str()), (FN, "runner-1"));
    stage.runner.stop().await;
    assert_eq!(stage.gateway.next_report().await.event, ReportEvent::Unloaded, "nothing else was reported");
}

#[tokio::test]
async fn nonsense_and_broken_answers_are_failures_of_their_call_alone() {
    let mut stage = stage(1).await;
    for body in ["garbage", "break", "half", "teapot", "large", "headers"] {
        let reply = stage.gateway.ask(body).await;
        assert_eq!(reply.outcome, Outcome::Failed, "{body}");
        assert_eq!(answered(&stage.gateway.ask("fine").await), (200, "fine"), "after {body}");
        assert_eq!(stage.function.times_seen(body), 1, "{body}");
    }
    stage.runner.stop().await;
}

#[tokio::test]
async fn what_answers_nonsense_is_reported_for_replacement() {
    let mut stage = stage(1).await;
    assert_eq!(stage.gateway.ask("teapot").await.outcome, Outcome::Failed);
    let report = stage.gateway.report(ReportEvent::Stuck).await;
    assert!(report.reason.unwrap().contains("makes no sense"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_function_that_hangs_is_reported_and_given_nothing_until_it_moves() {
    let mut stage = stage(2).await;
    let hung = stage.gateway.send(stage.gateway.short_call("hang", 200)).await;
    assert_eq!(stage.gateway.reply(hung).await.outcome, Outcome::TimedOut);
    assert_eq!(stage.gateway.report(ReportEvent::Stuck).await.revision, REVISION);
    let queue = stage.gateway.queue();
    eventually("the runner stops taking", async || stage.gateway.state(&queue).await.consumers == 0).await;
    let waiting = stage.gateway.send(stage.gateway.call("after")).await;
    assert_eq!(stage.gateway.state(&queue).await.ready, 1);
    assert_eq!(stage.function.times_seen("after"), 0);
    stage.function.release();
    assert_eq!(answered(&stage.gateway.reply(waiting).await), (200, "after"));
    assert!(stage.gateway.has_no_more_replies(), "the late answer went nowhere");
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_function_that_starts_late_or_again_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let early = gateway.send(gateway.call("early")).await;
    let runner = Runner::start(&broker, dedicated(dir.path(), 1));
    eventually("the runner's link", async || runner.cable.has_link()).await;
    assert!(!dir.path().join("ready").exists(), "nothing serves yet");
    let socket = dir.path().join("f.sock");
    let function = Function::start(&socket);
    assert_eq!(answered(&gateway.reply(early).await), (200, "early"));
    eventually("the ready file", async || dir.path().join("ready").exists()).await;
    function.end().await;
    let between = gateway.send(gateway.call("between")).await;
    let function = Function::start(&socket);
    assert_eq!(answered(&gateway.reply(between).await), (200, "between"));
    assert_eq!(function.times_seen("between"), 1);
    runner.stop().await;
    assert!(!dir.path().join("ready").exists());
}

#[tokio::test]
async fn what_a_killed_function_leaves_does_not_keep_the_next_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let (private, socket) = (dir.path().join("private.sock"), dir.path().join("f.sock"));
    drop(std::os::unix::net::UnixListener::bind(&private).unwrap());
    std::os::unix::fs::symlink("private.sock", &socket).unwrap();
    let runner = Runner::start(&broker, dedicated(dir.path(), 1));
    eventually("both are gone", async || !private.exists() && socket.symlink_metadata().is_err()).await;
    let _function = Function::start(&socket);
    assert_eq!(answered(&gateway.ask("fine").await), (200, "fine"));
    runner.stop().await;
}

#[tokio::test]
async fn a_call_that_was_out_before_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let id = gateway.send(gateway.call("once")).await;
    let lost = broker.connect().await.unwrap();
    let options = ConsumeOptions { prefetch: 1, exclusive: false, no_ack: false };
    let mut consumer = lost.consume(&gateway.queue(), options).await.unwrap();
    let taken = consumer.next().await;
    assert!(matches!(taken, Some(Event::Delivery(_))));
    lost.close().await;
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(dir.path(), 1));
    assert_eq!(gateway.reply(id).await.outcome, Outcome::RunnerLost);
    assert_eq!(answered(&gateway.ask("next").await), (200, "next"));
    assert_eq!(function.times_seen("once"), 0);
    runner.stop().await;
    let state = gateway.state(&gateway.queue()).await;
    assert_eq!(state.ready, 0, "it was acknowledged");
}

#[tokio::test]
async fn what_comes_too_late_is_not_started() {
    let mut stage = stage(1).await;
    let mut past = stage.gateway.call("past");
    past.deadline_ms = kit::gateway::now_ms() - 1;
    let mut short = stage.gateway.call("less than half");
    short.deadline_ms = kit::gateway::now_ms() + 10_000;
    let mut again = stage.gateway.call("second attempt");
    again.deadline_ms = kit::gateway::now_ms() + 10_000;
    again.attempt = 2;
    for (call, outcome) in [(past, Outcome::Expired), (short, Outcome::Expired)] {
        let id = stage.gateway.send(call).await;
        assert_eq!(stage.gateway.reply(id).await.outcome, outcome);
    }
    let id = stage.gateway.send(again).await;
    let reply = stage.gateway.reply(id).await;
    assert_eq!((answered(&reply).0, reply.attempt), (200, 2));
    assert_eq!(stage.function.seen().len(), 1);
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_cancelled_call_is_not_started_and_not_answered() {
    let mut stage = stage(1).await;
    let running = stage.gateway.send(stage.gateway.call("hold")).await;
    eventually("the one slot is taken", async || stage.function.running() == 1).await;
    let left = stage.gateway.send(stage.gateway.call("left")).await;
    let stays = stage.gateway.send(stage.gateway.call("stays")).await;
    stage.gateway.cancel(left).await;
    // One thread runs all tasks in turn: after so many turns the runner has heard of it.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    stage.function.release();
    assert_eq!(answered(&stage.gateway.reply(running).await).0, 200);
    assert_eq!(answered(&stage.gateway.reply(stays).await), (200, "stays"));
    assert_eq!(stage.function.times_seen("left"), 0);
    assert!(stage.gateway.has_no_more_replies());
    stage.runner.stop().await;
    assert_eq!(stage.gateway.state(&stage.gateway.queue()).await.ready, 0, "it was acknowledged");
}

#[tokio::test]
async fn an_unknown_wire_version_is_answered_so() {
    let mut stage = stage(1).await;
    let call = stage.gateway.call("newer");
    let id = call.id;
    let mut envelope = call.to_envelope().unwrap();
    envelope.headers.insert("fn-wire", HeaderValue::Int(4));
    stage.gateway.send_envelope(&stage.gateway.queue(), envelope).await;
    let reply = stage.gateway.reply(id).await;
    assert_eq!(reply.outcome, Outcome::BadWire);
    assert!(String::from_utf8_lossy(&reply.body).contains("fn-wire"), "{reply:?}");
    assert_eq!(stage.function.seen().len(), 0);
    stage.runner.stop().await;
}

#[tokio::test]
async fn slots_bound_what_runs_and_what_is_taken_before_and_after_a_lost_link() {
    let mut stage = stage(3).await;
    for round in ["first", "second"] {
        stage.function.hold();
        let mut ids = Vec::new();
        for number in 0..10 {
            ids.push(stage.gateway.send(stage.gateway.call(&format!("hold {round} {number}"))).await);
        }
        eventually("all slots are taken", async || stage.function.running() == 3).await;
        let queue = stage.gateway.queue();
        assert_eq!(stage.gateway.state(&queue).await.ready, 7, "no more is taken than runs");
        stage.function.release();
        for id in ids {
            assert_eq!(answered(&stage.gateway.reply(id).await).0, 200);
        }
        assert_eq!(stage.function.most_running(), 3);
        if round == "first" {
            stage.runner.cable.cut().await;
            eventually("a new link", async || stage.runner.cable.has_link()).await;
            eventually("its consumer", async || stage.gateway.state(&queue).await.consumers == 1).await;
        }
    }
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_call_that_runs_while_its_link_is_lost_runs_once() {
    let mut stage = stage(1).await;
    let id = stage.gateway.send(stage.gateway.call("hold")).await;
    eventually("it runs", async || stage.function.running() == 1).await;
    stage.runner.cable.cut().await;
    stage.function.release();
    assert_eq!(stage.gateway.reply(id).await.outcome, Outcome::RunnerLost);
    assert_eq!(answered(&stage.gateway.ask("next").await), (200, "next"));
    assert_eq!(stage.function.times_seen("hold"), 1);
    assert!(stage.gateway.has_no_more_replies());
    stage.runner.stop().await;
}

#[tokio::test]
async fn a_drain_under_load_loses_no_call() {
    let mut stage = stage(4).await;
    let second_dir = tempfile::tempdir().unwrap();
    let second = Function::start(&second_dir.path().join("f.sock"));
    let mut runner = Some(stage.runner);
    let mut next = None;
    for wave in 0..40 {
        let mut ids = Vec::new();
        for number in 0..25 {
            ids.push(stage.gateway.send(stage.gateway.call(&format!("call {wave} {number}"))).await);
        }
        if wave == 20 {
            let runner = runner.take().unwrap();
            runner.shutdown.cancel();
            next = Some(Runner::start(&stage.broker, dedicated(second_dir.path(), 4)));
            let stopping = tokio::spawn(runner.stop());
            for id in &ids {
                assert_eq!(answered(&stage.gateway.reply(*id).await).0, 200, "wave {wave}");
            }
            stopping.await.unwrap();
            continue;
        }
        for id in ids {
            assert_eq!(answered(&stage.gateway.reply(id).await).0, 200, "wave {wave}");
        }
    }
    let (first_ran, second_ran) = (stage.function.seen().len(), second.seen().len());
    assert_eq!(first_ran + second_ran, 1000, "each ran once");
    assert!(first_ran >= 500 && second_ran >= 450, "{first_ran} and {second_ran}");
    next.unwrap().stop().await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_takes_nothing_more() {
    let mut stage = stage(2).await;
    let running = [
        stage.gateway.send(stage.gateway.call("hold 1")).await,
        stage.gateway.send(stage.gateway.call("hold 2")).await,
    ];
    eventually("both run", async || stage.function.running() == 2).await;
    eventually("the ready file", async || stage.dir.path().join("ready").exists()).await;
    stage.runner.shutdown.cancel();
    let queue = stage.gateway.queue();
    eventually("nothing more is taken", async || stage.gateway.state(&queue).await.consumers == 0).await;
    assert!(!stage.dir.path().join("ready").exists());
    let left = stage.gateway.send(stage.gateway.call("left")).await;
    stage.function.release();
    for id in running {
        assert_eq!(answered(&stage.gateway.reply(id).await), (200, "late"));
    }
    stage.runner.stop().await;
    assert_eq!(stage.gateway.state(&queue).await.ready, 1);
    let runner = Runner::start(&stage.broker, dedicated(stage.dir.path(), 2));
    assert_eq!(answered(&stage.gateway.reply(left).await), (200, "left"), "it was never out");
    runner.stop().await;
}

#[tokio::test]
async fn a_drain_ends_in_time_with_a_function_that_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let function = Function::start(&dir.path().join("f.sock"));
    let mut config = dedicated(dir.path(), 1);
    config.drain = Duration::from_millis(50);
    let runner = Runner::start(&broker, config);
    let id = gateway.send(gateway.call("hang")).await;
    eventually("it runs", async || function.running() == 1).await;
    runner.stop().await;
    let second_dir = tempfile::tempdir().unwrap();
    let _second = Function::start(&second_dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated(second_dir.path(), 1));
    assert_eq!(gateway.reply(id).await.outcome, Outcome::RunnerLost);
    runner.stop().await;
}

#[tokio::test]
async fn a_queue_deleted_by_hand_is_taken_from_again_once_it_is_back() {
    let mut stage = stage(1).await;
    assert_eq!(answered(&stage.gateway.ask("before").await).0, 200);
    let queue = stage.gateway.queue();
    stage.gateway.link.delete_queue(&queue, false).await.unwrap();
    let items = topology::revision(&stage.gateway.names, REVISION).unwrap();
    stage.gateway.link.declare(&items).await.unwrap();
    assert_eq!(answered(&stage.gateway.ask("after").await), (200, "after"));
    stage.runner.stop().await;
}

#[tokio::test]
async fn an_event_is_run_without_a_reply_and_acknowledged_once_it_ran() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let durable = gateway.declare_durable().await;
    let items =
        topology::trigger(&gateway.names, FN, "orders", &BindingKey::parse("orders.*").unwrap()).unwrap();
    // The durable queue stands already, with a test's shorter retries.
    let own: Vec<_> =
        items.into_iter().filter(|item| !matches!(item, topology::Item::Queue { .. })).collect();
    gateway.link.declare(&own).await.unwrap();
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated_durable(dir.path(), 2, true));
    let exchange = gateway.names.event_exchange("orders").unwrap();
    let mut event = funcatron_broker::link::Envelope { body: "hold".into(), ..Default::default() };
    event.properties.persistent = true;
    event.properties.content_type = Some("text/csv".into());
    event.headers.insert("tenant", "acme");
    let to = Target::exchange(&exchange, "orders.created");
    gateway.link.publish_confirmed(to, event, true).await.unwrap();
    eventually("it runs", async || function.running() == 1).await;
    runner.kill().await;
    function.release();
    let runner = Runner::start(&broker, dedicated_durable(dir.path(), 2, true));
    eventually("what was out runs again", async || function.times_seen("hold") == 2).await;
    let seen = function.seen().pop().unwrap();
    for (name, value) in [
        ("fn-intent", "event"),
        ("fn-exchange", exchange.as_str()),
        ("fn-routing-key", "orders.created"),
        ("fn-amqp-h-tenant", "acme"),
        ("content-type", "text/csv"),
    ] {
        assert_eq!(seen.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    runner.stop().await;
    assert_eq!(gateway.state(&durable).await.ready, 0, "it was acknowledged");
    assert!(gateway.has_no_more_replies());
}

#[tokio::test]
async fn an_event_that_fails_is_tried_again_and_then_dead() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let durable = gateway.declare_durable().await;
    let dead = gateway.names.dead_queue(FN).unwrap();
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated_durable(dir.path(), 1, true));
    for body in ["fail", "break", "teapot"] {
        let event = funcatron_broker::link::Envelope { body: body.into(), ..Default::default() };
        gateway.send_envelope(&durable, event).await;
    }
    eventually("all are dead", async || gateway.state(&dead).await.ready == 3).await;
    for body in ["fail", "break", "teapot"] {
        assert_eq!(function.times_seen(body), 4, "{body}: attempts");
    }
    let attempts: Vec<_> = function.seen().into_iter().filter(|seen| seen.body == "fail").collect();
    let attempts: Vec<_> = attempts.iter().map(|seen| seen.headers["fn-attempt"].as_str()).collect();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
    runner.stop().await;
}

#[tokio::test]
async fn a_durable_message_of_an_unknown_wire_is_dead_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let gateway = Gateway::new(&broker).await;
    let durable = gateway.declare_durable().await;
    let dead = gateway.names.dead_queue(FN).unwrap();
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated_durable(dir.path(), 1, true));
    let mut envelope = gateway.call("newer").to_envelope().unwrap();
    envelope.headers.insert("fn-wire", HeaderValue::Int(3));
    envelope.properties.reply_to = None;
    gateway.send_envelope(&durable, envelope).await;
    eventually("it is dead", async || gateway.state(&dead).await.ready == 1).await;
    assert_eq!(function.seen().len(), 0);
    runner.stop().await;
}

#[tokio::test]
async fn who_waits_for_an_answer_goes_before_events() {
    let dir = tempfile::tempdir().unwrap();
    let broker = LocalBroker::new();
    let mut gateway = Gateway::new(&broker).await;
    let durable = gateway.declare_durable().await;
    let function = Function::start(&dir.path().join("f.sock"));
    let runner = Runner::start(&broker, dedicated_durable(dir.path(), 1, true));
    for body in ["hold", "second event"] {
        let event = funcatron_broker::link::Envelope { body: body.into(), ..Default::default() };
        gateway.send_envelope(&durable, event).await;
    }
    eventually("the one slot is taken", async || function.running() == 1).await;
    let call = gateway.send(gateway.call("call")).await;
    eventually("the call is in hand", async || gateway.state(&gateway.queue()).await.ready == 0).await;
    function.release();
    assert_eq!(answered(&gateway.reply(call).await).0, 200);
    eventually("events run too", async || function.seen().len() == 3).await;
    let order: Vec<String> = function.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(order, ["hold", "call", "second event"]);
    runner.stop().await;
}
