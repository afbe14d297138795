//! A line that is open: replies go out, and each is kept until the gateway has said that it took it.
//!
//! A delivery is settled only then, so that it is never lost with this process, this connection or its gateway: what a
//! line did not bring to its end goes back to its settler, which sends it through the broker. Never settles a delivery.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use bytes::BytesMut;
use funcatron_broker::message::{fits_line, last_taken, put_on_line};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout_at};
use tracing::debug;

use super::open::Opened;
use crate::settler::{Last, Settler, Told};

/// Replies on their way at once, beyond which they go through the broker: more than a runner has slots.
const WAITING_MAX: usize = 1_024;
/// Written together: what fits a socket's buffer without waiting.
const WRITE_BYTES: usize = 128 << 10;
/// A gateway takes a reply within milliseconds. One that has not by then may be gone without a word, and no caller shall
/// wait much longer for what another way still brings.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Why a line ends.
#[derive(Debug, Error)]
enum LineError {
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error("the gateway has ended it")]
    Ended,
    #[error("nobody has a use for it any more")]
    Unused,
    #[error("the gateway takes nothing")]
    Stuck,
    #[error("the gateway has taken more than was sent")]
    Nonsense,
}

/// A reply on its way, what it settles, and who settles.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) last: Last,
    pub(crate) told: Told,
    pub(crate) settler: Settler,
}

/// An open line.
#[derive(Debug, Clone)]
pub(crate) struct Line(mpsc::Sender<Post>);

impl Line {
    pub(crate) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// A place for a reply; none where it does not fit, or the line is full or over.
    pub(crate) fn place(&self, last: &Last) -> Option<mpsc::Permit<'_, Post>> {
        let fits = last.reply.as_ref().is_some_and(|(_, reply)| fits_line(reply));
        fits.then(|| self.0.try_reserve().ok()).flatten()
    }
}

/// A line over a connection, and what carries it until it ends.
pub(super) fn line(opened: Opened) -> (Line, impl Future<Output = ()>) {
    let (posts, posted) = mpsc::channel(WAITING_MAX);
    (Line(posts), carry(opened, posted))
}

async fn carry(Opened { stream, first }: Opened, mut posted: mpsc::Receiver<Post>) {
    let (reading, writing) = stream.into_split();
    let mut carrier = Carrier { out: VecDeque::new(), taken: 0, bytes: BytesMut::from(first) };
    let error = match carrier.run(reading, writing, &mut posted).await {
        Err(error) => error,
        Ok(never) => match never {},
    };
    debug!(%error, "a line is over");
    posted.close();
    let mut rest: Vec<Post> = carrier.out.into_iter().map(|(post, _)| post).collect();
    while let Some(post) = posted.recv().await {
        rest.push(post);
    }
    Settler::give_back(rest).await;
}

struct Carrier {
    /// On their way, the first sent first, and until when each is to be taken.
    out: VecDeque<(Post, Instant)>,
    /// How many the gateway has taken.
    taken: u64,
    /// What has come from the gateway.
    bytes: BytesMut,
}

impl Carrier {
    async fn run(
        &mut self,
        mut reading: OwnedReadHalf,
        mut writing: OwnedWriteHalf,
        posted: &mut mpsc::Receiver<Post>,
    ) -> Result<Infallible, LineError> {
        let mut posts = Vec::new();
        let mut looks = interval(LOOK);
        loop {
            let room = WAITING_MAX - self.out.len();
            tokio::select! {
                biased;
                read = reading.read_buf(&mut self.bytes) => {
                    if read? == 0 {
                        return Err(LineError::Ended);
                    }
                    self.hear().await?;
                }
                received = posted.recv_many(&mut posts, room), if room > 0 => {
                    if received == 0 {
                        return Err(LineError::Unused);
                    }
                    // Whoever is ready to reply does so first.
                    tokio::task::yield_now().await;
                    while posts.len() < room && let Ok(post) = posted.try_recv() {
                        posts.push(post);
                    }
                    self.send(&mut posts, &mut writing).await?;
                }
                _ = looks.tick() => {
                    if self.out.front().is_some_and(|(_, until)| *until < Instant::now()) {
                        return Err(LineError::Stuck);
                    }
                }
            }
        }
    }

    async fn send(&mut self, posts: &mut Vec<Post>, writing: &mut OwnedWriteHalf) -> Result<(), LineError> {
        let until = Instant::now() + TAKE_TIMEOUT;
        let mut buffer = BytesMut::new();
        let mut posts = posts.drain(..);
        // Whatever is not written stays behind with those that are on their way.
        let mut written = Ok(());
        while written.is_ok() && posts.len() > 0 {
            buffer.clear();
            while buffer.len() < WRITE_BYTES
                && let Some(post) = posts.next()
            {
                if let Some((_, reply)) = &post.last.reply {
                    put_on_line(reply, &mut buffer);
                }
                self.out.push_back((post, until));
            }
            written = match timeout_at(until, writing.write_all(&buffer)).await {
                Ok(written) => written.map_err(LineError::Broken),
                Err(_) => Err(LineError::Stuck),
            };
        }
        self.out.extend(posts.map(|post| (post, until)));
        written
    }

    /// Settles what the gateway says that it has taken.
    async fn hear(&mut self) -> Result<(), LineError> {
        let Some(taken) = last_taken(&mut self.bytes) else { return Ok(()) };
        let more = taken.checked_sub(self.taken).and_then(|more| usize::try_from(more).ok());
        let more = more.filter(|more| *more <= self.out.len()).ok_or(LineError::Nonsense)?;
        self.taken = taken;
        let arrived: Vec<Post> = self.out.drain(..more).map(|(post, _)| post).collect();
        Settler::arrived(arrived).await;
        Ok(())
    }
}
