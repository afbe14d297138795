//! What those who run the platform see.

use funcatron_gateway::{Gateway, GatewayError, HostPolicy, Limits};

use crate::support::*;

#[tokio::test]
async fn a_gateway_is_ready_once_tables_and_broker_were_seen() {
    let fixture = Fixture::unready(HostPolicy::Strict, Limits::default()).await;
    let ops = fixture.ops;
    eventually(async || fixture.metric("funcatron_gateway_link_up").await == 1.0).await;
    assert_eq!(get(ops, "ops", "/livez").await.status, 200);
    let unready = get(ops, "ops", "/readyz").await;
    assert_eq!((unready.status, unready.text().as_str()), (503, "tables not seen yet\n"));
    fixture.tables.mark_synced();
    assert_eq!(get(ops, "ops", "/readyz").await.status, 200);
}

#[tokio::test]
async fn what_is_counted_is_told_by_listener_code_and_app() {
    let fixture = Fixture::start().await;
    let echo = fixture.runner("00000001").await.echo();
    assert_eq!(fixture.get("/page").await.status, 200);
    assert_eq!(fixture.get("/new").await.status, 503);
    assert_eq!(fixture.get("/nowhere").await.status, 404);
    let text = get(fixture.ops, "ops", "/metrics").await.text();
    for line in [
        r#"funcatron_gateway_requests_total{listener="public",code="200"} 1"#,
        r#"funcatron_gateway_requests_total{listener="public",code="404"} 1"#,
        r#"funcatron_gateway_app_answers_total{namespace="team-a",app="shop",class="2xx"} 1"#,
        r#"funcatron_gateway_app_answers_total{namespace="team-a",app="shop",class="5xx"} 1"#,
        "funcatron_gateway_request_duration_seconds_count 3",
        "funcatron_gateway_calls_in_flight 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    echo.abort();
}

#[tokio::test]
async fn counts_outlive_a_change_of_the_tables() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.get("/new").await.status, 503);
    fixture.tables.put_app("team-a", "shop", Some(app("00000002"))).unwrap();
    let name = r#"funcatron_gateway_app_answers_total{namespace="team-a",app="shop",class="5xx"}"#;
    assert_eq!(fixture.metric(name).await, 1.0);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let fixture = Fixture::start().await;
    let mut config = config(HostPolicy::Strict, Limits::default());
    config.public = fixture.public;
    let error = Gateway::bind(config).await.unwrap_err();
    let GatewayError::Listen { address, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*address, fixture.public);
    assert!(error.to_string().contains(&fixture.public.to_string()));
}
