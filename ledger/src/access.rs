//! Who may see and do what: a hook, since the internal listener knows no users yet.
//!
//! Decides by namespace alone, before anything is looked up: whoever may not look is not told what is there.

use http::request::Parts;

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// See calls, their results and logs.
    Read,
    /// Cancel, retry, redrive.
    Change,
}

/// Whether they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allowed,
    /// They may not, and hear 403.
    NotAllowed,
}

/// Decides on requests.
pub trait Access: Send + Sync {
    /// May this request do that in this namespace?
    fn decide(&self, request: &Parts, namespace: &str, act: Act) -> Decision;
}

/// The cluster's inside may do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Access for AllowAll {
    fn decide(&self, _request: &Parts, _namespace: &str, _act: Act) -> Decision {
        Decision::Allowed
    }
}
