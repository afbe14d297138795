//! One connection to a host, made again whenever it ends.
//!
//! Owns what is asked and not yet answered. Never decides what is to be loaded: whoever loaded a revision learns
//! from [`Loaded::exited`] that it is gone, be it the process, the host or the connection that ended.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::protocol::{EVENT_BYTES_MAX, HostEvent, Load, Request, WIRE, log_tail};
use crate::instance::LastWords;
use funcatron_broker::backoff::Backoff;

/// Requests not yet written. Each revision asks one thing at a time, so a longer line means a host that reads
/// nothing; askers then wait.
const REQUESTS_WAITING_MAX: usize = 64;
/// A host answers hello once it has killed what it was running.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// A host reads its socket all the time; one that takes nothing for this long is taken for gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A host starts within about a second: try often at first, then leave it alone.
const RECONNECT_FIRST: Duration = Duration::from_millis(20);
const RECONNECT_LONGEST: Duration = Duration::from_secs(2);

/// Why a host did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The host said so.
    #[error("{reason}")]
    Refused {
        /// In the host's words.
        reason: String,
        /// The last lines the function wrote.
        log: String,
    },
    /// The connection ended before the host answered: whatever ran there is gone.
    #[error("the host was lost")]
    Lost,
}

/// How a revision's process ended.
#[derive(Debug)]
pub(crate) struct Exited {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// The last lines it wrote.
    pub log: String,
    /// What the calls had written that ran, by call.
    pub calls: LastWords,
}

/// A revision that listens on its socket.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Resolves when its process has ended; to an error when host or connection has.
    pub exited: oneshot::Receiver<Exited>,
}

/// Asks a host. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HostControl {
    commands: mpsc::Sender<Command>,
    ready: watch::Receiver<bool>,
}

#[derive(Debug)]
enum Command {
    Load(Box<Load>, oneshot::Sender<Result<Loaded, ControlError>>),
    Unload { revision: String, grace: Duration, answer: oneshot::Sender<Result<LastWords, ControlError>> },
    Kill { revision: String, answer: oneshot::Sender<Result<LastWords, ControlError>> },
}

#[derive(Debug)]
enum Pending {
    Load(oneshot::Sender<Result<Loaded, ControlError>>),
    Done(oneshot::Sender<Result<LastWords, ControlError>>),
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("write")]
    Write(#[source] io::Error),
    #[error("the host reads nothing")]
    WriteTimeout,
    #[error("read")]
    Read(#[source] LinesCodecError),
    #[error("the host closed the connection")]
    Closed,
    #[error("no hello within {HELLO_TIMEOUT:?}")]
    NoHello,
    #[error("the host speaks wire version {0:?}, this runner {WIRE}")]
    Wire(Option<u32>),
}

impl HostControl {
    /// Connects to `socket` now and whenever the connection ends, until `shutdown`.
    pub(crate) fn start(socket: PathBuf, shutdown: CancellationToken) -> Self {
        let (commands, receiver) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (ready_sender, ready) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = keep_connected(socket, receiver, ready_sender) => {}
            }
        });
        Self { commands, ready }
    }

    /// Resolves once the host has said hello on the present connection.
    pub(crate) async fn ready(&self) -> Result<(), ControlError> {
        let mut ready = self.ready.clone();
        ready.wait_for(|ready| *ready).await.map(drop).map_err(|_| ControlError::Lost)
    }

    /// Starts a revision. The host keeps the start timeout.
    pub(crate) async fn load(&self, load: Load) -> Result<Loaded, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Load(Box::new(load), answer)).await?;
        answered.await.unwrap_or(Err(ControlError::Lost))
    }

    /// Stops a revision that runs no call.
    pub(crate) async fn unload(&self, revision: &str, grace: Duration) -> Result<LastWords, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Unload { revision: revision.to_owned(), grace, answer }).await?;
        answered.await.unwrap_or(Err(ControlError::Lost))
    }

    /// Stops a revision at once; what its calls had written.
    pub(crate) async fn kill(&self, revision: &str) -> Result<LastWords, ControlError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Command::Kill { revision: revision.to_owned(), answer }).await?;
        answered.await.unwrap_or(Err(ControlError::Lost))
    }

    async fn ask(&self, command: Command) -> Result<(), ControlError> {
        self.commands.send(command).await.map_err(|_| ControlError::Lost)
    }
}

async fn keep_connected(socket: PathBuf, mut commands: mpsc::Receiver<Command>, ready: watch::Sender<bool>) {
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_LONGEST);
    loop {
        let why = match Session::open(&socket).await {
            Ok(mut session) => {
                backoff.succeeded();
                info!("connected to host");
                ready.send_replace(true);
                let why = session.run(&mut commands).await;
                ready.send_replace(false);
                warn!(error = %why, "lost host");
                why
            }
            Err(why) => why,
        };
        if let SessionError::Wire(_) | SessionError::NoHello = why {
            warn!(error = %why, "host not usable");
        }
        // What was asked of the lost host is not done by the next: its asker decides again.
        while let Ok(command) = commands.try_recv() {
            drop(command);
        }
        tokio::time::sleep(backoff.after_failure(rand::random())).await;
    }
}

struct Session {
    lines: FramedRead<OwnedReadHalf, LinesCodec>,
    writer: OwnedWriteHalf,
    next_id: u64,
    pending: HashMap<u64, Pending>,
    running: HashMap<String, oneshot::Sender<Exited>>,
}

impl Session {
    async fn open(socket: &PathBuf) -> Result<Self, SessionError> {
        let stream = UnixStream::connect(socket).await.map_err(SessionError::Connect)?;
        let (reader, writer) = stream.into_split();
        let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(EVENT_BYTES_MAX));
        let mut session =
            Self { lines, writer, next_id: 1, pending: HashMap::new(), running: HashMap::new() };
        session.write(&Request::Hello { wire: WIRE }).await?;
        timeout(HELLO_TIMEOUT, session.hello()).await.map_err(|_| SessionError::NoHello)??;
        Ok(session)
    }

    /// Waits for hello. What comes before it speaks of processes that are being killed.
    async fn hello(&mut self) -> Result<(), SessionError> {
        loop {
            match self.next_event().await? {
                HostEvent::Hello { wire: Some(WIRE) } => return Ok(()),
                HostEvent::Hello { wire } => return Err(SessionError::Wire(wire)),
                _ => {}
            }
        }
    }

    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> SessionError {
        loop {
            let done = tokio::select! {
                event = self.next_event() => event.map(|event| self.take(event)),
                Some(command) = commands.recv() => self.send(command).await,
            };
            if let Err(why) = done {
                return why;
            }
        }
    }

    async fn next_event(&mut self) -> Result<HostEvent, SessionError> {
        loop {
            let line = self.lines.next().await.ok_or(SessionError::Closed)?.map_err(SessionError::Read)?;
            match serde_json::from_str(&line) {
                Ok(event) => return Ok(event),
                Err(error) => warn!(%error, "host sent a line that is no event"),
            }
        }
    }

    async fn send(&mut self, command: Command) -> Result<(), SessionError> {
        let id = self.next_id;
        self.next_id += 1;
        match command {
            Command::Load(load, answer) => {
                self.pending.insert(id, Pending::Load(answer));
                self.write(&Request::Load { id, load: &load }).await
            }
            Command::Unload { revision, grace, answer } => {
                self.pending.insert(id, Pending::Done(answer));
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                self.write(&Request::Unload { id, revision: &revision, grace_ms }).await
            }
            Command::Kill { revision, answer } => {
                self.pending.insert(id, Pending::Done(answer));
                self.write(&Request::Kill { id, revision: &revision }).await
            }
        }
    }

    async fn write(&mut self, request: &Request<'_>) -> Result<(), SessionError> {
        let mut line = serde_json::to_vec(request).map_err(|error| SessionError::Write(error.into()))?;
        line.push(b'\n');
        match timeout(WRITE_TIMEOUT, self.writer.write_all(&line)).await {
            Ok(written) => written.map_err(SessionError::Write),
            Err(_) => Err(SessionError::WriteTimeout),
        }
    }

    fn take(&mut self, event: HostEvent) {
        match event {
            HostEvent::Loaded { id, revision } => self.loaded(id, revision),
            HostEvent::Failed { id, reason, log } => self.answer(id, Err(refused(&reason, &log))),
            HostEvent::Error { id: Some(id), reason } => self.answer(id, Err(refused(&reason, ""))),
            HostEvent::Unloaded { id } => self.answer(id, Ok(LastWords::new())),
            HostEvent::Killed { id, calls } => self.answer(id, Ok(calls)),
            HostEvent::Exited { revision, code, signal, log, calls } => {
                if let Some(watcher) = self.running.remove(&revision) {
                    // Nobody listens when the revision is just being unloaded.
                    let _ = watcher.send(Exited { code, signal, log: log_tail(&log).to_owned(), calls });
                }
            }
            HostEvent::Hello { .. } | HostEvent::Error { id: None, .. } | HostEvent::Unknown => {}
        }
    }

    fn loaded(&mut self, id: u64, revision: String) {
        let Some(Pending::Load(answer)) = self.pending.remove(&id) else { return };
        let (watcher, exited) = oneshot::channel();
        // In place before the answer: an exit in the next line already finds it.
        self.running.insert(revision, watcher);
        let _ = answer.send(Ok(Loaded { exited }));
    }

    fn answer(&mut self, id: u64, result: Result<LastWords, ControlError>) {
        match (self.pending.remove(&id), result) {
            (Some(Pending::Done(answer)), result) => drop(answer.send(result)),
            (Some(Pending::Load(answer)), Err(error)) => drop(answer.send(Err(error))),
            (Some(Pending::Load(answer)), Ok(_)) => drop(answer.send(Err(ControlError::Lost))),
            (None, _) => {}
        }
    }
}

fn refused(reason: &str, log: &str) -> ControlError {
    ControlError::Refused { reason: log_tail(reason).to_owned(), log: log_tail(log).to_owned() }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
