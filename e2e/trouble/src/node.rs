//! A RabbitMQ of one's own, under chroot and on ports of its own, that may be killed, frozen and alarmed. It ends when
//! it is dropped, and with the thread that started it. Takes root.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::until;

/// A root filesystem with RabbitMQ in it.
const ROOT: &str = "FUNCATRON_TEST_RABBITMQ";
/// What runs it under chroot.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/rabbitmq/chroot");
/// A cold start takes 4 s; a machine that builds at the same time takes longer.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Killed processes go within milliseconds.
const END_DEADLINE: Duration = Duration::from_secs(20);
/// RabbitMQ's command-line tool starts an Erlang of its own.
const ALARM_DEADLINE: Duration = Duration::from_secs(30);
/// A broker that does not greet within this time is not there.
const GREETING_DEADLINE: Duration = Duration::from_secs(1);
/// It listens on loopback alone and holds nothing but what the test puts there.
const LOGIN: (&str, &str) = ("trouble", "trouble");

/// What RabbitMQ watches, and stops publishers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// More memory in use than it may.
    Memory,
    /// Less room on the disk than there must be.
    Disk,
}

impl Alarm {
    /// The limit that sets it off at once, and the one that the node started with (rabbitmq.conf).
    const fn limits(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Memory => (
                &["set_vm_memory_high_watermark", "absolute", "1"],
                &["set_vm_memory_high_watermark", "absolute", "1GB"],
            ),
            Self::Disk => (&["set_disk_free_limit", "100000GB"], &["set_disk_free_limit", "200MB"]),
        }
    }
}

/// One node; its state outlives its process.
#[derive(Debug)]
pub struct Node {
    root: PathBuf,
    folder: TempDir,
    ports: [u16; 4],
    broker: Broker,
    process: Child,
}

impl Node {
    /// Starts one, and waits until all of it is there.
    pub async fn start() -> Result<Self> {
        let root =
            std::env::var_os(ROOT).with_context(|| format!("{ROOT} is not set: cargo xtask test sets it"))?;
        let root = PathBuf::from(root);
        let folder = tempfile::tempdir().context("make a folder for the node")?;
        let ports = free_ports()?;
        let [amqp, management, ..] = ports;
        let login = format!("{}:{}", LOGIN.0, LOGIN.1);
        let broker = Broker::at(
            &format!("amqp://{login}@127.0.0.1:{amqp}/%2f"),
            &format!("http://{login}@127.0.0.1:{management}"),
        )?;
        let process = launch(&root, folder.path(), ports)?;
        let node = Self { root, folder, ports, broker, process };
        until("RabbitMQ's management answers", START_DEADLINE, async || node.broker.answers().await)
            .await
            .with_context(|| node.last_words())?;
        Ok(node)
    }

    /// Where it is reached.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Ends it as a lost machine would.
    pub async fn kill(&mut self) -> Result<()> {
        self.end();
        let greets = async || {
            ensure!(!greets(self.broker.amqp_address()).await, "it still answers");
            Ok(())
        };
        until("a killed broker is gone", END_DEADLINE, greets).await
    }

    /// Starts it again with what it had; returns when it takes connections.
    pub async fn revive(&mut self) -> Result<Instant> {
        self.process = launch(&self.root, self.folder.path(), self.ports)?;
        self.back().await
    }

    /// Stops all its processes where they stand. The kernel still takes connections for it.
    pub fn freeze(&self) -> Result<()> {
        signal("STOP", &descendants(self.process.id()))
    }

    /// Lets them run on; returns when it takes connections.
    pub async fn thaw(&self) -> Result<Instant> {
        signal("CONT", &descendants(self.process.id()))?;
        self.back().await
    }

    /// Deletes a queue, another connection's own as well, which management refuses.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.control(&["delete_queue", queue]).await
    }

    /// Sets an alarm off; returns when it is in effect.
    pub async fn alarm(&self, alarm: Alarm) -> Result<()> {
        self.control(alarm.limits().0).await?;
        let alarmed = async || {
            ensure!(!self.broker.is_calm().await?, "no alarm is in effect");
            Ok(())
        };
        until("the alarm is in effect", ALARM_DEADLINE, alarmed).await
    }

    /// Lifts it; returns the time at which it was in effect no more.
    pub async fn calm(&self, alarm: Alarm) -> Result<Instant> {
        let lifting = self.control(alarm.limits().1);
        let calm = async || {
            ensure!(self.broker.is_calm().await?, "an alarm is in effect");
            Ok(Instant::now())
        };
        // The tool ends some time after its word has taken effect.
        let (lifted, calm) = tokio::join!(lifting, until("the alarm is lifted", ALARM_DEADLINE, calm));
        lifted.and(calm)
    }

    async fn back(&self) -> Result<Instant> {
        let greets = async || {
            ensure!(greets(self.broker.amqp_address()).await, "it takes no connections");
            Ok(Instant::now())
        };
        until("the broker is back", START_DEADLINE, greets).await.with_context(|| self.last_words())
    }

    /// Runs `rabbitmqctl` beside the node.
    async fn control(&self, words: &[&str]) -> Result<()> {
        let inside = children(self.process.id()).first().copied().context("the node has ended")?;
        let mut tool = tokio::process::Command::new("nsenter");
        tool.args(["--target", &inside.to_string(), "--mount", "--pid"]);
        tool.args(["chroot", "--userspec=rabbitmq:rabbitmq"]).arg(&self.root);
        tool.arg("/usr/lib/rabbitmq/bin/rabbitmqctl").args(words);
        tool.env("HOME", "/var/lib/rabbitmq").envs(names(self.ports));
        let output = tool.stdin(Stdio::null()).output().await.context("run rabbitmqctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {words:?} ended with {}: {said}", output.status);
        Ok(())
    }

    fn end(&mut self) {
        // With the first process of its namespace all others end. Whatever has ended already is no matter.
        let _ = signal("KILL", &children(self.process.id()));
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// For AMQP, management, Erlang's distribution and its port mapper.
fn free_ports() -> Result<[u16; 4]> {
    let mut taken = Vec::new();
    let mut ports = [0; 4];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        *port = listener.local_addr().context("read a free port")?.port();
        taken.push(listener);
    }
    Ok(ports)
}

/// What tells this node from others on the machine.
fn names([amqp, _, distribution, mapper]: [u16; 4]) -> [(&'static str, String); 3] {
    [
        ("RABBITMQ_NODENAME", format!("funcatron-trouble-{amqp}@localhost")),
        ("RABBITMQ_DIST_PORT", distribution.to_string()),
        ("ERL_EPMD_PORT", mapper.to_string()),
    ]
}

fn launch(root: &Path, folder: &Path, ports: [u16; 4]) -> Result<Child> {
    let log =
        File::options().create(true).append(true).open(folder.join("log")).context("open the node's log")?;
    let errors = log.try_clone().context("share the node's log")?;
    let [amqp, management, ..] = ports;
    // Should this process be killed, the node ends with it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.arg(SCRIPT).arg(root).arg(folder.join("data"));
    command.envs(names(ports)).envs([
        ("FUNCATRON_LISTEN_ADDRESS", "127.0.0.1".to_owned()),
        ("FUNCATRON_MANAGEMENT_PORT", management.to_string()),
        ("RABBITMQ_NODE_PORT", amqp.to_string()),
        ("RABBITMQ_DEFAULT_USER", LOGIN.0.to_owned()),
        ("RABBITMQ_DEFAULT_PASS", LOGIN.1.to_owned()),
    ]);
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().context("start RabbitMQ under chroot, which takes root")
}

/// Whether a broker answers the first bytes of AMQP there.
async fn greets(address: &str) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"AMQP\0\0\x09\x01").await?;
        stream.read_u8().await
    };
    matches!(timeout(GREETING_DEADLINE, greeting).await, Ok(Ok(_)))
}

fn signal(name: &str, ids: &[u32]) -> Result<()> {
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(ids.iter().map(u32::to_string));
    let status = kill.stderr(Stdio::null()).status().context("run kill")?;
    ensure!(status.success(), "kill -{name} {ids:?} ended with {status}");
    Ok(())
}

/// A process and all that it has started, down to the last child.
fn descendants(ancestor: u32) -> Vec<u32> {
    let mut ids = children(ancestor);
    let mut next = 0;
    while let Some(id) = ids.get(next).copied() {
        ids.extend(children(id));
        next += 1;
    }
    ids
}

fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten();
    let ids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| parent(*id) == Some(of)).collect()
}

fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc(5): the program's name may hold blanks and brackets; nothing after it does.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
