//! The call ledger.

pub mod state;
