//! The gateway as a whole: real TCP clients on one side, the broker within the process and runners played by the tests on
//! the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as its tests do")]

mod again;
mod answers;
mod connections;
mod detached;
mod direct;
mod lines;
mod operation;
mod spill;
mod streams;
mod support;
mod tenancy;
mod wakes;
mod websocket;
