//! The call ledger.

pub mod state;
pub mod store;
