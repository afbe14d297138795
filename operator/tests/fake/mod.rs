//! Enough of an API server and of RabbitMQ's management API to drive the whole operator within a test: objects by
//! path, lists, watches, server-side apply without merging, finalizers, garbage collection by owner.

pub(crate) mod api;
pub(crate) mod management;
