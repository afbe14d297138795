//! How long a request's rule is looked for among 10,000 Routes, and how long a Route is swapped.
//! `cargo bench -p funcatron-routing` prints it beside a search of every rule.

use std::collections::BTreeMap;
use std::hint::black_box;

use divan::Bencher;
use funcatron_routing::{OwnHost, RouteSource, RouteTable, Rules, Tables, compile};
use http::{HeaderMap, Method};

#[path = "../tests/support/kubernetes.rs"]
mod kubernetes;
#[path = "../tests/support/naive.rs"]
mod naive;

const ROUTES: usize = 10_000;

fn main() {
    divan::main();
}

/// One Route of six operations, as a small service has.
fn route(namespace: &str, name: &str, hostname: Option<String>, base_path: &str) -> RouteTable {
    let document = r#"{"openapi": "3.0.3", "paths": {
        "/orders": {"get": {"operationId": "listOrders"}, "post": {"operationId": "createOrder"}},
        "/orders/{id}": {"get": {"operationId": "getOrder"}, "delete": {"operationId": "deleteOrder"}},
        "/orders/{id}/lines/{line}": {"get": {"operationId": "getLine"}, "put": {"operationId": "putLine"}}}}"#;
    let hostnames: Vec<String> = hostname.into_iter().collect();
    compile(&RouteSource {
        namespace,
        name,
        app: "shop",
        hostnames: &hostnames,
        base_path: Some(base_path),
        created_ms: 0,
        uid: "",
        rules: Rules::OpenApi {
            document: document.as_bytes(),
            fn_default: None,
            operations: &BTreeMap::new(),
        },
    })
    .expect("the document is right")
}

/// How 10,000 Routes may be spread.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// Each on its own hostname.
    Hosts,
    /// Each at its own base path of one hostname.
    Paths,
    /// Each in its own namespace, on the gateway's own hostname.
    Namespaces,
}

const SPREADS: [Spread; 3] = [Spread::Hosts, Spread::Paths, Spread::Namespaces];

impl Spread {
    fn routes(self) -> Vec<RouteTable> {
        let route = |at: usize| match self {
            Self::Hosts => route("team-a", &format!("r{at}"), Some(format!("shop-{at}.example.com")), "/v1"),
            Self::Paths => {
                route("team-a", &format!("r{at}"), Some("example.com".into()), &format!("/shop-{at}/v1"))
            }
            Self::Namespaces => route(&format!("team-{at}"), "r", None, "/v1"),
        };
        (0..ROUTES).map(route).collect()
    }

    /// Requests all over the Routes, so that no cache holds the one that is asked for.
    fn requests(self) -> Vec<(String, String)> {
        let request = |step: usize| {
            let at = step * 7919 % ROUTES;
            match self {
                Self::Hosts => (format!("shop-{at}.example.com"), format!("/v1/orders/{step}/lines/7")),
                Self::Paths => ("example.com".to_owned(), format!("/shop-{at}/v1/orders/{step}/lines/7")),
                Self::Namespaces => {
                    ("gateway.test".to_owned(), format!("/team-{at}/v1/orders/{step}/lines/7"))
                }
            }
        };
        (0..4096).map(request).collect()
    }
}

fn tables(routes: &[RouteTable]) -> Tables {
    Tables::default().replace_all(routes.iter().map(|table| (table.key(), Some(table.clone()))))
}

#[divan::bench(args = SPREADS, sample_count = 50, sample_size = 4096)]
fn find(bencher: Bencher<'_, '_>, spread: Spread) {
    let tables = tables(&spread.routes());
    let (requests, headers) = (spread.requests(), HeaderMap::new());
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % requests.len();
        let (host, path) = &requests[next];
        black_box(tables.find(black_box(host), &Method::GET, black_box(path), &headers));
    });
}

/// As most traffic is: few Routes get nearly all of it, and caches hold them.
#[divan::bench(args = SPREADS, sample_count = 50, sample_size = 4096)]
fn find_busy_routes(bencher: Bencher<'_, '_>, spread: Spread) {
    let tables = tables(&spread.routes());
    let (requests, headers) = (spread.requests(), HeaderMap::new());
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % 64;
        let (host, path) = &requests[next];
        black_box(tables.find(black_box(host), &Method::GET, black_box(path), &headers));
    });
}

/// The baseline: every rule is looked at.
#[divan::bench(args = SPREADS, sample_count = 10, sample_size = 1)]
fn find_by_search_of_every_rule(bencher: Bencher<'_, '_>, spread: Spread) {
    let routes = spread.routes();
    let (requests, headers) = (spread.requests(), HeaderMap::new());
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % requests.len();
        let (host, path) = &requests[next];
        let request = naive::Request { host, method: &Method::GET, path, headers: &headers };
        black_box(naive::find(&routes, &OwnHost::Unclaimed, &request));
    });
}

#[divan::bench(args = SPREADS, sample_count = 50, sample_size = 1)]
fn replace_one_route(bencher: Bencher<'_, '_>, spread: Spread) {
    let routes = spread.routes();
    let tables = tables(&routes);
    let table = &routes[ROUTES / 2];
    bencher
        .with_inputs(|| table.clone())
        .bench_local_values(|table| black_box(tables.replace(&table.key(), Some(table))));
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn compile_a_document_like_kube_apiservers(bencher: Bencher<'_, '_>) {
    let document = kubernetes::document().to_string();
    bencher.bench_local(|| {
        compile(&RouteSource {
            namespace: "team-a",
            name: "kubernetes",
            app: "kubernetes",
            hostnames: &[],
            base_path: None,
            created_ms: 0,
            uid: "",
            rules: Rules::OpenApi {
                document: document.as_bytes(),
                fn_default: Some("bundle"),
                operations: &BTreeMap::new(),
            },
        })
    });
}
