use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn event() -> Headers {
    [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "a-1"),
        ("cloudEvents:source", "/shop"),
        ("cloudEvents:type", "com.example.paid"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect()
}

fn with(name: &str, value: impl Into<HeaderValue>) -> Headers {
    let mut headers = event();
    headers.insert(name, value);
    headers
}

fn taken(name: &str, value: impl Into<HeaderValue>) -> (HeaderMap, Headers) {
    let mut headers = with(name, value);
    (take_attributes(&mut headers), headers)
}

#[test]
fn attributes_become_http_headers_and_others_stay() {
    let mut headers = with("tenant", "acme");
    let http = take_attributes(&mut headers);
    let found: Vec<_> = http.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let mut found = found;
    found.sort_unstable();
    let expected = [
        ("ce-id", "a-1"),
        ("ce-source", "/shop"),
        ("ce-specversion", "1.0"),
        ("ce-type", "com.example.paid"),
    ];
    assert_eq!(found, expected);
    assert_eq!(headers, [("tenant".to_owned(), "acme".into())].into_iter().collect());
}

#[test]
fn either_prefix_is_read_and_the_colon_wins() {
    let mut headers: Headers = event()
        .into_iter()
        .map(|(name, value)| (name.replace(':', "_"), value))
        .chain([("cloudEvents:id".to_owned(), "b-2".into())])
        .collect();
    let http = take_attributes(&mut headers);
    assert_eq!((http["ce-id"].to_str().unwrap(), http.len()), ("b-2", 4));
    assert!(headers.is_empty());
    let (http, _) = taken("cloudEvents_id", "c-3");
    assert_eq!(http["ce-id"], "a-1");
}

#[test]
fn each_scalar_has_its_text_form() {
    let cases: [(HeaderValue, &str); 7] = [
        (HeaderValue::Int(-7), "-7"),
        (HeaderValue::Bool(true), "true"),
        (HeaderValue::Float(0.5), "0.5"),
        (HeaderValue::Timestamp(1_790_000_000), "2026-09-21T14:13:20Z"),
        (HeaderValue::Bytes(Bytes::from_static(&[0, 255, 128])), "AP+A"),
        ("Euro \u{20ac} \"%\"".into(), "Euro%20%E2%82%AC%20%22%25%22"),
        ("a\r\nx: y".into(), "a%0D%0Ax:%20y"),
    ];
    for (value, expected) in cases {
        let (http, _) = taken("cloudEvents:ext", value.clone());
        assert_eq!(http["ce-ext"], expected, "{value:?}");
    }
}

#[test]
fn what_has_no_text_form_stays_where_it_is() {
    for value in [
        HeaderValue::Void,
        HeaderValue::List(vec![]),
        HeaderValue::Table(Headers::default()),
        HeaderValue::Float(f64::NAN),
        HeaderValue::Timestamp(u64::MAX),
    ] {
        let (http, rest) = taken("cloudEvents:ext", value);
        assert!(http.contains_key("ce-id") && !http.contains_key("ce-ext"));
        assert_eq!(rest.len(), 1);
    }
}

#[test]
fn what_lacks_an_attribute_or_has_another_version_is_no_cloud_event() {
    for (name, value) in [
        ("cloudEvents:specversion", "0.3"),
        ("cloudEvents:id", ""),
        ("cloudEvents:source", ""),
        ("cloudEvents:type", ""),
    ] {
        let mut headers = with(name, value);
        let before = headers.clone();
        assert!(take_attributes(&mut headers).is_empty(), "{name}");
        assert_eq!(headers, before, "{name}");
    }
    for (name, _) in event() {
        let mut headers = event();
        headers.remove(&name);
        assert!(take_attributes(&mut headers).is_empty(), "{name}");
        assert_eq!(headers.len(), 3);
    }
}

#[test]
fn names_that_the_specification_forbids_are_no_attributes() {
    for name in ["", "Ext", "my-ext", "my.ext", "data", "h\u{e4}"] {
        let (http, rest) = taken(&format!("cloudEvents:{name}"), "x");
        assert_eq!((http.len(), rest.len()), (4, 1), "{name}");
    }
}

#[test]
fn a_content_type_among_the_attributes_is_the_content_type() {
    let (http, _) = taken("cloudEvents:datacontenttype", "text/csv");
    assert_eq!(http[CONTENT_TYPE], "text/csv");
    assert!(!http.contains_key("ce-datacontenttype"));
}

#[test]
fn more_than_anybody_has_to_carry_is_left_as_it_came() {
    let large = "\u{20ac}".repeat(BYTES_MAX / 9 + 1);
    let mut many = event();
    for n in 0..ATTRIBUTES_MAX {
        many.insert(format!("cloudEvents:x{n}"), "x");
    }
    for mut headers in [with("cloudEvents:large", large), many] {
        let before = headers.clone();
        assert!(take_attributes(&mut headers).is_empty());
        assert_eq!(headers, before);
    }
}

#[test]
fn an_answers_attributes_become_headers_of_a_message() {
    let mut http = HeaderMap::new();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "%E2%82%AC"),
        ("ce-source", "\"a \\\"b\\\"\""),
        ("ce-type", "t"),
        ("ce-bad", "%ff"),
        ("etag", "1"),
        ("content-type", "text/csv"),
    ] {
        http.insert(name, HttpValue::from_static(value));
    }
    let mut headers = Headers::default();
    put_attributes(&mut http, &mut headers);
    assert_eq!(headers.text("cloudEvents:id"), Some("\u{20ac}"));
    assert_eq!(headers.text("cloudEvents:source"), Some("a \"b\""));
    assert_eq!(headers.len(), 4);
    let mut left: Vec<_> = http.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["ce-bad", "content-type", "etag"]);
}

#[test]
fn an_answer_that_is_no_cloud_event_keeps_its_headers() {
    let mut http = HeaderMap::new();
    http.insert("ce-id", HttpValue::from_static("1"));
    let mut headers = Headers::default();
    put_attributes(&mut http, &mut headers);
    assert_eq!((http.len(), headers.len()), (1, 0));
}

proptest! {
    /// Whatever text an attribute has, it arrives.
    #[test]
    fn texts_survive_the_way_in_and_out(name in "[a-z][a-z0-9]{0,19}", text in ".{0,200}") {
        prop_assume!(name != DATA && name != DATA_CONTENT_TYPE && name != SPEC_VERSION);
        prop_assume!(!REQUIRED.contains(&name.as_str()));
        let before = with(&format!("cloudEvents:{name}"), text);
        let mut headers = before.clone();
        let mut http = take_attributes(&mut headers);
        prop_assert!(headers.is_empty());
        put_attributes(&mut http, &mut headers);
        prop_assert!(http.is_empty());
        prop_assert_eq!(headers, before);
    }

    /// Whatever comes, nothing panics, and what is not taken is left whole.
    #[test]
    fn hostile_headers_are_taken_or_left(
        pairs in proptest::collection::vec(("(cloudEvents[:_])?[a-zA-Z:_]{0,12}", ".{0,40}"), 0..40),
    ) {
        let mut headers: Headers = pairs.into_iter().map(|(name, text)| (name, text.into())).collect();
        let before = headers.clone();
        if take_attributes(&mut headers).is_empty() {
            prop_assert_eq!(headers, before);
        }
    }
}
