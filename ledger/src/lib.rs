//! The call ledger: what became of every call, in a database, over HTTP.
//!
//! An event's way: its durable queue → `consumer` → `trust` (whose word counts) → `state` (what it makes of its call) →
//! `store`, and acknowledged after the commit. `callback` tells the ends of calls to whom their Fns name. `objects` keeps
//! bodies that no message carries. `api` answers from the store, and cancels, retries and redrives over the broker. Never
//! runs a call, and never loses an event that the broker has confirmed.

mod access;
mod api;
mod callback;
mod clock;
mod config;
mod consumer;
mod core;
mod metrics;
mod objects;
mod ops;
mod redrive;
mod repeat;
mod retention;
mod serve;
pub mod state;
pub mod store;
mod trust;

pub use access::{Access, Act, AllowAll, Decision};
pub use callback::{AllowList, AllowListError, CallbackConfig, CallbackKey, CallbackKeyError, Pace};
pub use config::LedgerConfig;
pub use objects::{ObjectName, ObjectsAddress, ObjectsAddressError, ObjectsConfig};
pub use serve::{Ledger, LedgerError, serve};
