//! One RabbitMQ on this machine for tests and for trying things out, under chroot, on loopback alone.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, remove};
use crate::processes::Processes;
use crate::roots;
use crate::run::{command, daemon, step, wait_for};
use crate::tools;

/// Where the running broker keeps its state and its log. Root's, like the broker.
const RUN: &str = "/var/lib/funcatron-broker";
const AMQP_PORT: u16 = 5673;
const MANAGEMENT_PORT: u16 = 15673;
const USER: &str = "funcatron";
/// It listens on loopback alone and holds nothing but what tests put there.
const PASSWORD: &str = "funcatron";
/// A cold start takes 5 s; a machine that builds at the same time takes longer.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Where a broker is reached.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) amqp: String,
    pub(crate) management: String,
}

impl Broker {
    fn local() -> Self {
        Self {
            amqp: format!("amqp://{USER}:{PASSWORD}@127.0.0.1:{AMQP_PORT}/%2f"),
            management: format!("http://{USER}:{PASSWORD}@127.0.0.1:{MANAGEMENT_PORT}"),
        }
    }

    /// The lines that make a shell's tests use this broker.
    pub(crate) fn print(&self) {
        println!("export FUNCATRON_TEST_AMQP={}", self.amqp);
        println!("export FUNCATRON_TEST_MANAGEMENT={}", self.management);
    }
}

/// Starts the broker, if it does not run yet.
pub(crate) fn up(cache: &Cache, checkout: &Path) -> Result<Broker> {
    if is_up().is_ok() {
        return Ok(Broker::local());
    }
    if !tools::is_root() {
        bail!(
            "the broker runs under chroot, which takes root; or set FUNCATRON_TEST_AMQP and FUNCATRON_TEST_MANAGEMENT"
        );
    }
    tools::require(&[tools::FOR_ROOTS])?;
    let root = roots::RABBITMQ.folder(cache)?;
    down()?;
    step("RabbitMQ up", || start(&root, checkout))?;
    Ok(Broker::local())
}

/// Whether one answers.
pub(crate) fn is_running() -> bool {
    is_up().is_ok()
}

/// Ends the broker and forgets what it held.
pub(crate) fn down() -> Result<()> {
    Processes::started_below(Path::new(RUN))?.with_descendants()?.kill()?;
    remove(Path::new(RUN))
}

fn start(root: &Path, checkout: &Path) -> Result<()> {
    let run = PathBuf::from(RUN);
    fs::create_dir_all(&run).with_context(|| format!("create {RUN}"))?;
    let script = checkout.join("e2e/cluster/rabbitmq/chroot");
    // Mounts and processes of its own: they end with the first process in there, whatever Erlang has
    // forked. unshare is called by a name in the run directory, where `down` looks for it.
    let unshare = run.join("unshare");
    symlink("/usr/bin/unshare", &unshare).with_context(|| format!("link {}", unshare.display()))?;
    let mut unshare = command(unshare, ["--mount", "--pid", "--fork"]);
    unshare.arg(script).arg(root).arg(run.join("data"));
    unshare.envs([
        ("FUNCATRON_LISTEN_ADDRESS", "127.0.0.1".to_owned()),
        ("FUNCATRON_MANAGEMENT_PORT", MANAGEMENT_PORT.to_string()),
        ("RABBITMQ_NODE_PORT", AMQP_PORT.to_string()),
        // Beside a RabbitMQ that the machine may run already.
        ("RABBITMQ_NODENAME", "funcatron-test@localhost".to_owned()),
        ("RABBITMQ_DIST_PORT", (AMQP_PORT + 20_000).to_string()),
        ("ERL_EPMD_PORT", "14369".to_owned()),
        ("RABBITMQ_DEFAULT_USER", USER.to_owned()),
        ("RABBITMQ_DEFAULT_PASS", PASSWORD.to_owned()),
    ]);
    let log = run.join("log");
    daemon(&mut unshare, &log)?;
    wait_for("RabbitMQ's management answers", START_DEADLINE, is_up)
        .with_context(|| format!("its log is {}", log.display()))
}

/// The management plugin starts last, so its answer says that all of RabbitMQ is there.
fn is_up() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect(("127.0.0.1", MANAGEMENT_PORT)).context("connect to management")?;
    stream.set_read_timeout(Some(PATIENCE)).context("bound the wait for management")?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").context("ask management")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).context("read management's answer")?;
    if !status.ends_with(b" 200") {
        bail!("management answered {}", String::from_utf8_lossy(&status));
    }
    TcpStream::connect(("127.0.0.1", AMQP_PORT)).context("connect to AMQP").map(|_| ())
}
