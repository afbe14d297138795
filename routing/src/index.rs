//! One hostname's rules as a tree of path segments, whose search order is the rules' precedence.
//! Never knows hostnames.
//!
//! A copy shares all nodes; a change copies the nodes on its way only.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::literals::Literals;
use crate::pattern::{PatternKind, Segment, decode};
use crate::precedence::RuleRank;
use crate::rule::Rule;
use crate::table::RouteTable;

/// A rule in its place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    table: Arc<RouteTable>,
    rule: usize,
    /// How many segments of the path stand before the rule's own: the namespace's and the base path's.
    pub(crate) skip: usize,
}

impl Entry {
    pub(crate) fn table(&self) -> &RouteTable {
        &self.table
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.table.rules()[self.rule]
    }

    fn rank(&self) -> RuleRank<'_> {
        RuleRank::of(&self.table, self.rule, self.rule())
    }
}

/// A place in the tree: a path's beginning, and all that may follow it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    literals: Literals,
    param: Option<Arc<Node>>,
    /// Rules whose path ends here, by rank.
    whole: Vec<Entry>,
    /// Rules whose prefix ends here, by rank.
    open: Vec<Entry>,
}

impl Node {
    /// Puts all rules of a table below `above`.
    pub(crate) fn insert(self: &mut Arc<Self>, above: &[Segment], table: &Arc<RouteTable>) {
        for_each_place(above, table, |segments, open, entry| insert(self, segments, open, entry));
    }

    /// Takes all rules of a table out, as they were inserted.
    pub(crate) fn remove(self: &mut Arc<Self>, above: &[Segment], table: &Arc<RouteTable>) {
        for_each_place(above, table, |segments, open, entry| remove(self, segments, open, &entry));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.param.is_none() && self.whole.is_empty() && self.open.is_empty()
    }

    /// Shows every rule whose path condition holds, in the order of precedence, until told to stop.
    /// `rest` is what follows this node, without its leading slash; `None` once the path has ended.
    ///
    /// It goes back and takes the other way at each node that has both a literal and a parameter, so that its
    /// time is bounded by the number of nodes, which tenants pay for in operations, not by their powers.
    pub(crate) fn visit<'a, B>(
        &'a self,
        rest: Option<&str>,
        show: &mut impl FnMut(&'a Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(rest) = rest else {
            self.whole.iter().try_for_each(&mut *show)?;
            return self.open.iter().try_for_each(show);
        };
        let (raw, next) = match rest.split_once('/') {
            Some((raw, next)) => (raw, Some(next)),
            None => (rest, None),
        };
        if let Some(segment) = decode(raw) {
            if let Some(child) = self.literals.get(&segment) {
                child.visit(next, show)?;
            }
            if let Some(child) = self.param.as_ref().filter(|_| !segment.is_empty()) {
                child.visit(next, show)?;
            }
        }
        self.open.iter().try_for_each(show)
    }

    fn entries(&mut self, open: bool) -> &mut Vec<Entry> {
        if open { &mut self.open } else { &mut self.whole }
    }
}

fn for_each_place(
    above: &[Segment],
    table: &Arc<RouteTable>,
    mut place: impl FnMut(&mut dyn Iterator<Item = &Segment>, bool, Entry),
) {
    let base = table.base_path.segments();
    let skip = above.len() + base.len();
    for (index, rule) in table.rules().iter().enumerate() {
        let open = rule.path().kind() == PatternKind::Prefix;
        let entry = Entry { table: Arc::clone(table), rule: index, skip };
        let above = above.iter().chain(base);
        // People mean the base path itself by `/` below it, and ask for it with and without a slash.
        if rule.path().is_root() && !open && skip > 0 {
            place(&mut above.clone(), open, entry.clone());
        }
        place(&mut above.chain(rule.path().segments()), open, entry);
    }
}

fn insert(node: &mut Arc<Node>, segments: &mut dyn Iterator<Item = &Segment>, open: bool, entry: Entry) {
    let node = Arc::make_mut(node);
    match segments.next() {
        Some(Segment::Literal(text)) => {
            insert(node.literals.get_or_insert(text), segments, open, entry);
        }
        Some(Segment::Param(_)) => insert(node.param.get_or_insert_default(), segments, open, entry),
        None => {
            let entries = node.entries(open);
            let at = entries.partition_point(|other| other.rank() <= entry.rank());
            entries.insert(at, entry);
        }
    }
}

fn remove(node: &mut Arc<Node>, segments: &mut dyn Iterator<Item = &Segment>, open: bool, entry: &Entry) {
    let node = Arc::make_mut(node);
    match segments.next() {
        Some(Segment::Literal(text)) => {
            let Some(child) = node.literals.get_mut(text) else { return };
            remove(child, segments, open, entry);
            if child.is_empty() {
                node.literals.remove(text);
            }
        }
        Some(Segment::Param(_)) => {
            let Some(child) = &mut node.param else { return };
            remove(child, segments, open, entry);
            if child.is_empty() {
                node.param = None;
            }
        }
        None => node
            .entries(open)
            .retain(|other| other.rule != entry.rule || !Arc::ptr_eq(&other.table, &entry.table)),
    }
}
