//! The oracle: every rule of every Route is looked at, its path is compared as text, and the smallest
//! precedence wins. It shares the order with the index, and no way of searching.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;

use funcatron_routing::{
    HostRank, OwnHost, PatternKind, Precedence, RouteTable, Rule, RuleRank, SegmentRank,
};
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

/// What the plain search ends on; a rule is named by its place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Naive<'a> {
    Match { table: &'a RouteTable, rule: usize },
    MethodNotAllowed(BTreeSet<String>),
    NotFound,
}

pub(crate) struct Request<'a> {
    pub(crate) host: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

pub(crate) fn find<'a>(tables: &'a [RouteTable], own: &OwnHost, request: &Request<'_>) -> Naive<'a> {
    if !path_can_be_served(request.path) {
        return Naive::NotFound;
    }
    let places = places(tables, own, request.host);
    let mut best: Option<(Precedence<'a>, &'a RouteTable)> = None;
    let mut methods = BTreeSet::new();
    for Place { table, host, namespace } in places {
        for (index, rule) in table.rules().iter().enumerate() {
            let Some(path) = path_ranks(table, namespace, rule, request.path) else { continue };
            if !rule.takes_headers(request.headers) {
                continue;
            }
            if !method_fits(rule, request.method) {
                methods.extend(methods_of(rule));
                continue;
            }
            let candidate = Precedence { host, path, rule: RuleRank::of(table, index, rule) };
            if best.as_ref().is_none_or(|(best, _)| candidate < *best) {
                best = Some((candidate, table));
            }
        }
    }
    match best {
        Some((precedence, table)) => Naive::Match { table, rule: precedence.rule.index },
        None if methods.is_empty() => Naive::NotFound,
        None => Naive::MethodNotAllowed(methods),
    }
}

struct Place<'a> {
    table: &'a RouteTable,
    host: HostRank,
    namespace: bool,
}

fn places<'a>(tables: &'a [RouteTable], own: &OwnHost, host: &str) -> Vec<Place<'a>> {
    let below_namespace = |host| {
        let without = tables.iter().filter(|table| table.hostnames().next().is_none());
        without.map(move |table| Place { table, host, namespace: true })
    };
    if matches!(own, OwnHost::Named(names) if names.iter().any(|name| name == host)) {
        return below_namespace(HostRank::Exact).collect();
    }
    let mut places = Vec::new();
    for table in tables {
        for hostname in table.hostnames() {
            if let Some(host) = host_rank(&hostname, host) {
                places.push(Place { table, host, namespace: false });
            }
        }
    }
    if !places.is_empty() || matches!(own, OwnHost::Named(_)) {
        return places;
    }
    if *own == OwnHost::Dev {
        places.extend(tables.iter().map(|table| Place { table, host: HostRank::Exact, namespace: false }));
    }
    places.extend(below_namespace(HostRank::Wildcard(Reverse(0))));
    places
}

fn host_rank(hostname: &str, host: &str) -> Option<HostRank> {
    match hostname.strip_prefix('*') {
        None => (hostname == host).then_some(HostRank::Exact),
        Some(suffix) => {
            let covered = host.len() > suffix.len() && host.ends_with(suffix);
            covered.then_some(HostRank::Wildcard(Reverse(suffix.len())))
        }
    }
}

fn method_fits(rule: &Rule, method: &Method) -> bool {
    rule.method().is_none_or(|own| own == method || (own == Method::GET && method == Method::HEAD))
}

fn methods_of(rule: &Rule) -> Vec<String> {
    match rule.method() {
        Some(method) if *method == Method::GET => vec!["GET".into(), "HEAD".into()],
        Some(method) => vec![method.to_string()],
        None => Vec::new(),
    }
}

fn decoded(raw: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(raw).decode_utf8().ok()
}

fn path_can_be_served(path: &str) -> bool {
    let malformed = path.split('%').skip(1).any(|behind| {
        let mut digits = behind.chars();
        !(0..2).all(|_| digits.next().is_some_and(|digit| digit.is_ascii_hexdigit()))
    });
    let unsafe_segment = |raw: &str| {
        let bytes: Vec<u8> = percent_decode_str(raw).collect();
        bytes == b"." || bytes == b".." || bytes.contains(&0)
    };
    path.starts_with('/') && !malformed && !path.split('/').any(unsafe_segment)
}

fn path_ranks(table: &RouteTable, namespace: bool, rule: &Rule, path: &str) -> Option<Vec<SegmentRank>> {
    let namespace = if namespace { format!("/{}", table.namespace()) } else { String::new() };
    let above = format!("{namespace}{}", table.base_path().trim_end_matches('/'));
    let own = rule.path().text();
    let whole = format!("{above}{own}");
    if rule.path().kind() == PatternKind::Prefix {
        return ranks(whole.trim_end_matches('/'), path, true);
    }
    let without_slash = (own == "/" && !above.is_empty()).then(|| ranks(&above, path, false)).flatten();
    ranks(&whole, path, false).or(without_slash)
}

fn ranks(pattern: &str, path: &str, prefix: bool) -> Option<Vec<SegmentRank>> {
    let mut path = path.split('/').skip(1);
    let mut ranks = Vec::new();
    for own in pattern.split('/').skip(1) {
        let segment = decoded(path.next()?)?;
        if own.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            ranks.push(SegmentRank::Param);
        } else if decoded(own)? == segment {
            ranks.push(SegmentRank::Literal);
        } else {
            return None;
        }
    }
    match (prefix, path.next()) {
        (true, _) => ranks.push(SegmentRank::Rest),
        (false, None) => ranks.push(SegmentRank::End),
        (false, Some(_)) => return None,
    }
    Some(ranks)
}
