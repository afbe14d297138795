//! The gateway: HTTP in, message out, reply back.
//!
//! A request's way: `listen` (connections) → `doors` (what is served where, bodies, headers) → `resolve` (by the tables)
//! → `submission` (the call that it makes) → `dispatch` (published, waited for, tried again) → `uplink` and `pending` (the reply finds its call).
//! `direct` lets runners open a stream for what a message carries badly, `line` a connection for their replies.
//! Beside it: `wake` asks for runners, `watch` follows the operator's tables, `bundles` are handed to runners.
//! Never runs a function, and never calls a runner: runners come to it.

mod apps;
mod body;
mod bundles;
mod calls;
mod config;
mod core;
mod detached;
mod direct;
mod disk_cache;
mod dispatch;
mod doors;
mod handover;
mod headers;
mod kubernetes_bundles;
mod line;
mod listen;
mod metrics;
mod missing;
mod ops;
mod patient;
mod pending;
mod problem;
mod recorder;
mod resolve;
mod response;
mod serve;
mod spill;
mod submission;
mod tables;
mod uplink;
mod wake;
mod watch;

pub use body::MESSAGE_BODY_BYTES_MAX;
pub use bundles::{BundleSource, FetchBundleError, MemoryBundles};
pub use config::{GatewayConfig, HostPolicy, Limits, worker_threads};
pub use kubernetes_bundles::KubernetesBundles;
pub use serve::{Gateway, GatewayError, serve};
pub use tables::{PutTableError, TableStore};
pub use watch::watch_tables;
