//! Which of several matching rules wins, as an order: the smallest wins.
//!
//! As Gateway API's HTTPRoute defines it: an exact hostname before a wildcard, the longer wildcard first;
//! an exact path before a prefix, the longer prefix first; a method before none; more headers before fewer;
//! then the oldest Route, then namespace and name, then the first rule of the Route.
//! Templates, which Gateway API lacks, fit in segment by segment from the left: a literal before a parameter
//! before a prefix's open end; so concrete paths win over templated ones, as OpenAPI asks.

use std::cmp::Reverse;

use http::Method;

use crate::pattern::{Pattern, PatternKind, Segment};
use crate::rule::Rule;
use crate::table::RouteTable;

/// The whole order. Comparable among rules that match the same request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence<'a> {
    /// Of the hostname that the request came by.
    pub host: HostRank,
    /// Of the path, from the left; ends on `End` or `Rest`.
    pub path: Vec<SegmentRank>,
    /// Of all else.
    pub rule: RuleRank<'a>,
}

/// The more of a hostname stands written, the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRank {
    /// Equal to the request's.
    Exact,
    /// A wildcard, by the length of its suffix.
    Wildcard(Reverse<usize>),
}

/// How one segment of a path was matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentRank {
    /// By itself.
    Literal,
    /// By a parameter.
    Param,
    /// The pattern ends with the path.
    End,
    /// The pattern is a prefix and takes whatever follows.
    Rest,
}

/// How the method was matched. `HEAD` goes before others, since a `GET` rule answers it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MethodRank {
    /// The rule names `HEAD`.
    Head,
    /// The rule names another method.
    Named,
    /// The rule takes every method.
    Any,
}

/// The order of rules whose paths rank alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRank<'a> {
    /// A named method first.
    pub method: MethodRank,
    /// More headers first.
    pub headers: Reverse<usize>,
    /// Older Routes first.
    pub created_ms: i64,
    /// Then by namespace,
    pub namespace: &'a str,
    /// and name,
    pub name: &'a str,
    /// and place in the Route.
    pub index: usize,
}

impl<'a> RuleRank<'a> {
    /// The rank of the table's rule at `index`.
    pub fn of(table: &'a RouteTable, index: usize, rule: &Rule) -> Self {
        let method = match rule.method() {
            Some(method) if *method == Method::HEAD => MethodRank::Head,
            Some(_) => MethodRank::Named,
            None => MethodRank::Any,
        };
        Self {
            method,
            headers: Reverse(rule.headers().len()),
            created_ms: table.created_ms(),
            namespace: table.namespace(),
            name: table.route(),
            index,
        }
    }
}

impl SegmentRank {
    /// The ranks of a pattern below `base`.
    pub fn of(base: &[Segment], pattern: &Pattern) -> Vec<Self> {
        let end = match pattern.kind() {
            PatternKind::Exact | PatternKind::Template => Self::End,
            PatternKind::Prefix => Self::Rest,
        };
        let rank = |segment: &Segment| match segment {
            Segment::Literal(_) => Self::Literal,
            Segment::Param(_) => Self::Param,
        };
        base.iter().chain(pattern.segments()).map(rank).chain([end]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: PatternKind, text: &str) -> Vec<SegmentRank> {
        SegmentRank::of(&[], &Pattern::parse(kind, text).unwrap())
    }

    #[test]
    fn exact_beats_prefix() {
        assert!(path(PatternKind::Exact, "/a/b") < path(PatternKind::Prefix, "/a/b"));
        assert!(path(PatternKind::Exact, "/a/b") < path(PatternKind::Prefix, "/a"));
    }

    #[test]
    fn longer_prefix_wins() {
        assert!(path(PatternKind::Prefix, "/a/b") < path(PatternKind::Prefix, "/a"));
        assert!(path(PatternKind::Prefix, "/a") < path(PatternKind::Prefix, "/"));
    }

    #[test]
    fn concrete_segments_win_over_templated_ones() {
        assert!(path(PatternKind::Template, "/a/b") < path(PatternKind::Template, "/a/{x}"));
        assert!(path(PatternKind::Template, "/a/{x}/c") < path(PatternKind::Template, "/{y}/b/c"));
        assert!(path(PatternKind::Template, "/a/{x}") < path(PatternKind::Prefix, "/a"));
        assert!(path(PatternKind::Prefix, "/a/b") < path(PatternKind::Template, "/a/{x}/c"));
    }

    #[test]
    fn an_exact_host_beats_a_wildcard_and_a_longer_wildcard_a_shorter() {
        assert!(HostRank::Exact < HostRank::Wildcard(Reverse(200)));
        assert!(HostRank::Wildcard(Reverse(12)) < HostRank::Wildcard(Reverse(4)));
    }

    #[test]
    fn method_then_headers_then_age_then_name_then_order() {
        let rank = RuleRank {
            method: MethodRank::Any,
            headers: Reverse(0),
            created_ms: 5,
            namespace: "b",
            name: "b",
            index: 5,
        };
        let falling = [
            RuleRank { method: MethodRank::Named, created_ms: 9, ..rank },
            RuleRank { headers: Reverse(1), created_ms: 9, ..rank },
            RuleRank { created_ms: 4, namespace: "z", ..rank },
            RuleRank { namespace: "a", name: "z", ..rank },
            RuleRank { name: "a", index: 9, ..rank },
            RuleRank { index: 4, ..rank },
            rank,
        ];
        assert!(falling.is_sorted());
    }
}
