//! What crosses the message broker: names, topology, the message codec, and two ways to carry them.
//!
//! `names`, `topology`, `policy`, `message` and `backoff` are pure. `link` says what a carrier can do; `amqp` does it on
//! RabbitMQ and `local` does it within the process, for `dev` and for tests.
//! Never decides who runs what: that is the gateway's, the runner's and the operator's.

pub mod amqp;
pub mod backoff;
pub mod envelope;
pub mod link;
pub mod local;
pub mod message;
pub mod names;
pub mod policy;
pub mod supervise;
pub mod topology;

pub use supervise::supervise;
