//! Makes the cluster and the broker match the resources: reconcilers for App, Fn, Route and Trigger.
//!
//! A reconciler reads as its steps: observe → validate → build → apply → next_status. What decides is pure and takes
//! no client and no clock; caches are fed by watches; every write is preceded by a look at what stands, so that an
//! unchanged object causes none.
//!
//! ```text
//! watches → caches → wiring → queue → workers → reconcile(App | Fn | Route | Trigger)
//!                      broker reports ↗                  ↘ API server, broker
//! ```
//!
//! Never on the way of a request: gateway and runners go on without it. Never reads a Secret.

mod app;
mod apply;
mod broker;
mod cache;
pub mod callbacks;
mod config;
mod context;
mod function;
mod keys;
mod lease;
mod ledger;
mod management;
mod memory;
mod metrics;
mod objects;
mod ops;
pub mod policies;
mod queue;
mod reports;
mod route;
mod run;
pub mod schedule;
mod session;
mod status;
mod sweep;
mod trigger;
mod watches;
mod wiring;

pub use config::{BrokerAddress, BrokerAddressError, OperatorConfig};
pub use run::{OperatorError, run};
