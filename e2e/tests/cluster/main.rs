//! The product on a real cluster: a real kube-apiserver, kubelet, containerd and RabbitMQ, the chart installed by
//! helm, the images built from the project's Dockerfiles. Run by `cargo xtask test`, one test after another.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail as the test does")]

mod bad_calls;
mod bad_resources;
mod broker;
mod death;
mod direct;
mod first_fn;
mod later;
mod leaving;
mod node;
mod quiet;
mod rollover;
mod schedule;
mod shop;
mod swagger;
mod trust;
