//! Every row of the table of answers.

use funcatron_broker::link::Target;
use funcatron_broker::message::{Intent, Outcome};
use funcatron_gateway::{HostPolicy, Limits};
use http::{HeaderValue, Method, StatusCode};

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

#[tokio::test]
async fn the_functions_own_status_headers_and_body_pass_untouched() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let serving = async {
        let (call, delivery) = runner.take().await;
        let mut answer = reply(&call, Outcome::Answer(StatusCode::IM_A_TEAPOT), "short and stout");
        answer.headers.insert("content-type", HeaderValue::from_static("text/x-song"));
        answer.headers.append("set-cookie", HeaderValue::from_static("a=1"));
        answer.headers.append("set-cookie", HeaderValue::from_static("b=2"));
        answer.headers.insert("connection", HeaderValue::from_static("x-hop"));
        answer.headers.insert("x-hop", HeaderValue::from_static("1"));
        answer.headers.insert("fn-call-id", HeaderValue::from_static("forged"));
        runner.reply(&call, answer).await;
        delivery.ack().await.unwrap();
        call
    };
    let (answer, call) = tokio::join!(fixture.post("/page/x?y=%20z", "tea"), serving);
    assert_eq!((answer.status, answer.text().as_str()), (418, "short and stout"));
    assert_eq!(answer.headers["content-type"], "text/x-song");
    assert_eq!(answer.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert!(!answer.headers.contains_key("x-hop"));
    assert_eq!(answer.headers["fn-call-id"], call.id.to_string());
}

#[tokio::test]
async fn a_call_carries_the_request_and_nobody_elses_words() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let headers = [
        ("content-type", "text/plain"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("fn-call-id", "forged"),
        ("fn-intent", "forged"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("x-forwarded-for", "203.0.113.9"),
    ];
    let sending = send(fixture.public, Method::PATCH, HOST, "/page/x?y=%20z", &headers, "tea");
    let (answer, call) = tokio::join!(sending, runner.serve(OK, ""));
    assert_eq!(answer.status, 200);
    assert_eq!((call.method.as_str(), &call.body[..], call.attempt), ("PATCH", &b"tea"[..], 1));
    assert_eq!(call.url, "http://shop.example.com/page/x?y=%20z");
    assert_eq!(
        (call.intent, call.app.as_str(), call.fn_name.as_str()),
        (Intent::HttpRequest, "shop", "page")
    );
    assert_eq!((call.revision, call.timeout_ms), (revision("00000001"), 30_000));
    assert!(call.expiration_ms.is_some_and(|left| left > 29_000 && left <= 30_000));
    assert_eq!(call.headers["content-type"], "text/plain");
    assert!(call.headers.contains_key("traceparent"));
    assert_eq!(call.headers["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    assert_eq!(call.headers["x-forwarded-host"], HOST);
    assert_eq!(call.headers["host"], HOST);
    for absent in ["fn-call-id", "fn-intent", "connection", "x-hop", "content-length"] {
        assert!(!call.headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_404_and_a_wrong_method_405_with_the_right_ones() {
    let fixture = Fixture::start().await;
    assert_eq!(
        (fixture.get("/nowhere").await.problem().as_str(), 404),
        ("no-route", fixture.get("/x").await.status)
    );
    let wrong = fixture.get("/put").await;
    assert_eq!((wrong.status, wrong.problem().as_str()), (405, "method-not-allowed"));
    assert_eq!(wrong.headers["allow"], "PUT");
    assert_eq!(get(fixture.public, "elsewhere.example.com", "/page").await.status, 404);
}

#[tokio::test]
async fn a_fn_without_a_revision_and_a_missing_app_are_503() {
    let fixture = Fixture::start().await;
    for path in ["/new", "/missing"] {
        let answer = fixture.get(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "no-revision"), "{path}");
    }
    fixture.tables.put_app("team-a", "shop", None).unwrap();
    let answer = fixture.get("/page").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "no-app"));
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_by_its_length_or_while_it_is_read() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    let fits = send(fixture.public, Method::POST, HOST, "/kept", &[], vec![b'x'; 1000]).await;
    assert_eq!((fits.status, fits.body.len()), (200, 1000));
    let declared = send(fixture.public, Method::POST, HOST, "/kept", &[], vec![b'x'; 1001]).await;
    assert_eq!((declared.status, declared.problem().as_str()), (413, "body-too-large"));
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    let head = "POST /kept HTTP/1.1\r\nhost: shop.example.com\r\ntransfer-encoding: chunked\r\n";
    let chunked = format!("{head}connection: close\r\n\r\n{chunk}");
    let answer = crate::connections::raw(fixture.public, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    echo.abort();
}

#[tokio::test]
async fn each_outcome_has_its_answer() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let rows = [
        (Outcome::Failed, 502, "function-failed"),
        (Outcome::TimedOut, 504, "deadline-passed"),
        (Outcome::RunnerLost, 502, "runner-lost"),
        (Outcome::NotHere, 503, "not-hosted"),
        (Outcome::Expired, 504, "not-started"),
        (Outcome::BadWire, 502, "bad-wire"),
    ];
    for (outcome, status, kind) in rows {
        let (answer, _) = tokio::join!(fixture.post("/page", ""), runner.serve(outcome, "for a reason"));
        assert_eq!((answer.status, answer.problem().as_str()), (status, kind), "{outcome:?}");
    }
    let (failed, _) = tokio::join!(fixture.post("/page", ""), runner.serve(Outcome::Failed, "for a reason"));
    assert!(failed.text().contains("for a reason"));
}

#[tokio::test]
async fn nonsense_of_a_runners_is_502() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let nonsense = async {
        let (call, delivery) = runner.take().await;
        let mut envelope = reply(&call, OK, "").into_envelope().unwrap();
        envelope.headers.insert("fn-status", 99);
        let exchange = installation().reply_exchange();
        let to = Target::exchange(&exchange, call.reply_to.as_deref().unwrap());
        runner.link.publish(to, envelope, false).await.unwrap();
        delivery.ack().await.unwrap();
    };
    let (answer, ()) = tokio::join!(fixture.get("/page"), nonsense);
    assert_eq!((answer.status, answer.problem().as_str()), (502, "function-failed"));
}

#[tokio::test]
async fn a_passed_deadline_is_504_by_the_rules_own_timeout() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let started = std::time::Instant::now();
    let (answer, (call, _delivery)) = tokio::join!(fixture.get("/brief"), runner.take());
    assert_eq!((answer.status, answer.problem().as_str()), (504, "deadline-passed"));
    assert!(started.elapsed().as_millis() >= 300 && call.timeout_ms == 300);
    assert!(fixture.metric("funcatron_gateway_calls_pending").await == 0.0);
}

#[tokio::test]
async fn more_calls_than_a_tenant_may_have_are_429_and_more_than_the_gateway_may_503() {
    for (limits, status, kind) in [
        (Limits { fn_in_flight_max: 1, ..Limits::default() }, 429, "tenant-busy"),
        (Limits { app_in_flight_max: 1, ..Limits::default() }, 429, "tenant-busy"),
        (Limits { in_flight_max: 1, ..Limits::default() }, 503, "gateway-busy"),
    ] {
        let fixture = Fixture::with(HostPolicy::Strict, limits).await;
        let mut runner = fixture.runner("00000001").await;
        let second = async {
            let (call, delivery) = runner.take().await;
            let refused = fixture.get("/page").await;
            runner.reply(&call, reply(&call, OK, "first")).await;
            delivery.ack().await.unwrap();
            refused
        };
        let (first, refused) = tokio::join!(fixture.get("/page"), second);
        assert_eq!((first.status, refused.status, refused.problem().as_str()), (200, status, kind));
        let (third, _) = tokio::join!(fixture.get("/page"), runner.serve(OK, ""));
        assert_eq!(third.status, 200, "the place is free again");
    }
}

#[tokio::test]
async fn with_the_broker_away_a_call_is_503_and_the_gateway_stays_ready() {
    let fixture = Fixture::start().await;
    fixture.broker.leave();
    eventually(async || fixture.metric("funcatron_gateway_link_up").await == 0.0).await;
    let answer = fixture.get("/page").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "broker-away"));
    assert_eq!(get(fixture.ops, "ops", "/readyz").await.status, 200);
    fixture.broker.come_back();
    let echo = fixture.runner("00000001").await.echo();
    eventually(async || fixture.get("/page").await.status == 200).await;
    echo.abort();
}

#[tokio::test]
async fn head_has_no_body_but_its_length_and_204_has_neither() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let head = send(fixture.public, Method::HEAD, HOST, "/page", &[], "");
    let (answer, call) = tokio::join!(head, runner.serve(OK, "five!"));
    assert_eq!(
        (answer.status, answer.body.len(), &answer.headers["content-length"]),
        (200, 0, &HeaderValue::from(5))
    );
    assert_eq!(call.method, Method::HEAD);
    let (answer, _) =
        tokio::join!(fixture.get("/page"), runner.serve(Outcome::Answer(StatusCode::NO_CONTENT), "five!"));
    assert_eq!((answer.status, answer.body.len()), (204, 0));
}

#[tokio::test]
async fn options_is_the_functions_own() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let options = send(fixture.public, Method::OPTIONS, HOST, "/page", &[], "");
    let (answer, call) = tokio::join!(options, runner.serve(OK, "mine"));
    assert_eq!((answer.text().as_str(), call.method), ("mine", Method::OPTIONS));
}

#[tokio::test]
async fn an_apps_own_bound_comes_before_the_gateways() {
    let fixture = Fixture::start().await;
    let mut table = app("00000001");
    table.bounds.in_flight_max = Some(1);
    fixture.tables.put_app("team-a", "shop", Some(table)).unwrap();
    let mut runner = fixture.runner("00000001").await;
    let refusing = async {
        let (call, delivery) = runner.take().await;
        let busy = fixture.get("/page").await;
        runner.reply(&call, reply(&call, OK, "")).await;
        delivery.ack().await.unwrap();
        busy
    };
    let (answer, busy) = tokio::join!(fixture.get("/page"), refusing);
    assert_eq!((answer.status, busy.status, busy.problem().as_str()), (200, 429, "tenant-busy"));
    assert_eq!(busy.headers["retry-after"], "1");
}
