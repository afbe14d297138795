//! Which headers travel, in either direction. Pure.
//!
//! Trust: this gateway appends to `X-Forwarded-*` and believes none of it but one thing: a first `X-Forwarded-Proto` of
//! `https` makes the URL that the function sees an https one. A function that builds on these headers must know which
//! proxies stand before it, as everywhere.

use std::net::IpAddr;

use funcatron_broker::message::WEBSOCKET;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Version, request};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The platform's own words; nobody outside may speak them.
const PLATFORM_PREFIX: &str = "fn-";
/// Meaningful for one hop, framing, or set anew on the other side.
const HOP: [HeaderName; 12] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The peer's side of the request, for `X-Forwarded-*`.
pub(crate) struct Forwarded<'a> {
    pub(crate) peer: IpAddr,
    pub(crate) host: &'a str,
}

/// Leaves what travels: takes out the hop's headers, those that `Connection` lists (RFC 9110, 7.6.1), and whatever
/// poses as the platform's.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &HOP {
        headers.remove(name);
    }
    let posing: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(PLATFORM_PREFIX)).cloned().collect();
    for name in posing {
        headers.remove(name);
    }
}

/// Whether a request asks to go on as a WebSocket (RFC 6455, 4.1). Whatever else it asks for is answered as if it did not
/// (RFC 9110, 7.8).
pub(crate) fn asks_for_websocket(head: &request::Parts) -> bool {
    let lists = |name: &HeaderName, wanted: &str| {
        let values = head.headers.get_all(name).into_iter();
        let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let asks = head.version == Version::HTTP_11 && head.method == Method::GET;
    asks && lists(&CONNECTION, UPGRADE.as_str()) && lists(&UPGRADE, WEBSOCKET)
}

/// Says on whose behalf the request is passed on. `host` and the peer are appended to what stands.
pub(crate) fn forward(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    let Forwarded { peer, host } = forwarded;
    append(headers, X_FORWARDED_FOR, &peer.to_canonical().to_string());
    append(headers, X_FORWARDED_HOST, host);
    append(headers, X_FORWARDED_PROTO, "http");
    // HTTP/2 has none, and an absolute URL overrides the one of HTTP/1.1.
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, last: &str) {
    let mut all = Vec::with_capacity(last.len());
    for value in headers.get_all(&name) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(last.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(all)) {
        headers.insert(name, value);
    }
}

/// The scheme of the URL that the client sees.
pub(crate) fn scheme(headers: &HeaderMap) -> &'static str {
    let first = headers.get(X_FORWARDED_PROTO).and_then(|value| value.to_str().ok());
    let first = first.and_then(|value| value.split(',').next()).map(str::trim);
    if first.is_some_and(|proto| proto.eq_ignore_ascii_case("https")) { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn travel(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = map(headers);
        strip(&mut map);
        forward(&mut map, &Forwarded { peer: "192.0.2.7".parse().unwrap(), host: "shop.example.com" });
        map
    }

    #[test]
    fn what_belongs_to_the_hop_stays() {
        let travelling = travel(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic eA=="),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("accept", "a"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ]);
        let mut names: Vec<_> = travelling.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let kept =
            ["accept", "host", "traceparent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        assert_eq!(names, kept);
    }

    #[test]
    fn only_a_get_of_http_1_1_that_says_so_twice_asks_for_a_websocket() {
        let asks = |method: &str, version, headers: &[(&'static str, &'static str)]| {
            let (mut head, ()) = http::Request::builder().method(method).body(()).unwrap().into_parts();
            (head.version, head.headers) = (version, map(headers));
            asks_for_websocket(&head)
        };
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks("GET", Version::HTTP_11, &both));
        assert!(asks("GET", Version::HTTP_11, &[both[0], ("upgrade", "h2c, websocket")]));
        for (method, version, headers) in [
            ("POST", Version::HTTP_11, &both[..]),
            ("GET", Version::HTTP_10, &both),
            ("GET", Version::HTTP_2, &both),
            ("GET", Version::HTTP_11, &both[..1]),
            ("GET", Version::HTTP_11, &both[1..]),
            ("GET", Version::HTTP_11, &[both[0], ("upgrade", "h2c")]),
            ("GET", Version::HTTP_11, &[both[0], ("upgrade", "websocket/13")]),
        ] {
            assert!(!asks(method, version, headers), "{method} {version:?} {headers:?}");
        }
    }

    #[test]
    fn nobody_outside_speaks_the_platforms_words() {
        let travelling = travel(&[("fn-call-id", "forged"), ("fn-deadline", "never"), ("fnord", "kept")]);
        assert!(!travelling.contains_key("fn-call-id") && !travelling.contains_key("fn-deadline"));
        assert_eq!(travelling["fnord"], "kept");
    }

    #[test]
    fn forwarded_headers_are_appended_to() {
        let travelling = travel(&[
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("host", "told.example.com"),
        ]);
        assert_eq!(travelling["x-forwarded-for"], "203.0.113.9, 198.51.100.1, 192.0.2.7");
        assert_eq!(travelling.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(travelling["x-forwarded-proto"], "https, http");
        assert_eq!(travelling["x-forwarded-host"], "shop.example.com");
        assert_eq!(travelling["host"], "shop.example.com");
    }

    #[test]
    fn repeated_headers_keep_their_order() {
        let travelling = travel(&[("cookie", "a=1"), ("content-type", "text/plain"), ("cookie", "b=2")]);
        assert_eq!(travelling.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(travelling["content-type"], "text/plain");
    }

    #[test]
    fn only_a_first_https_makes_the_url_one() {
        assert_eq!(scheme(&map(&[("x-forwarded-proto", "HTTPS, http")])), "https");
        assert_eq!(scheme(&map(&[("x-forwarded-proto", "http, https")])), "http");
        assert_eq!(scheme(&map(&[("x-forwarded-proto", "javascript")])), "http");
        assert_eq!(scheme(&map(&[])), "http");
    }
}
