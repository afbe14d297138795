//! What a reconcile is about: one object, by kind, namespace and name. Holds nothing else.

use std::fmt;

/// The kinds that have a reconciler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// An App.
    App,
    /// A Fn.
    Fn,
    /// A Route.
    Route,
    /// A Trigger.
    Trigger,
}

impl Kind {
    /// As users write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Fn => "Fn",
            Self::Route => "Route",
            Self::Trigger => "Trigger",
        }
    }
}

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    /// The tenant.
    pub(crate) namespace: String,
    /// The object.
    pub(crate) name: String,
}

impl Name {
    /// Both parts.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One object to reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Which one.
    pub(crate) name: Name,
}

impl Key {
    /// Of a kind, by namespace and name.
    pub(crate) fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, name: Name::new(namespace, name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}
