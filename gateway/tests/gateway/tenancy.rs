//! What is served on which hostname and listener.

use funcatron_broker::message::{Intent, Outcome};
use funcatron_gateway::{HostPolicy, Limits};
use http::{Method, StatusCode};

use crate::support::*;

const OK: Outcome = Outcome::Answer(StatusCode::OK);

#[tokio::test]
async fn triggers_are_served_on_the_gateways_own_hostname_alone() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    let (answer, call) = tokio::join!(
        send(fixture.public, Method::POST, OWN_HOST, "/t/team-a/shop/hook/x?y=1", &[], "paid"),
        runner.serve(OK, "thanks")
    );
    assert_eq!((answer.text().as_str(), call.fn_name.as_str()), ("thanks", "page"));
    assert_eq!(
        (call.url.as_str(), &call.body[..]),
        ("http://gateway.example.com/t/team-a/shop/hook/x?y=1", &b"paid"[..])
    );
    assert_eq!(get(fixture.public, HOST, "/t/team-a/shop/hook").await.status, 404);
    assert_eq!(get(fixture.public, "unknown.example.com", "/t/team-a/shop/hook").await.status, 404);
    for path in [
        "/t/team-a/shop/hooks",
        "/t/team-a/shop",
        "/t/team-b/shop/hook",
        "/t/team-a",
        "/t/team-a/shop/hook/../x",
    ] {
        let answer = get(fixture.public, OWN_HOST, path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-route"), "{path}");
    }
}

#[tokio::test]
async fn functions_by_name_are_served_on_the_internal_listener_alone() {
    let fixture = Fixture::start().await;
    let mut runner = fixture.runner("00000001").await;
    for host in [HOST, OWN_HOST] {
        let answer = send(fixture.public, Method::POST, host, "/invoke/team-a/page", &[], "").await;
        assert_eq!(answer.status, 404, "{host}");
    }
    let invoke =
        |path| send(fixture.internal, Method::POST, "gateway.funcatron.svc", path, &[("fn-x", "1")], "data");
    let (answer, call) = tokio::join!(invoke("/invoke/team-a/page"), runner.serve(OK, "result"));
    assert_eq!((answer.status, answer.text().as_str(), call.intent), (200, "result", Intent::Invoke));
    assert!(!call.headers.contains_key("fn-x"));
    for path in [
        "/invoke/team-b/page",
        "/invoke/team-a/nope",
        "/invoke/team-a/page/x",
        "/page",
        "/t/team-a/shop/hook",
    ] {
        let answer = invoke(path).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-route"), "{path}");
    }
    let got = get(fixture.internal, "g", "/invoke/team-a/page").await;
    assert_eq!((got.status, &got.headers["allow"]), (405, &http::HeaderValue::from_static("POST")));
    assert_eq!(invoke("/invoke/team-a/new").await.problem(), "no-revision");
}

#[tokio::test]
async fn a_route_without_hostnames_answers_below_its_namespace() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    let table = route("shop", "bare", &[], &[rule(None, "/bare", "page", None)]);
    fixture.tables.put_route("team-a", "bare", Some(table)).unwrap();
    assert_eq!(get(fixture.public, OWN_HOST, "/team-a/bare").await.status, 200);
    assert_eq!(get(fixture.public, OWN_HOST, "/bare").await.status, 404);
    assert_eq!(get(fixture.public, HOST, "/team-a/bare").await.status, 404);
    echo.abort();
}

#[tokio::test]
async fn in_dev_every_route_answers_at_its_own_path_and_hostnames_still_choose() {
    let fixture = Fixture::with(HostPolicy::Dev, Limits::default()).await;
    let echo = fixture.runner("00000001").await.echo();
    let bare = route("shop", "bare", &[], &[rule(None, "/bare", "page", None)]);
    fixture.tables.put_route("team-a", "bare", Some(bare)).unwrap();
    for path in ["/page", "/bare", "/t/team-a/shop/hook"] {
        assert_eq!(get(fixture.public, "127.0.0.1:3001", path).await.status, 200, "{path}");
    }
    assert_eq!(get(fixture.public, HOST, "/page").await.status, 200);
    assert_eq!(get(fixture.public, HOST, "/t/team-a/shop/hook").await.status, 404);
    echo.abort();
}

#[tokio::test]
async fn bundles_are_handed_out_under_signed_addresses_alone() {
    let fixture = Fixture::start().await;
    let digest = fixture.bundles.put("team-a", "shop", "code".into());
    let far = u64::MAX / 2;
    let good = key().bundle_url("", "team-a", "shop", &digest, far);
    let fetched = get(fixture.internal, "g", &good).await;
    assert_eq!((fetched.status, fetched.text().as_str()), (200, "code"));
    assert_eq!(get(fixture.public, OWN_HOST, &good).await.status, 404);

    let expired = key().bundle_url("", "team-a", "shop", &digest, 1);
    let other_app = good.replace("/shop/", "/site/");
    let unsigned = good.split("&signature").next().unwrap().to_owned();
    for (address, status) in [(expired, 403), (other_app, 403), (unsigned, 404)] {
        assert_eq!(get(fixture.internal, "g", &address).await.status, status, "{address}");
    }
    let missing = key().bundle_url("", "team-a", "site", &digest, far);
    assert_eq!(get(fixture.internal, "g", &missing).await.problem(), "no-bundle");
}
