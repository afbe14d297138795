//! The processes of a benchmark, as their driver sees them. A part that is dropped is killed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::cpu::Process;
use crate::lanes::{Measured, Order};

/// Parts greet within a second; the load waits up to 20 s for a first answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// A process that is up.
pub(crate) struct Part {
    name: &'static str,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    process: Process,
    /// What it said when it was up.
    pub(crate) greeting: String,
    _child: Child,
}

impl Part {
    /// Starts this program as that part and waits until it is up.
    pub(crate) async fn start(name: &'static str, url: &str, options: &[(&str, &str)]) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.arg(name).env("FUNCATRON_BENCH_AMQP", url).env_remove("FUNCATRON_BENCH_MANAGEMENT");
        // As the image has it.
        command.env("MIMALLOC_ALLOW_THP", "0");
        for (option, value) in options {
            command.arg(option).arg(value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start the {name}"))?;
        let input = child.stdin.take().context("no stdin")?;
        let output = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let process = Process(child.id().context("it has ended")?);
        let mut part = Self { name, input, output, process, greeting: String::new(), _child: child };
        part.greeting = part.line(Duration::ZERO).await?;
        Ok(part)
    }

    /// Has it call.
    pub(crate) async fn measure(&mut self, order: Order) -> Result<Measured> {
        let words = serde_json::to_string(&order).context("write an order")? + "\n";
        self.input.write_all(words.as_bytes()).await.with_context(|| format!("tell the {}", self.name))?;
        let line = self.line(order.lasting()).await?;
        serde_json::from_str(&line).with_context(|| format!("read what the {} measured", self.name))
    }

    /// What it has run so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.process.cpu().with_context(|| format!("CPU time of the {}", self.name))
    }

    /// The process, for what it takes of memory.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    async fn line(&mut self, expected: Duration) -> Result<String> {
        let line = timeout(expected + ANSWER_DEADLINE, self.output.next_line()).await;
        let line = line.with_context(|| format!("the {} says nothing", self.name))?;
        line.context("read its output")?.with_context(|| format!("the {} ended", self.name))
    }
}
