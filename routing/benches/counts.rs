//! Instructions that finding a request's rule takes, in tables of 1,000 Routes. Counted by `cargo xtask counts`, which
//! compares them with the commit that a change stands on; times are `find.rs`'s.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "what gungraun's macros write is public"
)]

use std::collections::BTreeMap;
use std::hint::black_box;

use funcatron_routing::{
    Backend, ExplicitRule, Found, OwnHost, PathMatch, PathMatchType, RouteMatch, RouteSource, RouteTable,
    Rules, Tables, compile,
};
use gungraun::{library_benchmark, library_benchmark_group, main};
use http::{HeaderMap, Method};

/// As many hostnames, each with a Route from a document, and one with as many explicit rules.
const HOSTS: usize = 250;
/// Requests that are counted together, each for another Route.
const REQUESTS: usize = 100;
/// Steps through the Routes without meeting one twice.
const STRIDE: usize = 79;

/// A small service: a static path, a template, and one that is deep.
const DOCUMENT: &[u8] = br#"{"openapi": "3.0.3", "paths": {
    "/orders": {"get": {"operationId": "listOrders"}, "post": {"operationId": "createOrder"}},
    "/orders/search": {"get": {"operationId": "searchOrders"}},
    "/orders/{id}": {"get": {"operationId": "getOrder"}, "delete": {"operationId": "deleteOrder"}},
    "/orders/{id}/lines/{line}": {"get": {"operationId": "getLine"}, "put": {"operationId": "putLine"}},
    "/regions/{region}/shops/{shop}/shelves/{shelf}/boxes/{box}/items/{item}": {"get": {"operationId": "getItem"}}}}"#;

/// Tables, and what is asked of them.
struct Asked {
    tables: Tables,
    requests: Vec<(String, String)>,
    headers: HeaderMap,
}

fn route(name: &str, hostname: String, rules: Rules<'_>) -> RouteTable {
    compile(&RouteSource {
        namespace: "team-a",
        name,
        app: "shop",
        hostnames: &[hostname],
        base_path: Some("/v1"),
        created_ms: 0,
        uid: "",
        rules,
    })
    .expect("the rules are right")
}

fn explicit(at: usize) -> ExplicitRule {
    let path = PathMatch { kind: PathMatchType::PathPrefix, value: format!("/page-{at}") };
    ExplicitRule {
        matches: vec![RouteMatch { path: Some(path), method: None, headers: Vec::new() }],
        backends: vec![Backend { fn_name: "page".to_owned(), weight: 1 }],
        ..ExplicitRule::default()
    }
}

fn tables() -> Tables {
    let operations = BTreeMap::new();
    let documents = (0..HOSTS).map(|at| {
        let rules = Rules::OpenApi { document: DOCUMENT, fn_default: None, operations: &operations };
        route(&format!("api-{at}"), format!("shop-{at}.example.com"), rules)
    });
    let sites = (0..HOSTS).map(|at| {
        route(&format!("site-{at}"), format!("site-{at}.example.com"), Rules::Explicit(&[explicit(at)]))
    });
    let tables = documents.chain(sites).map(|table| (table.key(), Some(table)));
    Tables::new(OwnHost::Unclaimed).replace_all(tables)
}

/// The same path below each of many hostnames `<site>-<number>`.
fn asked(site: &str, path: &str) -> Asked {
    let hosts = (0..REQUESTS).map(|step| step * STRIDE % HOSTS);
    let request = |at: usize| (format!("{site}-{at}.example.com"), path.replace("<number>", &at.to_string()));
    Asked { tables: tables(), requests: hosts.map(request).collect(), headers: HeaderMap::new() }
}

#[library_benchmark(setup = asked)]
#[bench::static_path("shop", "/v1/orders/search")]
#[bench::template("shop", "/v1/orders/<number>")]
#[bench::deep_path("shop", "/v1/regions/north/shops/<number>/shelves/12/boxes/b-7/items/4711")]
#[bench::prefix("site", "/v1/page-<number>/images/logo.svg")]
#[bench::no_path("shop", "/v1/orders/<number>/lines")]
#[bench::no_hostname("stranger", "/v1/orders")]
fn find(asked: Asked) -> Asked {
    for (host, path) in &asked.requests {
        let found = asked.tables.find(black_box(host), &Method::GET, black_box(path), &asked.headers);
        black_box(matches!(found, Found::Match(_)));
    }
    asked
}

library_benchmark_group!(name = routing, benchmarks = [find]);
main!(library_benchmark_groups = routing);
