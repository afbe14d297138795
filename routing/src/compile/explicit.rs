//! Rules of a Route that writes them out in Gateway API's words.
//! Never invents a rule: no rules is an error.

use http::Method;

use super::{Parts, base_path};
use crate::error::{Problems, quoted};
use crate::names::{BasePath, Hostname, check_fn_name};
use crate::pattern::{Pattern, PatternKind};
use crate::rule::{Backends, HeaderRule, Rule};
use crate::source::{Backend, ExplicitRule, HeaderMatch, PathMatch, PathMatchType, RouteMatch, RouteSource};

/// Gateway API allows 16 rules of 64 matches at most 128 in all; people who merge several need more.
const MATCHES_MAX: usize = 1024;
/// As many as Gateway API allows.
const HEADERS_MAX: usize = 16;
/// As many as Gateway API allows.
const BACKENDS_MAX: usize = 16;
/// Gateway API's bound, which keeps sums of weights far from overflow.
const WEIGHT_MAX: u32 = 1_000_000;
/// Those of Gateway API's HTTPMethod that a function can answer.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

pub(super) fn compile(
    source: &RouteSource<'_>,
    hostnames: Vec<Hostname>,
    explicit: &[ExplicitRule],
    problems: &mut Problems,
) -> Parts {
    let base_path = match source.base_path {
        Some(text) => base_path("spec.basePath", text, problems),
        None => BasePath::default(),
    };
    let matches: usize = explicit.iter().map(|rule| rule.matches.len().max(1)).sum();
    if matches == 0 || matches > MATCHES_MAX {
        let what = format!("{matches} matches in all");
        problems.add("spec.rules", what, format!("write between 1 and {MATCHES_MAX}"));
        return Parts::default();
    }
    let mut rules = Vec::with_capacity(matches);
    for (index, rule) in explicit.iter().enumerate() {
        compile_rule(&format!("spec.rules[{index}]"), rule, &mut rules, problems);
    }
    let claims = match source.base_path {
        Some(_) => vec![base_path.as_str().to_owned()],
        None => claims(&rules),
    };
    Parts { hostnames, base_path, claims, rules }
}

/// Without a base path of its own, a Route claims the paths that it names and no more:
/// several Routes can then share a hostname, as HTTPRoutes do.
fn claims(rules: &[Rule]) -> Vec<String> {
    let mut claims: Vec<String> = rules.iter().map(|rule| rule.path.canonical()).collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}

fn compile_rule(at: &str, rule: &ExplicitRule, rules: &mut Vec<Rule>, problems: &mut Problems) {
    let backends = backends(at, &rule.backends, problems);
    let everything = [RouteMatch::default()];
    let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
    for (index, condition) in matches.iter().enumerate() {
        let at = format!("{at}.matches[{index}]");
        let RouteMatch { path, method, headers } = condition;
        let path = pattern(&at, path.as_ref(), problems);
        let method = method.as_deref().and_then(|name| parse_method(&at, name, problems));
        let headers = header_rules(&at, headers, problems);
        if let (Some(path), Some(backends)) = (path, backends.clone()) {
            rules.push(Rule { path, method, headers, operation_id: None, backends, call: rule.call });
        }
    }
}

fn backends(at: &str, backends: &[Backend], problems: &mut Problems) -> Option<Backends> {
    let at = format!("{at}.backends");
    if backends.len() > BACKENDS_MAX {
        let what = format!("more than {BACKENDS_MAX} backends");
        problems.add(at, what, "remove some");
        return None;
    }
    for (index, backend) in backends.iter().enumerate() {
        if let Err(error) = check_fn_name(&backend.fn_name) {
            let what = format!("{}: {error}", quoted(&backend.fn_name));
            problems.add(format!("{at}[{index}].fn"), what, "name a Fn of the Route's own namespace");
        }
        if backend.weight > WEIGHT_MAX {
            let what = format!("more than {WEIGHT_MAX}");
            problems.add(format!("{at}[{index}].weight"), what, "lower all weights in proportion");
        }
    }
    Backends::try_from(backends.to_vec())
        .map_err(|error| problems.add(at, error.to_string(), "name a Fn that is to answer"))
        .ok()
}

fn pattern(at: &str, path: Option<&PathMatch>, problems: &mut Problems) -> Option<Pattern> {
    let (kind, value) = match path {
        None => (PatternKind::Prefix, "/"),
        Some(PathMatch { kind: PathMatchType::Exact, value }) => (PatternKind::Exact, value.as_str()),
        Some(PathMatch { kind: PathMatchType::PathPrefix, value }) => (PatternKind::Prefix, value.as_str()),
    };
    Pattern::parse(kind, value)
        .map_err(|error| {
            let what = format!("{}: {error}", quoted(value));
            problems.add(format!("{at}.path.value"), what, "write a path as `/shop`");
        })
        .ok()
}

fn parse_method(at: &str, name: &str, problems: &mut Problems) -> Option<Method> {
    let method = METHODS.into_iter().find(|method| method.as_str() == name);
    if method.is_none() {
        let what = format!("{} is not a method that a Route can take", quoted(name));
        problems.add(
            format!("{at}.method"),
            what,
            "write one as `GET`, in capitals, or none for every method",
        );
    }
    method
}

fn header_rules(at: &str, headers: &[HeaderMatch], problems: &mut Problems) -> Vec<HeaderRule> {
    if headers.len() > HEADERS_MAX {
        let what = format!("more than {HEADERS_MAX} headers");
        problems.add(format!("{at}.headers"), what, "remove some");
        return Vec::new();
    }
    let mut rules: Vec<HeaderRule> = Vec::with_capacity(headers.len());
    for (index, header) in headers.iter().enumerate() {
        let at = format!("{at}.headers[{index}]");
        match HeaderRule::try_from(header.clone()) {
            Ok(rule) if rules.iter().any(|other| other.name() == rule.name()) => {
                problems.add(at, format!("{} stands here twice", quoted(&header.name)), "remove one of them");
            }
            Ok(rule) => rules.push(rule),
            Err(error) => problems.add(at, error.to_string(), "write a header's name and value"),
        }
    }
    rules
}
