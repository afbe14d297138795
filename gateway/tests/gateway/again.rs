//! What is tried again and what is not: lost runners, returned calls, a lost link, forged and late replies, clients that
//! leave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use funcatron_broker::link::{ConsumeOptions, Event};
use funcatron_broker::message::{Cancel, MissingQueue, Outcome};
use funcatron_broker::topology;
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

#[tokio::test]
async fn an_idempotent_call_survives_its_runner() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let serving = async {
            let first = runner.serve(Outcome::RunnerLost, "").await;
            let second = runner.serve(OK, "").await;
            (first, second)
        };
        let sending = send(fixture.public, method, HOST, "/page", &[], "body");
        let (answer, (first, second)) = tokio::join!(sending, serving);
        assert_eq!((answer.status, first.attempt, second.attempt), (200, 1, 2));
        assert_eq!((first.id, &first.body), (second.id, &second.body));
        assert_eq!(first.deadline_ms, second.deadline_ms);
        assert!(second.expiration_ms <= first.expiration_ms);
    }
}

#[tokio::test]
async fn a_poison_call_ends_after_three_attempts() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let serving = async {
        let mut attempts = Vec::new();
        for _ in 0..3 {
            attempts.push(runner.serve(Outcome::RunnerLost, "").await.attempt);
        }
        attempts
    };
    let (answer, attempts) = tokio::join!(fixture.get("/page"), serving);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "runner-lost"));
    assert_eq!(attempts, [1, 2, 3]);
}

#[tokio::test]
async fn any_other_call_is_502_at_once_and_never_published_again() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    for method in [Method::POST, Method::PATCH] {
        let sending = send(fixture.public, method, HOST, "/page", &[], "");
        let (answer, _) = tokio::join!(sending, runner.serve(Outcome::RunnerLost, ""));
        assert_eq!((answer.status, answer.problem().as_str()), (502, "runner-lost"));
    }
    let (_, next) = tokio::join!(fixture.get("/page/next"), runner.serve(OK, ""));
    assert!(next.url.ends_with("/page/next"), "nothing else was published");
}

#[tokio::test]
async fn a_returned_call_goes_by_the_tables_of_the_moment() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000002").await;
    let swapping = async {
        eventually(async || fixture.metric("funcatron_gateway_calls_returned_total").await >= 1.0).await;
        fixture.tables.put_app("team-a", "shop", Some(app("00000002"))).unwrap();
        runner.serve(OK, "new").await
    };
    let (answer, call) = tokio::join!(fixture.post("/page", ""), swapping);
    assert_eq!((answer.text().as_str(), call.attempt, call.revision), ("new", 1, revision("00000002")));
}

#[tokio::test]
async fn a_call_that_no_queue_takes_is_503_after_three_returns() {
    let fixture = Fixture::start().await;
    let answer = fixture.post("/page", "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "unroutable"));
    assert_eq!(fixture.metric("funcatron_gateway_calls_returned_total").await, 4.0);
}

#[tokio::test]
async fn the_links_loss_is_survived_by_idempotent_calls_alone() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let losing = async {
        let (one, _held) = runner.take().await;
        let (two, _held_too) = runner.take().await;
        fixture.broker.local.drop_links("lost for a test");
        let mut runner = fixture.runner("00000001").await;
        // What the lost runner held comes back first, redelivered: a runner answers that, and it is late.
        loop {
            let (call, delivery) = runner.take().await;
            let redelivered = delivery.redelivered;
            let outcome = if redelivered { Outcome::RunnerLost } else { OK };
            runner.reply(&call, reply(&call, outcome, "again")).await;
            delivery.ack().await.unwrap();
            if !redelivered {
                return (one, two, call);
            }
        }
    };
    let (get, post, (one, two, again)) =
        tokio::join!(fixture.get("/page"), fixture.post("/page", ""), losing);
    assert_eq!((get.status, get.text().as_str()), (200, "again"));
    assert_eq!((post.status, post.problem().as_str()), (502, "outcome-unknown"));
    let first = if one.method == Method::GET { one } else { two };
    assert_eq!((again.id, again.attempt, again.method), (first.id, 2, Method::GET));
    assert_ne!(again.reply_to, first.reply_to);
}

#[tokio::test]
async fn an_idempotent_call_whose_queue_is_gone_goes_elsewhere() {
    let fixture = Fixture::start().await;
    let mut old = fixture.runner("00000001").await;
    let mut new = fixture.runner("00000002").await;
    let retiring = async {
        let (_held, _delivery) = old.take().await;
        fixture.tables.put_app("team-a", "shop", Some(app("00000002"))).unwrap();
        let queue = names().revision_queue(&revision("00000001")).unwrap();
        old.link.delete_queue(&queue, true).await.unwrap();
        new.serve(OK, "elsewhere").await
    };
    let (answer, call) = tokio::join!(fixture.get("/page"), retiring);
    assert_eq!((answer.text().as_str(), call.attempt), ("elsewhere", 2));
}

#[tokio::test]
async fn any_other_call_whose_queue_is_gone_waits_for_its_answer() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let retiring = async {
        let (call, _delivery) = runner.take().await;
        let queue = names().revision_queue(&revision("00000001")).unwrap();
        runner.link.delete_queue(&queue, true).await.unwrap();
        // Long enough for the gateway to have looked.
        let looked = Instant::now();
        eventually(async || looked.elapsed() > Duration::from_millis(300)).await;
        runner.reply(&call, reply(&call, OK, "late but good")).await;
    };
    let (answer, ()) = tokio::join!(fixture.post("/page", ""), retiring);
    assert_eq!(answer.text(), "late but good");
}

#[tokio::test]
async fn a_forged_reply_is_dropped_and_counted_and_the_call_waits_on() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let forging = async {
        let (call, delivery) = runner.take().await;
        for user_id in [None, Some("test.team-b.shop"), Some("test.team-a.shop2")] {
            let mut forged = reply(&call, OK, "forged");
            forged.user_id = user_id.map(str::to_owned);
            runner.reply(&call, forged).await;
        }
        let mut never_asked = reply(&call, OK, "forged");
        never_asked.attempt = 2;
        runner.reply(&call, never_asked).await;
        runner.reply(&call, reply(&call, OK, "true")).await;
        delivery.ack().await.unwrap();
    };
    let (answer, ()) = tokio::join!(fixture.get("/page"), forging);
    assert_eq!((answer.status, answer.text().as_str()), (200, "true"));
    assert_eq!(fixture.metric("funcatron_gateway_replies_forged_total").await, 4.0);
}

#[tokio::test]
async fn a_late_reply_is_dropped_and_counted() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (answer, (call, delivery)) = tokio::join!(fixture.get("/brief"), runner.take());
    assert_eq!(answer.status, 504);
    runner.reply(&call, reply(&call, OK, "late")).await;
    delivery.ack().await.unwrap();
    eventually(async || fixture.metric("funcatron_gateway_replies_late_total").await == 1.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (queue, items) = topology::runner(&names(), "r1").unwrap();
    runner.link.declare(&items).await.unwrap();
    let options = ConsumeOptions { prefetch: 0, exclusive: true, no_ack: true };
    let mut cancels = runner.link.consume(&queue, options).await.unwrap();

    let mut client = TcpStream::connect(fixture.public).await.unwrap();
    client
        .write_all(b"POST /page HTTP/1.1\r\nhost: shop.example.com\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let (over_h1, _held) = runner.take().await;
    drop(client);
    assert_eq!(cancelled(&mut cancels).await, over_h1.id);

    let mut sender = h2(fixture.public).await;
    let uri = format!("http://{HOST}/page");
    let request = http::Request::post(uri).body(http_body_util::Full::new(Bytes::new())).unwrap();
    let sending = tokio::spawn(sender.send_request(request));
    let (over_h2, _held) = runner.take().await;
    sending.abort();
    assert_eq!(cancelled(&mut cancels).await, over_h2.id);
    assert_eq!(fixture.metric("funcatron_gateway_calls_pending").await, 0.0);
    eventually(async || fixture.metric("funcatron_gateway_calls_in_flight").await == 0.0).await;
}

async fn cancelled(cancels: &mut funcatron_broker::link::Consumer) -> funcatron_broker::message::CallId {
    match soon(cancels.next()).await {
        Some(Event::Delivery(delivery)) => Cancel::from_envelope(&delivery.envelope).unwrap().id,
        other => panic!("no cancel but {other:?}"),
    }
}

#[tokio::test]
async fn an_answered_call_is_not_cancelled() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    assert_eq!(fixture.get("/page").await.status, 200);
    assert_eq!(fixture.metric("funcatron_gateway_cancels_total").await, 0.0);
    echo.abort();
}

#[tokio::test]
async fn a_route_or_a_key_makes_a_post_run_again() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    for (path, headers) in [("/page", &[("idempotency-key", "\"8e03978e\"")][..]), ("/again", &[])] {
        let serving = async {
            runner.serve(Outcome::RunnerLost, "").await;
            runner.serve(OK, "").await
        };
        let sending = send(fixture.public, Method::POST, HOST, path, headers, "");
        let (answer, second) = tokio::join!(sending, serving);
        assert_eq!((answer.status, second.attempt), (200, 2), "{path}");
        let key = second.headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned());
        assert_eq!(key.as_deref(), headers.first().map(|(_, key)| *key), "handed to the function");
    }
}

#[tokio::test]
async fn a_deleted_reply_exchange_is_made_again_and_its_calls_have_lost_their_link() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    for (method, answered) in [(Method::GET, (200, 2)), (Method::POST, (502, 1))] {
        let losing = async {
            let (first, delivery) = runner.take().await;
            runner.link.delete_exchange(&installation().reply_exchange()).await.unwrap();
            // Its reply goes nowhere.
            delivery.ack().await.unwrap();
            if answered.1 == 1 { first } else { runner.serve(OK, "").await }
        };
        let (answer, last) = tokio::join!(send(fixture.public, method, HOST, "/page", &[], ""), losing);
        assert_eq!((answer.status, last.attempt), answered);
    }
    eventually(async || fixture.metric("funcatron_gateway_link_up").await == 1.0).await;
    let (answer, _) = tokio::join!(fixture.get("/page"), runner.serve(OK, ""));
    assert_eq!(answer.status, 200);
    let reports = runner.link.inspect(&installation().reports_queue()).await.unwrap();
    assert!(reports.is_some(), "what else was bound to it is not");
}

#[tokio::test]
async fn the_operator_is_told_of_a_revisions_queue_that_is_missing() {
    let fixture = Fixture::start().await;
    let runner = fixture.runner("00000001").await;
    let queue = names().revision_queue(&revision("00000001")).unwrap();
    runner.link.delete_queue(&queue, false).await.unwrap();
    let answer = fixture.get("/page").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "unroutable"));
    let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
    let mut reports = runner.link.consume(&installation().reports_queue(), options).await.unwrap();
    let Some(Event::Delivery(told)) = soon(reports.next()).await else { panic!("nothing was told") };
    assert!(MissingQueue::is(&told.envelope) && told.exchange.is_empty());
    let MissingQueue { namespace, app, fn_name } = MissingQueue::from_envelope(&told.envelope).unwrap();
    assert_eq!((&*namespace, &*app, &*fn_name), ("team-a", "shop", "page"));
}
