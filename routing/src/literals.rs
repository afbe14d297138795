//! A node's children by their literal segment: few are compared in turn, many are hashed.
//! Never holds parameters.
//!
//! Most nodes have one child or a handful, where comparing lengths and bytes costs less than hashing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::index::Node;

/// From here on hashing is the cheaper way.
const FEW_MAX: usize = 8;

#[derive(Clone, Debug)]
pub(crate) enum Literals {
    Few(Vec<(Arc<str>, Arc<Node>)>),
    Many(HashMap<Arc<str>, Arc<Node>>),
}

impl Default for Literals {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Literals {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    pub(crate) fn get(&self, segment: &str) -> Option<&Node> {
        match self {
            Self::Few(few) => few.iter().find(|(own, _)| **own == *segment).map(|(_, node)| &**node),
            Self::Many(many) => many.get(segment).map(|node| &**node),
        }
    }

    pub(crate) fn get_mut(&mut self, segment: &str) -> Option<&mut Arc<Node>> {
        match self {
            Self::Few(few) => few.iter_mut().find(|(own, _)| **own == *segment).map(|(_, node)| node),
            Self::Many(many) => many.get_mut(segment),
        }
    }

    pub(crate) fn get_or_insert(&mut self, segment: &Arc<str>) -> &mut Arc<Node> {
        if let Self::Few(few) = self
            && few.len() == FEW_MAX
        {
            *self = Self::Many(few.drain(..).collect());
        }
        match self {
            Self::Many(many) => many.entry(Arc::clone(segment)).or_default(),
            Self::Few(few) => {
                let at = few.iter().position(|(own, _)| own == segment).unwrap_or_else(|| {
                    few.push((Arc::clone(segment), Arc::default()));
                    few.len() - 1
                });
                &mut few[at].1
            }
        }
    }

    pub(crate) fn remove(&mut self, segment: &str) {
        match self {
            Self::Few(few) => few.retain(|(own, _)| **own != *segment),
            Self::Many(many) => {
                many.remove(segment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_hold_the_same() {
        let segments: Vec<Arc<str>> = (0..3 * FEW_MAX).map(|at| format!("s{at}").into()).collect();
        let mut literals = Literals::default();
        for (count, segment) in segments.iter().enumerate() {
            literals.get_or_insert(segment);
            literals.get_or_insert(segment);
            let held = segments.iter().filter(|segment| literals.get(segment).is_some()).count();
            assert_eq!(held, count + 1);
        }
        assert!(matches!(literals, Literals::Many(_)));
        for segment in &segments {
            assert!(literals.get_mut(segment).is_some());
            literals.remove(segment);
            assert!(literals.get(segment).is_none());
        }
        assert!(literals.is_empty());
    }
}
