//! Who owns a hostname and base path.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where its helpers do")]

use funcatron_routing::{
    Backend, CallPolicy, Claim, Conflict, ExplicitRule, PathMatch, PathMatchType, RouteKey, RouteMatch,
    RouteSource, RouteTable, Rules, TableError, compile, conflicts,
};

fn route(key: (&str, &str), created_ms: i64, hostnames: &[&str], base_path: &str) -> RouteTable {
    table(key, created_ms, hostnames, Some(base_path), &[])
}

fn table(
    (namespace, name): (&str, &str),
    created_ms: i64,
    hostnames: &[&str],
    base_path: Option<&str>,
    prefixes: &[&str],
) -> RouteTable {
    let hostnames: Vec<String> = hostnames.iter().map(|name| (*name).to_owned()).collect();
    let matches = prefixes.iter().map(|value| {
        let path = Some(PathMatch { kind: PathMatchType::PathPrefix, value: (*value).to_owned() });
        RouteMatch { path, ..RouteMatch::default() }
    });
    let rules = [ExplicitRule {
        matches: matches.collect(),
        backends: vec![Backend { fn_name: "page".into(), weight: 1 }],
        call: CallPolicy::default(),
    }];
    let rules = Rules::Explicit(&rules);
    compile(&RouteSource {
        namespace,
        name,
        app: "shop",
        hostnames: &hostnames,
        base_path,
        created_ms,
        uid: "",
        rules,
    })
    .unwrap()
}

fn key(namespace: &str, name: &str) -> RouteKey {
    RouteKey { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn claim(host: &str, path: &str) -> Claim {
    Claim { host: Some(host.to_owned()), path: path.to_owned() }
}

#[test]
fn the_oldest_route_owns_and_the_newcomer_is_told() {
    let old = route(("a", "old"), 1, &["shop.test", "b.test"], "/v1");
    let new = route(("b", "new"), 2, &["SHOP.test"], "/v1/");
    let expected = Conflict { claim: claim("shop.test", "/v1"), owner: key("a", "old") };
    for tables in [[&old, &new], [&new, &old]] {
        let found = conflicts(tables);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&key("b", "new")], std::slice::from_ref(&expected));
    }
    assert_eq!(expected.claim.to_string(), "shop.test/v1");
}

#[test]
fn routes_of_one_second_are_ordered_by_namespace_and_name() {
    let tables = [route(("b", "a"), 1, &["x.test"], "/"), route(("a", "z"), 1, &["x.test"], "/")];
    assert_eq!(conflicts(&tables).into_keys().collect::<Vec<_>>(), [key("b", "a")]);
}

#[test]
fn other_paths_and_other_hosts_are_no_conflict() {
    let tables = [
        route(("a", "a"), 1, &["x.test"], "/v1"),
        route(("a", "b"), 2, &["x.test"], "/v10"),
        route(("a", "c"), 3, &["x.test"], "/v1/sub"),
        route(("a", "d"), 4, &["y.test"], "/v1"),
        route(("a", "e"), 5, &["*.test"], "/v1"),
        route(("a", "f"), 6, &[], "/v1"),
        route(("b", "g"), 7, &[], "/v1"),
    ];
    assert!(conflicts(&tables).is_empty());
}

#[test]
fn on_the_gateways_own_hostname_the_namespace_is_part_of_the_claim() {
    let tables = [route(("a", "a"), 1, &[], "/v1"), route(("a", "b"), 2, &[], "/v1")];
    let found = conflicts(&tables);
    assert_eq!(found[&key("a", "b")][0].claim, Claim { host: None, path: "/a/v1".to_owned() });
    assert_eq!(route(("a", "c"), 1, &[], "/").claims()[0].to_string(), "/a");
}

#[test]
fn one_path_in_two_spellings_is_one_claim() {
    let tables = [
        route(("a", "a"), 1, &["x.test"], "/v1"),
        route(("a", "b"), 2, &["x.test"], "/%761"),
        table(("a", "c"), 3, &["x.test"], None, &["/%76%31"]),
    ];
    assert_eq!(conflicts(&tables).len(), 2);
}

#[test]
fn routes_without_base_path_share_a_host_until_they_name_the_same_path() {
    let tables = [
        table(("a", "a"), 1, &["x.test"], None, &["/a", "/b"]),
        table(("a", "b"), 2, &["x.test"], None, &["/c", "/a/b"]),
        table(("a", "c"), 3, &["x.test"], None, &["/d", "/b/"]),
    ];
    let found = conflicts(&tables);
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [key("a", "c")]);
}

#[test]
fn a_route_in_conflict_still_owns_its_other_claims() {
    let tables = [
        route(("a", "a"), 1, &["x.test"], "/"),
        route(("a", "b"), 2, &["x.test", "y.test"], "/"),
        route(("a", "c"), 3, &["y.test"], "/"),
    ];
    let found = conflicts(&tables);
    assert_eq!(found[&key("a", "c")][0].owner, key("a", "b"));
}

#[test]
fn a_table_of_another_version_is_refused_by_its_number() {
    let mut json = serde_json::to_value(route(("a", "a"), 1, &["x.test"], "/")).unwrap();
    json["version"] = 2.into();
    json["rules"] = "something new".into();
    let refused = RouteTable::decode(json.to_string().as_bytes());
    assert!(matches!(refused, Err(TableError::Version { found: 2 })));
}

#[test]
fn a_table_that_breaks_its_rules_is_refused() {
    let whole = serde_json::to_value(route(("a", "a"), 1, &["x.test"], "/v1")).unwrap();
    for (pointer, value) in [
        ("/hostnames/0", serde_json::json!("*")),
        ("/basePath", serde_json::json!("/../x")),
        ("/rules/0/path/value", serde_json::json!("/a//b")),
        ("/rules/0/backends", serde_json::json!([])),
        ("/rules/0/backends/0/weight", serde_json::json!(0)),
    ] {
        let mut broken = whole.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        let refused = RouteTable::decode(broken.to_string().as_bytes());
        assert!(matches!(refused, Err(TableError::Json(_))), "{pointer}");
    }
    assert!(RouteTable::decode(whole.to_string().as_bytes()).is_ok());
}
