//! What the tests of broker trouble are made of: a RabbitMQ of one's own, a network that can be reset, the product's
//! gateway and runner with a function behind them, a steady load, and the verdict on its calls.
//!
//! Never a part of the product: it composes the product's libraries as its programs do.

pub mod broker;
pub mod function;
pub mod load;
pub mod node;
pub mod proxy;
pub mod site;
pub mod verdict;
mod wait;

pub use wait::until;
