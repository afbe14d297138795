//! A request's way to its rule, and what the rule says of it.
//! Never answers a request and never draws a random number.
//!
//! Paths are taken as they come, raw, without their query. Double slashes are not merged: an empty segment
//! matches no parameter. A trailing slash counts, but for prefixes. A path that different programs would read
//! differently (`.` and `..` segments, encoded or not; malformed percent-encoding; NUL) is not found.

use std::borrow::Cow;
use std::fmt;
use std::iter;
use std::ops::ControlFlow;

use http::{HeaderMap, Method};

use crate::index::Entry;
use crate::pattern::{PatternKind, Segment, decode, is_dot_segment, is_well_encoded};
use crate::source::{Backend, CallPolicy};
use crate::tables::Tables;

/// What a search ended on.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// This rule answers.
    Match(Match<'a>),
    /// Rules take this path (and these headers), none this method: 405.
    MethodNotAllowed {
        /// The methods that they take.
        allow: Allow,
    },
    /// No rule takes this path: 404.
    NotFound,
}

/// Methods that a path takes, for the `Allow` header. `HEAD` stands wherever `GET` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow(Vec<Method>);

impl Allow {
    /// The methods, by name.
    pub fn methods(&self) -> &[Method] {
        &self.0
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, method) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{method}")?;
        }
        Ok(())
    }
}

/// The rule that answers a request.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The Route's namespace.
    pub namespace: &'a str,
    /// The Route's App.
    pub app: &'a str,
    /// The Route's name.
    pub route: &'a str,
    /// The document's operationId.
    pub operation_id: Option<&'a str>,
    /// The rule's path as it was written, below the base path.
    pub template: &'a str,
    /// The Route's base path, `/` for none.
    pub base_path: &'a str,
    /// The template's parameters.
    pub params: Params<'a>,
    /// Who answers; at least one with a weight above zero.
    pub backends: &'a [Backend],
    /// How the call is made.
    pub call: CallPolicy,
    /// The raw rest of the path: below a prefix rule's prefix, else below the base path; empty, or from its `/`.
    pub path_below: &'a str,
}

impl<'a> Match<'a> {
    fn new(entry: &'a Entry, path: &'a str) -> Self {
        let (table, rule) = (entry.table(), entry.rule());
        let below_base = below(path, entry.skip);
        let segments = rule.path().segments();
        let path_below = match rule.path().kind() {
            PatternKind::Prefix => below(below_base, segments.len()),
            PatternKind::Exact | PatternKind::Template => below_base,
        };
        Self {
            namespace: table.namespace(),
            app: table.app(),
            route: table.route(),
            operation_id: rule.operation_id(),
            template: rule.path().text(),
            base_path: table.base_path(),
            params: Params { segments, path: below_base },
            backends: rule.backends(),
            call: rule.call(),
            path_below,
        }
    }

    /// The backend that `random`, evenly drawn, falls on.
    ///
    /// # Panics
    /// Never: a compiled rule has at least one backend.
    pub fn pick(&self, random: u32) -> &'a Backend {
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let mut left = (u64::from(random) * total) >> u32::BITS;
        for backend in self.backends {
            let weight = u64::from(backend.weight);
            if left < weight {
                return backend;
            }
            left -= weight;
        }
        // Reached with no weight above zero only, which no compiled rule has.
        &self.backends[0]
    }
}

/// A path's parameters, decoded as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    segments: &'a [Segment],
    path: &'a str,
}

impl<'a> Params<'a> {
    /// Names and values, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let raw = self.path.split('/').skip(1);
        iter::zip(self.segments, raw).filter_map(|(segment, raw)| match segment {
            // What is no UTF-8 matched no parameter; raw is only the compiler's other arm.
            Segment::Param(name) => Some((&**name, decode(raw).unwrap_or(Cow::Borrowed(raw)))),
            Segment::Literal(_) => None,
        })
    }

    /// One parameter's value.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Whether the template has none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Tables {
    /// The rule that answers a request. `host` is as the request has it, port and case included; `path` is raw
    /// and without query.
    pub fn find<'a>(&'a self, host: &str, method: &Method, path: &'a str, headers: &HeaderMap) -> Found<'a> {
        if !is_safe(path) {
            return Found::NotFound;
        }
        let host = host_name(host);
        let fits = |entry: &Entry| entry.rule().takes_method(method) && entry.rule().takes_headers(headers);
        let first = self.visit(&host, path, &mut |entry| match fits(entry) {
            true => ControlFlow::Break(entry),
            false => ControlFlow::Continue(()),
        });
        match first {
            ControlFlow::Break(entry) => Found::Match(Match::new(entry, path)),
            ControlFlow::Continue(()) => self.methods_of(&host, path, headers),
        }
    }

    fn methods_of(&self, host: &str, path: &str, headers: &HeaderMap) -> Found<'static> {
        let mut methods: Vec<Method> = Vec::new();
        let mut add = |method: &Method| {
            if let Err(at) = methods.binary_search_by(|other| other.as_str().cmp(method.as_str())) {
                methods.insert(at, method.clone());
            }
        };
        let _: ControlFlow<()> = self.visit(host, path, &mut |entry| {
            // A rule for every method would have matched, had its headers been there.
            if let Some(method) = entry.rule().method().filter(|_| entry.rule().takes_headers(headers)) {
                add(method);
                if *method == Method::GET {
                    add(&Method::HEAD);
                }
            }
            ControlFlow::Continue(())
        });
        match methods.is_empty() {
            true => Found::NotFound,
            false => Found::MethodNotAllowed { allow: Allow(methods) },
        }
    }
}

/// A path without its first `count` segments.
fn below(path: &str, count: usize) -> &str {
    match path.match_indices('/').nth(count) {
        Some((at, _)) => &path[at..],
        None => "",
    }
}

/// The name of a `Host` header: lower case, without port and root dot.
fn host_name(host: &str) -> Cow<'_, str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

fn is_safe(path: &str) -> bool {
    let bytes = path.as_bytes();
    let suspect =
        |(at, byte): (usize, &u8)| *byte == b'%' || (*byte == b'.' && at > 0 && bytes[at - 1] == b'/');
    if !bytes.iter().enumerate().any(suspect) {
        return true;
    }
    is_well_encoded(path) && path.split('/').all(is_safe_segment)
}

fn is_safe_segment(raw: &str) -> bool {
    // What is no UTF-8 can still be below a prefix, whose rest nobody here reads.
    !raw.contains("%00") && decode(raw).is_none_or(|segment| !is_dot_segment(&segment))
}
