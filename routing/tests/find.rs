//! How a request finds its rule: hosts, methods, headers, and paths that mean harm.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its helpers do")]

use std::collections::BTreeMap;

use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, Found, HeaderMatch, Match, OwnHost, PathMatch, PathMatchType,
    RouteMatch, RouteSource, RouteTable, Rules, Tables, compile,
};
use http::{HeaderMap, HeaderValue, Method};

struct Route<'a> {
    namespace: &'a str,
    name: &'a str,
    hostnames: &'a [&'a str],
    base_path: Option<&'a str>,
}

const ROUTE: Route<'static> =
    Route { namespace: "team-a", name: "route", hostnames: &["shop.test"], base_path: None };

impl Route<'_> {
    fn compile(&self, rules: Rules<'_>) -> RouteTable {
        let hostnames: Vec<String> = self.hostnames.iter().map(|name| (*name).to_owned()).collect();
        compile(&RouteSource {
            namespace: self.namespace,
            name: self.name,
            app: "shop",
            hostnames: &hostnames,
            base_path: self.base_path,
            created_ms: 0,
            uid: "",
            rules,
        })
        .unwrap()
    }

    /// A document of `METHOD /path` lines; the operationId is the line.
    fn openapi(&self, operations: &[&str]) -> RouteTable {
        let mut paths: BTreeMap<&str, BTreeMap<String, serde_json::Value>> = BTreeMap::new();
        for operation in operations {
            let (method, path) = operation.split_once(' ').unwrap();
            let id = serde_json::json!({ "operationId": operation });
            paths.entry(path).or_default().insert(method.to_lowercase(), id);
        }
        let document = serde_json::json!({"openapi": "3.0.3", "paths": paths}).to_string();
        self.compile(Rules::OpenApi {
            document: document.as_bytes(),
            fn_default: Some("bundle"),
            operations: &BTreeMap::new(),
        })
    }

    fn explicit(&self, rules: &[(&str, RouteMatch)]) -> RouteTable {
        let rules: Vec<ExplicitRule> = rules
            .iter()
            .map(|(fn_name, condition)| ExplicitRule {
                matches: vec![condition.clone()],
                backends: vec![Backend { fn_name: (*fn_name).to_owned(), weight: 1 }],
                call: CallPolicy::default(),
            })
            .collect();
        self.compile(Rules::Explicit(&rules))
    }
}

fn prefix(value: &str) -> RouteMatch {
    let path = Some(PathMatch { kind: PathMatchType::PathPrefix, value: value.to_owned() });
    RouteMatch { path, ..RouteMatch::default() }
}

fn exact(value: &str) -> RouteMatch {
    let path = Some(PathMatch { kind: PathMatchType::Exact, value: value.to_owned() });
    RouteMatch { path, ..RouteMatch::default() }
}

fn tables(own: OwnHost, tables: impl IntoIterator<Item = RouteTable>) -> Tables {
    Tables::new(own).replace_all(tables.into_iter().map(|table| (table.key(), Some(table))))
}

fn named() -> OwnHost {
    OwnHost::Named(vec!["gateway.test".to_owned()])
}

fn get<'a>(tables: &'a Tables, host: &str, path: &'a str) -> Option<Match<'a>> {
    match tables.find(host, &Method::GET, path, &HeaderMap::new()) {
        Found::Match(found) => Some(found),
        Found::MethodNotAllowed { .. } | Found::NotFound => None,
    }
}

/// The Fn, else 405 with its methods, else 404.
fn answer(tables: &Tables, method: &Method, path: &str, headers: &HeaderMap) -> String {
    match tables.find("shop.test", method, path, headers) {
        Found::Match(found) => found.operation_id.unwrap_or(&found.pick(0).fn_name).to_owned(),
        Found::MethodNotAllowed { allow } => format!("405 {allow}"),
        Found::NotFound => "404".to_owned(),
    }
}

fn answers(tables: &Tables, method: &Method, path: &str) -> String {
    answer(tables, method, path, &HeaderMap::new())
}

#[test]
fn concrete_paths_win_over_templates_and_go_back_to_them() {
    let operations =
        ["GET /users/me", "GET /users/{id}", "POST /users/{id}", "GET /{kind}/me/x", "GET /users/{id}/y"];
    let tables = tables(named(), [ROUTE.openapi(&operations)]);
    assert_eq!(answers(&tables, &Method::GET, "/users/me"), "GET /users/me");
    assert_eq!(answers(&tables, &Method::GET, "/users/7"), "GET /users/{id}");
    assert_eq!(answers(&tables, &Method::POST, "/users/me"), "POST /users/{id}");
    assert_eq!(answers(&tables, &Method::GET, "/users/me/x"), "GET /{kind}/me/x");
    assert_eq!(answers(&tables, &Method::GET, "/users/me/y"), "GET /users/{id}/y");
}

#[test]
fn a_missing_method_is_405_with_sorted_methods() {
    let tables =
        tables(named(), [ROUTE.openapi(&["PUT /a", "GET /a", "DELETE /{x}", "POST /b", "OPTIONS /c"])]);
    assert_eq!(answers(&tables, &Method::PATCH, "/a"), "405 DELETE, GET, HEAD, PUT");
    assert_eq!(answers(&tables, &Method::GET, "/b"), "405 DELETE, POST");
    assert_eq!(answers(&tables, &Method::OPTIONS, "/a"), "405 DELETE, GET, HEAD, PUT");
    assert_eq!(answers(&tables, &Method::OPTIONS, "/c"), "OPTIONS /c");
    assert_eq!(answers(&tables, &Method::GET, "/a/b"), "404");
}

#[test]
fn get_answers_head_unless_head_stands_there() {
    let tables = tables(named(), [ROUTE.openapi(&["GET /a", "GET /b", "HEAD /b", "POST /c"])]);
    assert_eq!(answers(&tables, &Method::HEAD, "/a"), "GET /a");
    assert_eq!(answers(&tables, &Method::HEAD, "/b"), "HEAD /b");
    assert_eq!(answers(&tables, &Method::GET, "/b"), "GET /b");
    assert_eq!(answers(&tables, &Method::HEAD, "/c"), "405 POST");
}

#[test]
fn prefixes_match_whole_segments() {
    let tables =
        tables(named(), [ROUTE.explicit(&[("shop", prefix("/shop/")), ("cart", exact("/shop/cart"))])]);
    for path in ["/shop", "/shop/", "/shop/x", "/shop//x", "/shop/cart/", "/shop/cart/x"] {
        assert_eq!(answers(&tables, &Method::GET, path), "shop", "{path}");
    }
    assert_eq!(answers(&tables, &Method::GET, "/shop/cart"), "cart");
    for path in ["/shopping", "/sho", "/", "//shop", "/Shop", "/x/shop"] {
        assert_eq!(answers(&tables, &Method::GET, path), "404", "{path}");
    }
}

#[test]
fn a_trailing_slash_counts_for_exact_paths_and_templates() {
    let tables = tables(named(), [ROUTE.openapi(&["GET /a", "GET /b/", "GET /c/{x}"])]);
    assert_eq!(answers(&tables, &Method::GET, "/a"), "GET /a");
    assert_eq!(answers(&tables, &Method::GET, "/b/"), "GET /b/");
    for path in ["/a/", "/b", "/c", "/c/", "/c/x/"] {
        assert_eq!(answers(&tables, &Method::GET, path), "404", "{path}");
    }
}

#[test]
fn the_base_path_itself_is_its_root_operation_with_and_without_slash() {
    let route = Route { base_path: Some("/v1"), ..ROUTE };
    let tables = tables(named(), [route.openapi(&["GET /", "GET /{id}"])]);
    assert_eq!(answers(&tables, &Method::GET, "/v1"), "GET /");
    assert_eq!(answers(&tables, &Method::GET, "/v1/"), "GET /");
    assert_eq!(answers(&tables, &Method::GET, "/v1/7"), "GET /{id}");
    assert_eq!(answers(&tables, &Method::GET, "/"), "404");
}

#[test]
fn more_headers_win_and_missing_ones_do_not_match() {
    let header = |name: &str| HeaderMatch { name: name.to_owned(), value: "1".to_owned() };
    let beta = RouteMatch { headers: vec![header("X-Beta")], ..prefix("/") };
    let both = RouteMatch { headers: vec![header("x-beta"), header("x-more")], ..prefix("/") };
    let posts = RouteMatch { method: Some("POST".into()), ..prefix("/") };
    let rules = [("plain", prefix("/")), ("beta", beta), ("both", both), ("posts", posts)];
    let tables = tables(named(), [ROUTE.explicit(&rules)]);
    let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    };
    let found = |method, pairs: &[_]| answer(&tables, &method, "/x", &headers(pairs));
    assert_eq!(found(Method::GET, &[]), "plain");
    assert_eq!(found(Method::GET, &[("x-beta", "1")]), "beta");
    assert_eq!(found(Method::GET, &[("x-beta", "2")]), "plain");
    assert_eq!(found(Method::GET, &[("x-beta", "1"), ("x-more", "1")]), "both");
    assert_eq!(found(Method::POST, &[("x-beta", "1")]), "posts");
    let mut repeated = headers(&[("x-beta", "0")]);
    repeated.append("x-beta", HeaderValue::from_static("1"));
    assert_eq!(answer(&tables, &Method::GET, "/x", &repeated), "beta");
}

#[test]
fn headers_that_are_missing_leave_404_and_no_allow() {
    let headers = vec![HeaderMatch { name: "x-beta".to_owned(), value: "1".to_owned() }];
    let rule = RouteMatch { headers, method: Some("GET".into()), ..prefix("/") };
    let tables = tables(named(), [ROUTE.explicit(&[("beta", rule)])]);
    assert_eq!(answers(&tables, &Method::POST, "/x"), "404");
}

#[test]
fn hosts_are_compared_as_gateway_api_does() {
    let route = |name, hostnames| Route { name, hostnames, ..ROUTE }.explicit(&[(name, prefix("/"))]);
    let tables = tables(
        named(),
        [route("exact", &["a.shop.test"]), route("near", &["*.shop.test"]), route("far", &["*.test"])],
    );
    for (host, name) in [
        ("a.shop.test", Some("exact")),
        ("A.Shop.TEST:8080", Some("exact")),
        ("a.shop.test.", Some("exact")),
        ("b.shop.test", Some("near")),
        ("c.b.shop.test", Some("near")),
        ("shop.test", Some("far")),
        ("test", None),
        (".test", None),
        ("shop.test.evil", None),
        ("a.shop.test:x", None),
        ("a.shop.test@evil", None),
        ("[::1]:3001", None),
        ("", None),
    ] {
        assert_eq!(get(&tables, host, "/").map(|found| found.route), name, "{host}");
    }
}

#[test]
fn a_rule_of_a_wider_host_answers_what_the_narrower_leaves() {
    let narrow = Route { name: "narrow", hostnames: &["a.test"], ..ROUTE }.openapi(&["GET /x"]);
    let wide = Route { name: "wide", hostnames: &["*.test"], ..ROUTE }.explicit(&[("wide", prefix("/"))]);
    let tables = tables(named(), [narrow, wide]);
    assert_eq!(get(&tables, "a.test", "/x").unwrap().route, "narrow");
    assert_eq!(get(&tables, "a.test", "/y").unwrap().route, "wide");
}

#[test]
fn routes_without_hostname_answer_below_their_namespace_on_the_gateways_own() {
    let bare = Route { hostnames: &[], base_path: Some("/v1"), ..ROUTE }.openapi(&["GET /orders/{id}"]);
    let hosted = Route { name: "hosted", ..ROUTE }.openapi(&["GET /orders"]);
    let tables = tables(named(), [bare, hosted]);
    let found = get(&tables, "Gateway.test:80", "/team-a/v1/orders/7").unwrap();
    assert_eq!((found.base_path, found.path_below), ("/v1", "/orders/7"));
    assert_eq!(found.params.get("id").as_deref(), Some("7"));
    assert!(get(&tables, "gateway.test", "/v1/orders/7").is_none());
    assert!(get(&tables, "gateway.test", "/team-b/v1/orders/7").is_none());
    assert!(get(&tables, "elsewhere.test", "/team-a/v1/orders/7").is_none());
    assert!(get(&tables, "gateway.test", "/orders").is_none());
    assert!(get(&tables, "shop.test", "/team-a/v1/orders/7").is_none());
}

#[test]
fn no_route_takes_the_gateways_own_hostname() {
    let taker = Route { hostnames: &["gateway.test", "*.test"], ..ROUTE }.explicit(&[("taker", prefix("/"))]);
    let tables = tables(named(), [taker]);
    assert!(get(&tables, "gateway.test", "/").is_none());
    assert!(get(&tables, "other.test", "/").is_some());
}

#[test]
fn a_gateway_without_hostname_serves_namespaces_on_every_unclaimed_name() {
    let bare = Route { hostnames: &[], ..ROUTE }.openapi(&["GET /orders"]);
    let hosted = Route { name: "hosted", ..ROUTE }.openapi(&["GET /orders"]);
    let tables = tables(OwnHost::Unclaimed, [bare, hosted]);
    assert_eq!(get(&tables, "127.0.0.1:3001", "/team-a/orders").unwrap().route, "route");
    assert_eq!(get(&tables, "shop.test", "/orders").unwrap().route, "hosted");
    assert!(get(&tables, "shop.test", "/team-a/orders").is_none());
    assert!(get(&tables, "127.0.0.1", "/orders").is_none());
}

#[test]
fn in_dev_every_route_answers_at_its_own_path_where_no_route_is_named() {
    let bare = Route { name: "bare", hostnames: &[], ..ROUTE }.openapi(&["GET /orders"]);
    let hosted = Route { name: "hosted", base_path: Some("/v1"), ..ROUTE }.openapi(&["GET /orders"]);
    let tables = tables(OwnHost::Dev, [bare, hosted]);
    for (host, path, route) in [
        ("127.0.0.1:3001", "/orders", Some("bare")),
        ("127.0.0.1:3001", "/team-a/orders", Some("bare")),
        ("localhost:3001", "/v1/orders", Some("hosted")),
        ("shop.test", "/v1/orders", Some("hosted")),
        ("shop.test", "/orders", None),
    ] {
        assert_eq!(get(&tables, host, path).map(|found| found.route), route, "{host}{path}");
    }
}

#[test]
fn parameters_are_split_first_and_decoded_afterwards() {
    let tables = tables(named(), [ROUTE.openapi(&["GET /files/{folder}/{name}"])]);
    let params = |path| {
        let found = get(&tables, "shop.test", path)?;
        Some(found.params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
    };
    let pair = |folder: &str, name: &str| Some(vec![format!("folder={folder}"), format!("name={name}")]);
    assert_eq!(params("/files/a%2Fb/c%20d"), pair("a/b", "c d"));
    assert_eq!(params("/files/caf%C3%A9/%F0%9F%98%80"), pair("café", "😀"));
    assert_eq!(params("/files/..%2F..%2Fetc/x"), pair("../../etc", "x"));
    assert_eq!(params("/files/%25/+"), pair("%", "+"));
    assert_eq!(params("/files/a/b/c"), None);
    assert_eq!(params("/files//b"), None);
}

#[test]
fn paths_that_programs_read_differently_are_not_found() {
    let rules = [("all", prefix("/")), ("files", prefix("/files"))];
    let explicit = ROUTE.explicit(&rules);
    let documented =
        Route { name: "api", base_path: Some("/api"), ..ROUTE }.openapi(&["GET /{x}", "GET /{x}/y"]);
    let tables = tables(named(), [explicit, documented]);
    for path in [
        "/files/../api/x",
        "/files/..",
        "/files/.",
        "/./files",
        "/files/%2e%2e/api",
        "/files/%2E./api",
        "/files/.%2e",
        "/api/%2e%2e/y",
        "/files/%",
        "/files/%2",
        "/files/%zz",
        "/files/%u0041",
        "/files/%00",
        "/files/%ff%00",
        "files",
        "",
        "*",
        "http://shop.test/files",
    ] {
        assert_eq!(answers(&tables, &Method::GET, path), "404", "{path}");
    }
    for path in ["/.well-known/x", "/a..b", "/...", "/..a", "/a.", "/files/a%2E%2Eb"] {
        assert_ne!(answers(&tables, &Method::GET, path), "404", "{path}");
    }
}

#[test]
fn bytes_that_are_no_utf8_match_no_segment_but_may_stand_below_a_prefix() {
    let tables = tables(
        named(),
        [
            ROUTE.explicit(&[("files", prefix("/files"))]),
            Route { name: "api", base_path: Some("/api"), ..ROUTE }.openapi(&["GET /{x}"]),
        ],
    );
    assert_eq!(answers(&tables, &Method::GET, "/files/%ff"), "files");
    assert_eq!(answers(&tables, &Method::GET, "/api/%ff"), "404");
    assert_eq!(answers(&tables, &Method::GET, "/%ff"), "404");
}

#[test]
fn an_encoded_slash_is_no_separator_on_either_side() {
    let rules = [("one", exact("/a%2Fb")), ("two", exact("/a/b")), ("cafe", exact("/café"))];
    let tables = tables(named(), [ROUTE.explicit(&rules)]);
    assert_eq!(answers(&tables, &Method::GET, "/a%2fb"), "one");
    assert_eq!(answers(&tables, &Method::GET, "/a/b"), "two");
    assert_eq!(answers(&tables, &Method::GET, "/%61/b"), "two");
    assert_eq!(answers(&tables, &Method::GET, "/caf%C3%A9"), "cafe");
}

#[test]
fn a_deep_path_costs_no_stack_and_no_time() {
    let tables = tables(named(), [ROUTE.explicit(&[("all", prefix("/a"))])]);
    let path = "/a".repeat(1_000_000);
    assert_eq!(answers(&tables, &Method::GET, &path), "all");
    assert_eq!(answers(&tables, &Method::GET, &"/".repeat(1_000_000)), "404");
}

#[test]
fn what_is_below_a_prefix_is_told_raw() {
    let route = Route { base_path: Some("/site"), ..ROUTE };
    let rules = [("shop", prefix("/shop")), ("all", prefix("/"))];
    let tables = tables(named(), [route.explicit(&rules)]);
    for (path, below) in [
        ("/site/shop/a%20b/", "/a%20b/"),
        ("/site/shop/", "/"),
        ("/site/shop", ""),
        ("/site/x", "/x"),
        ("/site", ""),
    ] {
        assert_eq!(get(&tables, "shop.test", path).unwrap().path_below, below, "{path}");
    }
}

#[test]
fn backends_are_picked_by_weight() {
    let backend = |name: &str, weight| Backend { fn_name: name.to_owned(), weight };
    let rules = [ExplicitRule {
        backends: vec![backend("none", 0), backend("most", 90), backend("some", 10), backend("last", 0)],
        ..ExplicitRule::default()
    }];
    let tables = tables(named(), [ROUTE.compile(Rules::Explicit(&rules))]);
    let found = get(&tables, "shop.test", "/").unwrap();
    let mut picked: BTreeMap<&str, u32> = BTreeMap::new();
    for step in 0..1000_u32 {
        *picked.entry(&found.pick(step * (u32::MAX / 1000)).fn_name).or_default() += 1;
    }
    assert_eq!(found.pick(0).fn_name, "most");
    assert_eq!(found.pick(u32::MAX).fn_name, "some");
    assert_eq!(picked.keys().copied().collect::<Vec<_>>(), ["most", "some"]);
    assert!((899..=901).contains(&picked["most"]), "{picked:?}");
}

#[test]
fn the_older_route_answers_where_two_say_the_same() {
    let route = |name, created_ms| {
        let rules = [ExplicitRule {
            backends: vec![Backend { fn_name: "page".into(), weight: 1 }],
            ..ExplicitRule::default()
        }];
        let hostnames = ["shop.test".to_owned()];
        compile(&RouteSource {
            namespace: "n",
            name,
            app: "a",
            hostnames: &hostnames,
            base_path: None,
            created_ms,
            uid: "",
            rules: Rules::Explicit(&rules),
        })
        .unwrap()
    };
    let by_age = tables(named(), [route("aaa", 2), route("bbb", 1)]);
    assert_eq!(get(&by_age, "shop.test", "/").unwrap().route, "bbb");
    let by_name = tables(named(), [route("bbb", 1), route("aaa", 1)]);
    assert_eq!(get(&by_name, "shop.test", "/").unwrap().route, "aaa");
}

#[test]
fn an_old_value_serves_on_while_a_new_one_is_made() {
    let before = tables(named(), [ROUTE.openapi(&["GET /a"])]);
    let key = before.routes().next().unwrap().key();
    let after = before.replace(&key, Some(ROUTE.openapi(&["GET /b"])));
    assert_eq!(answers(&before, &Method::GET, "/a"), "GET /a");
    assert_eq!(answers(&after, &Method::GET, "/a"), "404");
    assert_eq!(answers(&after, &Method::GET, "/b"), "GET /b");
    assert!(after.replace(&key, None).is_empty());
}
