//! What the cluster tests stand on: kubectl and helm as a user has them, a client pod inside the cluster, and waits
//! for conditions. Owns the installation under test; never looks inside our own crates.

pub mod client;
pub mod cluster;
pub mod kubectl;
pub mod wait;
