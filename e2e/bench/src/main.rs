//! The benchmark: raw RPC over RabbitMQ and the product in turn, each part a process of its own.
//!
//! `drive` starts the others by this same binary, tells the two that call how to call and for how long, and reads
//! their processes' CPU time from `/proc`. `cargo xtask bench` builds and runs it.
//! Never a part of the product: it composes the product's libraries as its programs do.
#![allow(clippy::print_stdout, reason = "parts report to their driver on stdout, and the driver to a person")]

mod confirms;
mod cpu;
mod drive;
mod flood;
mod function;
mod idle;
mod lanes;
mod load;
mod page;
mod parts;
mod product;
mod proxy;
mod raw;
mod report;
mod setup;
mod streaming;
mod streams;
mod transfer;
mod works;

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::lanes::{Measured, Order};

/// A bench for one App of this namespace.
const NAMESPACE: &str = "bench";
/// The App.
const APP: &str = "echo";
/// Its one Fn.
const FUNCTION: &str = "echo";
/// The revision that serves.
const REVISION: &str = "echo-0123abcd";
/// Calls that the runner has at once; as many as are in flight.
const CONCURRENCY: u32 = 64;

#[derive(Parser)]
struct Arguments {
    /// Where RabbitMQ is; from the environment, since it holds a password
    #[arg(long, env = "FUNCATRON_BENCH_AMQP", hide_env_values = true, default_value = "", global = true)]
    amqp: String,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Run the whole benchmark and print what it measured
    Drive {
        /// RabbitMQ's management API
        #[arg(long, env = "FUNCATRON_BENCH_MANAGEMENT", hide_env_values = true)]
        management: String,
        /// Also write one JSON object a line to this file
        #[arg(long)]
        json: Option<PathBuf>,
        /// Also write a page with plots to this file
        #[arg(long)]
        page: Option<PathBuf>,
        /// Only works whose names hold this text
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Raw RPC: who calls
    RawClient {
        /// The queue that it calls to
        #[arg(long)]
        queue: String,
    },
    /// Raw RPC: who echoes
    RawServer,
    /// Raw publishing: into a quorum queue, each message confirmed
    RawConfirms,
    /// The product's gateway
    Gateway {
        #[arg(long)]
        installation: String,
        /// Fns of other Apps that its tables hold besides
        #[arg(long, default_value_t = 0)]
        fns: usize,
    },
    /// The product's runner
    Runner {
        #[arg(long)]
        installation: String,
        /// A folder with the function's socket
        #[arg(long)]
        folder: PathBuf,
    },
    /// A function that echoes
    Function {
        #[arg(long)]
        folder: PathBuf,
    },
    /// A function that streams: a sink, a source and an echo
    Streaming {
        #[arg(long)]
        folder: PathBuf,
    },
    /// Send a large body each way through the product, and fail if it arrives otherwise or grows a process
    Streams {
        /// RabbitMQ's management API
        #[arg(long, env = "FUNCATRON_BENCH_MANAGEMENT", hide_env_values = true)]
        management: String,
        /// MiB each way
        #[arg(long, default_value_t = 1024)]
        mib: u64,
    },
    /// A plain proxy in the place of gateway, broker and runner
    Proxy {
        /// A folder with the function's socket
        #[arg(long)]
        folder: PathBuf,
    },
    /// HTTP clients that have asked once and stay connected
    Idle {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
    /// One App's flood beside another App
    Flood(flood::Arguments),
    /// HTTP clients
    Load {
        #[arg(long)]
        to: SocketAddr,
    },
}

/// As the product has it, for both sides of the comparison.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let Arguments { amqp, part } = Arguments::parse();
    match part {
        Part::Drive { management, json, page, only } => {
            let wanted = drive::Wanted { json, page, only };
            threads()?.block_on(drive::drive(&amqp, &management, &wanted))
        }
        Part::RawClient { queue } => raw::client(&amqp, &queue),
        Part::RawServer => raw::server(&amqp),
        Part::RawConfirms => confirms::client(&amqp),
        Part::Gateway { installation, fns } => product::gateway(&amqp, &installation, fns),
        Part::Runner { installation, folder } => product::runner(&amqp, &installation, &folder),
        Part::Function { folder } => function::serve(&folder),
        Part::Streaming { folder } => streaming::serve(&folder),
        Part::Streams { management, mib } => {
            threads()?.block_on(streams::check(&amqp, &management, mib << 20))
        }
        Part::Proxy { folder } => proxy::serve(&folder),
        Part::Idle { to, connections } => idle::hold(to, connections),
        Part::Load { to } => load::load(to),
        Part::Flood(arguments) => flood::run(&amqp, arguments),
    }
}

/// A runtime as gateway and raw RPC have it.
fn threads() -> Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("start a runtime")
}

/// A runtime as the runner has it, and for what is not measured: the fewer threads, the less it takes from what is.
fn one_thread() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Tells the driver that this part is up, and a word that others need.
fn greet(word: &str) -> Result<()> {
    println!("{word}");
    std::io::stdout().flush().context("greet the driver")
}

/// Ends this process with its driver, however that ends: its stdin closes then.
fn end_with_driver() {
    std::thread::spawn(|| {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
}

/// Does as the driver says, an order a line. Ends with the driver.
fn obey(mut measure: impl FnMut(Order) -> Result<Measured>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read from the driver")?;
        let measured = measure(serde_json::from_str(&line).context("read an order")?)?;
        greet(&serde_json::to_string(&measured).context("write what was measured")?)?;
    }
    Ok(())
}
