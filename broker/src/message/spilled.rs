//! Bodies that no message carries: what a call's message says of the one that stands in the object store.
//! Never performs I/O.

use serde::{Deserialize, Serialize};

/// A call's body in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpilledBody {
    /// `sha256:` and 64 hex digits; whoever fetches the body checks it.
    pub digest: String,
    /// How long it is.
    pub size: u64,
    /// Where it is fetched, until the call can no longer run.
    pub at: String,
}
