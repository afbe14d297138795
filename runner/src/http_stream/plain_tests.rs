use funcatron_broker::envelope::{Headers, Properties};
use http::StatusCode;
use http_body_util::BodyExt as _;

use super::*;
use crate::http_stream::request::tests::call;

fn header<'a>(request: &'a Request<Full<Bytes>>, name: &str) -> Vec<&'a str> {
    request.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_is_the_clients_own_with_the_platforms_word_beside_it() {
    let mut call = call(Intent::HttpRequest);
    call.headers.insert(HOST, HeaderValue::from_static("shop.example"));
    call.headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
    let id = call.id.to_string();
    let request = of_call(call, 2, 1_700_000_000_123);
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::PUT, "/orders/7?x=1"));
    for (name, wanted) in [
        ("host", &["shop.example"][..]),
        ("content-type", &["application/json"]),
        ("accept", &["text/html", "text/plain"]),
        ("cookie", &["a=1", "b=2"]),
        ("x-forwarded-for", &["192.0.2.7"]),
        ("fn-call-id", &[&id]),
        ("fn-deadline", &["2023-11-14T22:13:20.123Z"]),
        ("fn-attempt", &["2"]),
        ("fn-intent", &["httprequest"]),
        ("fn-operation-id", &["putOrder"]),
        ("fn-path-params", &[r#"{"id":"7"}"#]),
        ("connection", &[]),
        ("fn-http-method", &[]),
        ("fn-http-h-accept", &[]),
    ] {
        assert_eq!(header(&request, name), wanted, "{name}");
    }
    assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{}");
}

#[test]
fn the_path_is_that_of_the_clients_url() {
    for (url, wanted) in [
        ("https://shop.example/v1/orders/a%2Fb?x=1&y=%20", "/v1/orders/a%2Fb?x=1&y=%20"),
        ("http://shop.example:8080", "/"),
        ("http://shop.example?x=1", "/?x=1"),
        ("http:///of/http/1.0", "/of/http/1.0"),
        ("http://shop.example//two", "//two"),
        ("http://[fd00::7]:80/six?", "/six?"),
        ("nonsense", "/"),
    ] {
        assert_eq!(target(Intent::HttpRequest, url).to_string(), wanted, "{url}");
    }
}

#[test]
fn an_invocation_by_name_is_of_the_root() {
    let mut call = call(Intent::Invoke);
    call.url = "http://gateway.funcatron.svc/invoke/team-a/orders?x=1".into();
    let request = of_call(call, 1, 0);
    assert_eq!(request.uri(), "/?x=1");
    assert_eq!(header(&request, "host"), ["localhost"]);
    assert_eq!(
        header(&request, "fn-intent"),
        ["invoke"],
        "what poses as the platform's word is not passed on"
    );
}

#[test]
fn an_event_is_posted_to_the_root() {
    let mut headers = Headers::default();
    headers.insert("tenant", "7");
    let properties = Properties { content_type: Some("text/csv".into()), ..Properties::default() };
    let event = Envelope { properties, headers, body: Bytes::from_static(b"a,b") };
    let through = Through { exchange: "i.ns.shop.x.orders", routing_key: "orders.created" };
    let request = of_event(event, through, 3, 0);
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "/"));
    for (name, wanted) in [
        ("host", "localhost"),
        ("content-type", "text/csv"),
        ("fn-intent", "event"),
        ("fn-routing-key", "orders.created"),
        ("fn-amqp-h-tenant", "7"),
    ] {
        assert_eq!(header(&request, name), [wanted], "{name}");
    }
}

fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    read(builder.body(Bytes::from_static(b"body")).unwrap())
}

#[test]
fn an_answer_passes_untouched_whatever_its_status() {
    for code in [200, 204, 301, 404, 418, 500, 502, 504, 599] {
        let Answer::Answered { status, headers, body } = answer(code, &[("date", "now"), ("server", "x")])
        else {
            panic!("{code}")
        };
        assert_eq!((status, &body[..]), (StatusCode::from_u16(code).unwrap(), &b"body"[..]));
        assert_eq!(
            (&headers["date"], &headers["server"], headers.len()),
            (&"now".parse().unwrap(), &"x".parse().unwrap(), 2)
        );
    }
}

#[test]
fn a_status_that_is_none_is_nonsense() {
    for code in [100, 101, 103, 600, 999] {
        assert!(matches!(answer(code, &[]), Answer::Nonsense(_)), "{code}");
    }
}

#[test]
fn a_websocket_is_asked_for_where_the_client_does_and_nothing_else_is() {
    let mut headers = HeaderMap::new();
    assert!(!ask_to_switch(&mut headers, None) && !ask_to_switch(&mut headers, Some("h2c")));
    assert!(headers.is_empty());
    assert!(ask_to_switch(&mut headers, Some("websocket")));
    assert_eq!(
        (&headers["connection"], &headers["upgrade"]),
        (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
    );
}

#[test]
fn a_switch_to_what_was_asked_for_travels_without_what_the_hop_says() {
    let of = |upgrade: &'static str| {
        let headers = [("connection", "Upgrade"), ("upgrade", upgrade), ("sec-websocket-accept", "x")];
        let headers =
            headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        switched(HeaderMap::from_iter(headers))
    };
    let headers = of("WebSocket").unwrap();
    assert_eq!((headers.len(), &headers["sec-websocket-accept"]), (1, &"x".parse().unwrap()));
    assert!(of("h2c").is_err() && switched(HeaderMap::new()).is_err());
}

#[test]
fn what_speaks_of_the_connection_stays_there() {
    let answer = answer(
        200,
        &[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "4"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ],
    );
    let Answer::Answered { headers, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(headers.len(), 2);
}
