//! Laws that hold for any Routes and any request.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its helpers do")]

use std::collections::BTreeMap;

use funcatron_routing::{
    Backend, CallPolicy, ExplicitRule, Found, HeaderMatch, OwnHost, PathMatch, PathMatchType, RouteMatch,
    RouteSource, RouteTable, Rules, Tables, compile,
};
use http::{HeaderMap, HeaderValue, Method};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

#[path = "support/naive.rs"]
mod naive;
use naive::Naive;

const HOSTNAMES: [&str; 5] = ["a.test", "*.test", "*.a.test", "b.a.test", "*.b.a.test"];
const HOSTS: [&str; 8] =
    ["a.test", "b.a.test", "c.b.a.test", "z.test", "test", "own.example", "elsewhere", ""];
const SEGMENTS: [&str; 5] = ["a", "b", "c", "%61", "a%2Fb"];
const REQUEST_SEGMENTS: [&str; 14] =
    ["a", "b", "c", "%61", "a%2Fb", "a%2fb", "t1", "t2", "", "..", "%2e", "%ff", "%0", "é"];
const METHODS: [Method; 4] = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];

/// A Route in owned words.
#[derive(Clone, Debug)]
struct Route {
    namespace: &'static str,
    hostnames: Vec<String>,
    base_path: Option<String>,
    created_ms: i64,
    rules: OwnedRules,
}

#[derive(Clone, Debug)]
enum OwnedRules {
    OpenApi(String),
    Explicit(Vec<ExplicitRule>),
}

fn path(segments: impl Strategy<Value = &'static str> + 'static) -> impl Strategy<Value = String> {
    (vec(segments, 0..4), prop::bool::weighted(0.2)).prop_map(|(segments, slash)| {
        let path = format!("/{}", segments.join("/"));
        if slash && path != "/" { path + "/" } else { path }
    })
}

fn template() -> impl Strategy<Value = String> {
    path(select(vec!["a", "b", "{}", "{}", "%61"])).prop_map(|path| {
        let named = path.split('/').enumerate().map(|(at, segment)| match segment {
            "{}" => format!("{{p{at}}}"),
            segment => segment.to_owned(),
        });
        named.collect::<Vec<_>>().join("/")
    })
}

fn document() -> impl Strategy<Value = OwnedRules> {
    let methods = subsequence(vec!["get", "head", "post", "delete"], 1..3);
    prop::collection::btree_map(template(), methods, 1..6).prop_map(|paths| {
        let paths: BTreeMap<_, _> = paths
            .into_iter()
            .map(|(path, methods)| {
                let operation = |method: &str| serde_json::json!({"operationId": format!("{method} {path}")});
                let item: BTreeMap<_, _> =
                    methods.iter().map(|method| (*method, operation(method))).collect();
                (path.clone(), serde_json::to_value(item).unwrap())
            })
            .collect();
        OwnedRules::OpenApi(serde_json::json!({"openapi": "3.0.3", "paths": paths}).to_string())
    })
}

fn explicit() -> impl Strategy<Value = OwnedRules> {
    let kind = select(vec![PathMatchType::Exact, PathMatchType::PathPrefix]);
    let path = (kind, path(select(SEGMENTS.to_vec()))).prop_map(|(kind, value)| PathMatch { kind, value });
    let method = option::of(select(METHODS.map(|method| method.to_string()).to_vec()));
    let headers = subsequence(vec!["x-one", "x-two"], 0..=2).prop_map(|names| {
        names.iter().map(|name| HeaderMatch { name: (*name).to_owned(), value: "1".to_owned() }).collect()
    });
    let matches = (option::of(path), method, headers).prop_map(|(path, method, headers)| RouteMatch {
        path,
        method,
        headers,
    });
    let rule = vec(matches, 0..3).prop_map(|matches| ExplicitRule {
        matches,
        backends: vec![Backend { fn_name: "some".into(), weight: 1 }],
        call: CallPolicy::default(),
    });
    vec(rule, 1..4).prop_map(OwnedRules::Explicit)
}

fn route() -> impl Strategy<Value = Route> {
    let hostnames = prop_oneof![Just(Vec::new()), subsequence(HOSTNAMES.map(str::to_owned).to_vec(), 1..4),];
    let base_path = option::of(path(select(SEGMENTS.to_vec())));
    let rules = prop_oneof![document(), explicit()];
    (select(vec!["t1", "t2"]), hostnames, base_path, 0..3_i64, rules).prop_map(
        |(namespace, hostnames, base_path, created_ms, rules)| Route {
            namespace,
            hostnames,
            base_path,
            created_ms,
            rules,
        },
    )
}

fn compiled(routes: &[Route]) -> Vec<RouteTable> {
    let operations = BTreeMap::new();
    let compile = |(index, route): (usize, &Route)| {
        let rules = match &route.rules {
            OwnedRules::OpenApi(document) => Rules::OpenApi {
                document: document.as_bytes(),
                fn_default: Some("bundle"),
                operations: &operations,
            },
            OwnedRules::Explicit(rules) => Rules::Explicit(rules),
        };
        compile(&RouteSource {
            namespace: route.namespace,
            name: &format!("route-{index}"),
            app: "app",
            hostnames: &route.hostnames,
            base_path: route.base_path.as_deref(),
            created_ms: route.created_ms,
            uid: "uid",
            rules,
        })
        // Two templates of one shape are refused; another document then stands for it.
        .ok()
    };
    routes.iter().enumerate().filter_map(compile).collect()
}

fn own_host() -> impl Strategy<Value = OwnHost> {
    let named = Just(OwnHost::Named(vec!["own.example".into()]));
    prop_oneof![named, Just(OwnHost::Unclaimed), Just(OwnHost::Dev)]
}

#[derive(Clone, Debug)]
struct Request {
    host: &'static str,
    method: Method,
    path: String,
    headers: HeaderMap,
}

fn request() -> impl Strategy<Value = Request> {
    let headers = subsequence(vec!["x-one", "x-two"], 0..=2).prop_map(|names| {
        names
            .iter()
            .map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("1")))
            .collect()
    });
    let path = path(select(REQUEST_SEGMENTS.to_vec()));
    (select(HOSTS.to_vec()), select(METHODS.to_vec()), path, headers)
        .prop_map(|(host, method, path, headers)| Request { host, method, path, headers })
}

/// What a search found, in words that can be compared.
fn described(tables: &Tables, request: &Request) -> String {
    match tables.find(request.host, &request.method, &request.path, &request.headers) {
        Found::Match(found) => {
            let params: Vec<_> = found.params.iter().collect();
            format!("{found:?} {params:?}")
        }
        other => format!("{other:?}"),
    }
}

fn tables_of(own: &OwnHost, tables: &[RouteTable]) -> Tables {
    Tables::new(own.clone()).replace_all(tables.iter().map(|table| (table.key(), Some(table.clone()))))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, ..ProptestConfig::default() })]

    #[test]
    fn find_agrees_with_a_search_of_every_rule(
        routes in vec(route(), 1..8),
        own in own_host(),
        requests in vec(request(), 1..24),
    ) {
        let compiled = compiled(&routes);
        let tables = tables_of(&own, &compiled);
        for request in &requests {
            let Request { host, method, path, headers } = request;
            let expected = naive::find(&compiled, &own, &naive::Request { host, method, path, headers });
            match (expected, tables.find(host, method, path, headers)) {
                (Naive::Match { table, rule }, Found::Match(found)) => {
                    let rule = &table.rules()[rule];
                    prop_assert_eq!(found.route, table.route());
                    prop_assert_eq!(found.template, rule.path().text());
                    prop_assert_eq!(found.operation_id, rule.operation_id());
                    prop_assert!(std::ptr::eq(found.route, tables.get(&table.key()).unwrap().route()));
                }
                (Naive::MethodNotAllowed(methods), Found::MethodNotAllowed { allow }) => {
                    prop_assert_eq!(methods.into_iter().collect::<Vec<_>>().join(", "), allow.to_string());
                }
                (Naive::NotFound, Found::NotFound) => {}
                (expected, found) => prop_assert!(false, "{:?}: {:?}, not {:?}", request, found, expected),
            }
        }
    }

    #[test]
    fn the_order_of_changes_does_not_matter(
        routes in vec(route(), 1..8),
        shuffled in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(),
        extra in vec(route(), 0..3),
        own in own_host(),
        requests in vec(request(), 1..16),
    ) {
        let compiled = compiled(&routes);
        let expected = tables_of(&own, &compiled);
        // One by one, in another order, over what stood there before.
        let mut actual = tables_of(&own, &self::compiled(&extra));
        let before = actual.clone();
        for index in shuffled.into_iter().filter(|index| *index < compiled.len()) {
            actual = actual.replace(&compiled[index].key(), Some(compiled[index].clone()));
        }
        for key in before.routes().map(RouteTable::key).filter(|key| expected.get(key).is_none()) {
            actual = actual.replace(&key, None);
        }
        prop_assert_eq!(actual.len(), expected.len());
        for request in &requests {
            prop_assert_eq!(described(&actual, request), described(&expected, request));
        }
        let emptied = actual.replace_all(compiled.iter().map(|table| (table.key(), None)));
        for request in &requests {
            prop_assert!(matches!(
                emptied.find(request.host, &request.method, &request.path, &request.headers),
                Found::NotFound
            ));
        }
    }

    #[test]
    fn a_table_read_is_the_table_written(routes in vec(route(), 1..4)) {
        for table in compiled(&routes) {
            let json = serde_json::to_vec(&table).unwrap();
            prop_assert_eq!(RouteTable::decode(&json).unwrap(), table);
        }
    }

    #[test]
    fn no_document_panics(text in "(openapi: 3.0.0\n|swagger: '2.0'\n)?(paths:|/a:|get:|\\$ref:|[ \n\t\\-:{}\\[\\]&*|>'\"a-z0-9/])*") {
        let operations = BTreeMap::new();
        let rules = Rules::OpenApi { document: text.as_bytes(), fn_default: None, operations: &operations };
        let source = RouteSource {
            namespace: "n", name: "r", app: "a", hostnames: &[], base_path: None, created_ms: 0, uid: "", rules,
        };
        if let Err(error) = compile(&source) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_request_panics(host in ".*", path in ".*", routes in vec(route(), 1..3)) {
        let tables = tables_of(&OwnHost::Dev, &compiled(&routes));
        for path in [&path, &format!("/{path}"), &format!("/a/{path}"), &format!("/t1/{path}")] {
            if let Found::Match(found) = tables.find(&host, &Method::GET, path, &HeaderMap::new()) {
                prop_assert!(path.ends_with(found.path_below));
                prop_assert_eq!(found.params.iter().count(), found.template.matches('{').count());
            }
        }
    }
}
