//! A host as a child process, for where no kubelet starts one: `dev` on a laptop.
//!
//! Owns the process and its output. Never speaks the control protocol: a runner connects to the host's socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use funcatron_broker::backoff::Backoff;

/// A host cuts lines itself, far below this.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// A host that dies at once is not started in a loop.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_LONGEST: Duration = Duration::from_secs(5);
/// A host that lived this long was well: its next start is no repeated failure.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Between closing a host's stdin and killing it. A host gives its workers 5 s.
const STOP_GRACE: Duration = Duration::from_secs(7);

/// Takes each line a host writes, to either stream.
pub type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How to start a host.
#[derive(Clone)]
pub struct HostProcess {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, the control socket among them. The host must end when its stdin is closed.
    pub args: Vec<String>,
    /// Environment beside this process's own.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub output: LineSink,
}

impl fmt::Debug for HostProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostProcess")
            .field("program", &self.program)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

/// Why no host runs.
#[derive(Debug, thiserror::Error)]
pub enum HostProcessError {
    /// The program could not be started at all.
    #[error("cannot start host `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

impl HostProcess {
    /// Keeps the host running until `shutdown`, then ends it. Fails only where the first start does: a program that
    /// is missing is the user's to know of.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), HostProcessError> {
        let mut backoff = Backoff::new(RESTART_FIRST, RESTART_LONGEST);
        let mut child = self.start()?;
        loop {
            let started = Instant::now();
            let Some(ended) = self.attend(child, &shutdown).await else { return Ok(()) };
            if started.elapsed() >= WELL_AFTER {
                backoff.succeeded();
            }
            warn!(program = %self.program.display(), status = %describe(&ended), "host ended, starting it again");
            child = loop {
                let wait = tokio::time::sleep(backoff.after_failure(rand::random()));
                if shutdown.run_until_cancelled(wait).await.is_none() {
                    return Ok(());
                }
                match self.start() {
                    Ok(child) => break child,
                    Err(error) => warn!(%error, "host not started"),
                }
            };
        }
    }

    fn start(&self) -> Result<Child, HostProcessError> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A group of its own: Ctrl-C is the runner's to hear, whose drain still needs its host.
        command.process_group(0);
        let program = || self.program.display().to_string();
        command.spawn().map_err(|source| HostProcessError::Start { program: program(), source })
    }

    /// Passes output on until the host ends (`Some`) or has been ended on shutdown (`None`).
    async fn attend(&self, mut child: Child, shutdown: &CancellationToken) -> Option<io::Result<ExitStatus>> {
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = async { tokio::join!(self.pass_on(stdout), self.pass_on(stderr)) };
        let life = async {
            tokio::select! {
                ended = child.wait() => Some(ended),
                () = shutdown.cancelled() => {
                    drop(stdin);
                    if timeout(STOP_GRACE, child.wait()).await.is_err() {
                        let _ = child.kill().await;
                    }
                    None
                }
            }
        };
        tokio::select! {
            ended = life => ended,
            // Output closed and life not over: wait for that alone.
            never = async { output.await; std::future::pending().await } => never,
        }
    }

    async fn pass_on(&self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(stream) = stream else { return };
        let mut lines = FramedRead::new(stream, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        loop {
            match lines.next().await {
                Some(Ok(line)) => (self.output)(&line),
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    (self.output)("(a line too long to show)");
                    // After an error the stream ends once, then goes on with the next line.
                    let _ = lines.next().await;
                }
                Some(Err(LinesCodecError::Io(_))) | None => return,
            }
        }
    }
}

fn describe(ended: &io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}
