//! The control socket of a host: revisions are loaded, unloaded and killed over it.

mod client;
pub(crate) mod protocol;

pub(crate) use client::{ControlError, Exited, HostControl, Loaded};
