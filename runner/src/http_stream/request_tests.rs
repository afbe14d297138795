use super::*;

pub(in crate::http_stream) fn call(intent: Intent) -> Call {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.append("accept", HeaderValue::from_static("text/html"));
    headers.append("accept", HeaderValue::from_static("text/plain"));
    headers.append("cookie", HeaderValue::from_static("a=1"));
    headers.append("cookie", HeaderValue::from_static("b=2"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert("fn-intent", HeaderValue::from_static("forged"));
    Call {
        id: CallId::fresh(),
        reply_to: None,
        deadline_ms: 0,
        timeout_ms: 1000,
        expiration_ms: None,
        timestamp_s: None,
        persistent: false,
        attempt: 1,
        attempts_max: None,
        claimant: None,
        intent,
        method: Method::PUT,
        url: "https://shop.example/orders/7?x=1".into(),
        app: "shop".into(),
        fn_name: "orders".into(),
        revision: "orders-12345678".into(),
        operation: Some("putOrder".into()),
        template: Some("/orders/{id}".into()),
        params: vec![("id".into(), "7".into())],
        headers,
        direct: None,
        spilled: None,
        body: Bytes::from_static(b"{}"),
    }
}

fn header<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn a_request_says_what_fns_contract_says() {
    let call = call(Intent::HttpRequest);
    let id = call.id.to_string();
    let request = of_call(call, 2, 1_700_000_000_123);
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/call"));
    for (name, value) in [
        ("fn-call-id", id.as_str()),
        ("fn-deadline", "2023-11-14T22:13:20.123Z"),
        ("fn-intent", "httprequest"),
        ("fn-http-method", "PUT"),
        ("fn-http-request-url", "https://shop.example/orders/7?x=1"),
        ("fn-operation-id", "putOrder"),
        ("fn-route-template", "/orders/{id}"),
        ("fn-path-params", r#"{"id":"7"}"#),
        ("fn-attempt", "2"),
        ("content-type", "application/json"),
        ("fn-http-h-accept", "text/html, text/plain"),
        ("fn-http-h-cookie", "a=1; b=2"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    for absent in ["accept", "fn-http-h-content-type"] {
        assert_eq!(header(&request, absent), None, "{absent}");
    }
}

#[test]
fn a_client_cannot_say_what_the_platform_says() {
    for intent in [Intent::HttpRequest, Intent::Invoke] {
        let request = of_call(call(intent), 1, 0);
        assert_eq!(header(&request, "fn-intent"), Some(intent.as_str()));
        assert_eq!(request.headers().get_all("fn-intent").iter().count(), 1);
    }
}

#[test]
fn an_invocation_carries_headers_unprefixed_and_none_of_the_connection() {
    let request = of_call(call(Intent::Invoke), 1, 0);
    let accepted: Vec<_> = request.headers().get_all("accept").iter().collect();
    assert_eq!(accepted, ["text/html", "text/plain"]);
    assert_eq!(header(&request, "connection"), None);
    assert_eq!(header(&request, "fn-http-h-accept"), None);
    assert_eq!(header(&request, "fn-http-method"), None);
}

#[test]
fn parameters_beyond_ascii_are_escaped() {
    let params = [("città".to_owned(), "日\u{1F600}\n".to_owned())];
    let json = ascii_json(&params);
    assert!(json.is_ascii(), "{json}");
    let back: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(back["città"], "日\u{1F600}\n");
}

#[test]
fn an_event_carries_its_texts_and_where_it_came_from() {
    let mut event = Envelope { body: Bytes::from_static(b"x"), ..Envelope::default() };
    event.properties.content_type = Some("text/csv".into());
    event.headers.insert("Tenant", "acme");
    event.headers.insert("count", 7);
    event.headers.insert("not a name", "x");
    let through = Through { exchange: "i.ns.shop.x.orders", routing_key: "orders.created" };
    let request = of_event(event, through, 3, 0);
    assert_eq!(header(&request, "fn-intent"), Some("event"));
    assert_eq!(header(&request, "fn-exchange"), Some("i.ns.shop.x.orders"));
    assert_eq!(header(&request, "fn-routing-key"), Some("orders.created"));
    assert_eq!(header(&request, "fn-amqp-h-tenant"), Some("acme"));
    assert_eq!(header(&request, "content-type"), Some("text/csv"));
    assert_eq!(header(&request, "fn-attempt"), Some("3"));
    assert_eq!(header(&request, "fn-amqp-h-count"), None);
    assert!(header(&request, "fn-call-id").is_some_and(|id| id.parse::<CallId>().is_ok()));
}

#[test]
fn a_cloud_event_is_known_by_its_http_headers() {
    let mut event = Envelope::default();
    event.properties.content_type = Some("application/json".into());
    for (name, value) in [("specversion", "1.0"), ("id", "a 1"), ("source", "/shop"), ("type", "paid")] {
        event.headers.insert(format!("cloudEvents:{name}"), value);
    }
    event.headers.insert("cloudEvents:datacontenttype", "text/csv");
    event.headers.insert("cloudEvents:time", AmqpValue::Timestamp(1_790_000_000));
    event.headers.insert("tenant", "acme");
    let request =
        of_event(event, Through { exchange: "i.ns.shop.x.orders", routing_key: "orders.created" }, 1, 0);
    for (name, value) in [
        ("ce-id", "a%201"),
        ("ce-source", "/shop"),
        ("ce-time", "2026-09-21T14:13:20Z"),
        ("content-type", "application/json"),
        ("fn-amqp-h-tenant", "acme"),
        ("fn-intent", "event"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{name}");
    }
    assert!(request.headers().keys().all(|name| !name.as_str().contains("cloudevents")));
}

#[test]
fn a_structured_cloud_event_is_its_body() {
    let mut event = Envelope { body: "{}".into(), ..Envelope::default() };
    event.properties.content_type = Some("application/cloudevents+json; charset=utf-8".into());
    let request = of_event(event, Through { exchange: "x", routing_key: "k" }, 1, 0);
    assert_eq!(header(&request, "content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert!(request.headers().keys().all(|name| !name.as_str().starts_with("ce-")));
}

#[test]
fn a_deadline_beyond_all_dates_is_the_last_date() {
    assert!(rfc3339(u64::MAX).starts_with("9999-12-30"));
}
