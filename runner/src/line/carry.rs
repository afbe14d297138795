//! A line that is open: replies go out and bodies come in. Each reply is kept until the gateway has said that it took it.
//!
//! A delivery is settled only then, so that it is never lost with this process, this connection or its gateway: what a
//! line did not bring to its end goes back to its settler, which sends it through the broker. Never settles a delivery.
//!
//! Reading never waits for writing: a gateway that waits for room to send us a body takes no reply meanwhile.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use funcatron_broker::message::{
    CallId, FrameError, FromGateway, Token, fits_line, put_reply, put_want, take_from_gateway,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::open::Opened;
use crate::settler::{Last, Settler, Told};

/// Replies on their way at once, and orders that wait to be written; beyond it replies go through the broker. More than a
/// runner has slots.
const WAITING_MAX: usize = 1_024;
/// Written together, but for the reply that goes beyond it.
const WRITE_BYTES: usize = 128 << 10;
/// Read at once, where a frame does not need more.
const READ_BYTES: usize = 16 << 10;
/// A gateway answers within milliseconds. One that has not by then may be gone without a word, and nobody shall wait much
/// longer for what another way still brings.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Why a line ends.
#[derive(Debug, Error)]
enum LineError {
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the gateway has ended it")]
    Ended,
    #[error("nobody has a use for it any more")]
    Unused,
    #[error("the gateway takes nothing")]
    Stuck,
    #[error("the gateway has taken more than was sent")]
    Nonsense,
}

impl LineError {
    /// Whether another line to this gateway would fare no better.
    const fn is_the_gateways(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Ended | Self::Unused => false,
            Self::Frame(_) | Self::Stuck | Self::Nonsense => true,
        }
    }
}

/// A reply on its way, what it settles, and who settles.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) last: Box<Last>,
    pub(crate) told: Told,
    pub(crate) settler: Settler,
}

/// What is to be written.
#[derive(Debug)]
enum Order {
    Reply(Post),
    Want(CallId, Token, oneshot::Sender<Bytes>),
}

/// An open line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    orders: mpsc::Sender<Order>,
    /// Replies that are not taken yet.
    waiting: Arc<AtomicUsize>,
}

/// A place for one reply.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Order>);

impl Place<'_> {
    pub(crate) fn take(self, post: Post) {
        self.0.send(Order::Reply(post));
    }
}

impl Line {
    pub(crate) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// A place for a reply; none where it does not fit, or the line is full or over.
    pub(crate) fn place(&self, last: &Last) -> Option<Place<'_>> {
        let fits = last.reply.as_ref().is_some_and(|(_, reply)| fits_line(reply));
        let has_room = self.waiting.load(Ordering::Relaxed) < WAITING_MAX;
        (fits && has_room).then(|| self.orders.try_reserve().ok().map(Place)).flatten()
    }

    /// Fetches a call's body; none where the gateway has none to give, or the line does not bring it in time.
    pub(crate) async fn fetch(&self, id: CallId, token: Token) -> Option<Bytes> {
        let (tell, told) = oneshot::channel();
        self.orders.try_send(Order::Want(id, token, tell)).ok()?;
        timeout(TAKE_TIMEOUT, told).await.ok()?.ok()
    }
}

/// A line over a connection, and what carries it until it ends; that tells first where the gateway is to be left alone.
pub(super) fn line(
    opened: Opened,
    stop: CancellationToken,
    leave_alone: impl FnOnce(),
) -> (Line, impl Future<Output = ()>) {
    let (orders, ordered) = mpsc::channel(WAITING_MAX);
    let waiting = Arc::<AtomicUsize>::default();
    let carrier = Carrier {
        ordered: Mutex::default(),
        out: Mutex::default(),
        wanted: Mutex::default(),
        waiting: Arc::clone(&waiting),
    };
    (Line { orders, waiting }, carrier.carry(opened, ordered, stop, leave_alone))
}

struct Carrier {
    /// Taken over, and not written yet.
    ordered: Mutex<VecDeque<Order>>,
    /// Replies on their way, the first sent first, and until when each is to be taken.
    out: Mutex<VecDeque<(Post, Instant)>>,
    /// Who waits for a body.
    wanted: Mutex<HashMap<CallId, oneshot::Sender<Bytes>>>,
    waiting: Arc<AtomicUsize>,
}

impl Carrier {
    async fn carry(
        self,
        Opened { stream, first }: Opened,
        mut ordered: mpsc::Receiver<Order>,
        stop: CancellationToken,
        leave_alone: impl FnOnce(),
    ) {
        let (reading, writing) = stream.into_split();
        let ended = tokio::select! {
            ended = self.read(reading, BytesMut::from(first)) => ended,
            ended = self.write(writing, &mut ordered) => ended,
            () = stop.cancelled() => Err(LineError::Unused),
        };
        let error = match ended {
            Err(error) => error,
            Ok(never) => match never {},
        };
        debug!(%error, "a line is over");
        if error.is_the_gateways() {
            leave_alone();
        }
        ordered.close();
        let mut rest: Vec<Post> = self.out.lock().drain(..).map(|(post, _)| post).collect();
        let mut unwritten = std::mem::take(&mut *self.ordered.lock());
        while let Some(order) = ordered.recv().await {
            unwritten.push_back(order);
        }
        rest.extend(unwritten.into_iter().filter_map(|order| match order {
            Order::Reply(post) => Some(post),
            Order::Want(..) => None,
        }));
        Settler::give_back(rest).await;
    }

    async fn write(
        &self,
        mut writing: OwnedWriteHalf,
        ordered: &mut mpsc::Receiver<Order>,
    ) -> Result<Infallible, LineError> {
        let (mut orders, mut buffer) = (Vec::new(), BytesMut::new());
        loop {
            if ordered.recv_many(&mut orders, WAITING_MAX).await == 0 {
                return Err(LineError::Unused);
            }
            // Whoever is cut off in a wait loses nothing that is kept here.
            self.ordered.lock().extend(orders.drain(..));
            // Whoever is ready to reply does so first.
            tokio::task::yield_now().await;
            while let Ok(order) = ordered.try_recv() {
                self.ordered.lock().push_back(order);
            }
            let until = Instant::now() + TAKE_TIMEOUT;
            while self.put_some(until, &mut buffer) {
                let written = timeout_at(until, writing.write_all_buf(&mut buffer)).await;
                written.map_err(|_| LineError::Stuck)??;
            }
        }
    }

    /// Puts as much as is written together; says whether there was anything.
    fn put_some(&self, until: Instant, buffer: &mut BytesMut) -> bool {
        let mut ordered = self.ordered.lock();
        while buffer.len() < WRITE_BYTES
            && let Some(order) = ordered.pop_front()
        {
            self.put(order, until, buffer);
        }
        !buffer.is_empty()
    }

    fn put(&self, order: Order, until: Instant, buffer: &mut BytesMut) {
        match order {
            Order::Reply(post) => {
                if let Some((_, reply)) = &post.last.reply {
                    put_reply(reply, buffer);
                }
                self.waiting.fetch_add(1, Ordering::Relaxed);
                self.out.lock().push_back((post, until));
            }
            Order::Want(id, token, tell) => {
                put_want(id, token, buffer);
                self.wanted.lock().insert(id, tell);
            }
        }
    }

    async fn read(&self, mut reading: OwnedReadHalf, mut bytes: BytesMut) -> Result<Infallible, LineError> {
        let (mut looks, mut taken) = (interval(LOOK), 0);
        loop {
            while let Some(frame) = take_from_gateway(&mut bytes)? {
                match frame {
                    FromGateway::Taken(count) => {
                        let arrived = self.taken(count.checked_sub(taken).ok_or(LineError::Nonsense)?)?;
                        taken = count;
                        Settler::arrived(arrived);
                    }
                    FromGateway::Body(id, body) => {
                        let wanted = self.wanted.lock().remove(&id);
                        if let Some((wanted, body)) = wanted.zip(body) {
                            // Whoever waited long enough is not there any more.
                            let _ = wanted.send(body);
                        }
                    }
                }
            }
            bytes.reserve(READ_BYTES);
            tokio::select! {
                biased;
                read = reading.read_buf(&mut bytes) => {
                    if read? == 0 {
                        return Err(LineError::Ended);
                    }
                }
                _ = looks.tick() => self.look()?,
            }
        }
    }

    /// Takes out what the gateway says that it has taken.
    fn taken(&self, more: u64) -> Result<Vec<Post>, LineError> {
        let mut out = self.out.lock();
        let more = usize::try_from(more).ok().filter(|more| *more <= out.len()).ok_or(LineError::Nonsense)?;
        self.waiting.fetch_sub(more, Ordering::Relaxed);
        Ok(out.drain(..more).map(|(post, _)| post).collect())
    }

    /// Whether the gateway takes what it is sent. Forgets who waited for a body in vain.
    fn look(&self) -> Result<(), LineError> {
        self.wanted.lock().retain(|_, wanted| !wanted.is_closed());
        match self.out.lock().front() {
            Some((_, until)) if *until < Instant::now() => Err(LineError::Stuck),
            Some(_) | None => Ok(()),
        }
    }
}
