//! Lines to gateways: over one connection to each go the replies to its calls, which then cost the broker nothing.
//!
//! Owns which gateways have a line, and opens one in the background with what a call offers; until it is open, and
//! wherever there is none, replies go through the broker. Never accepts a connection.

mod carry;
mod open;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use funcatron_broker::message::{CallId, Offer, Token};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use carry::{Line, Post};

/// Gateways that are known at once: far more than an installation has; one that is unknown is answered through the
/// broker.
const GATEWAYS_MAX: usize = 256;
/// A gateway that has no line for this runner, or does not take what comes over it, is asked again after this long.
const AGAIN: Duration = Duration::from_secs(5);

/// What opens a line: a call that its gateway waits for, and its token.
type Opener = (CallId, Token);

/// Lines to all gateways that have called.
#[derive(Debug)]
pub(crate) struct Lines {
    known: Mutex<HashMap<String, State>>,
    ended: CancellationToken,
    _end: DropGuard,
    tasks: TaskTracker,
}

#[derive(Debug)]
enum State {
    /// Somebody opens it, with the next call that comes.
    Opening(mpsc::Sender<Opener>),
    Open(Line),
    /// There is none until then.
    Without(Instant),
}

impl Lines {
    pub(crate) fn new() -> Arc<Self> {
        let ended = CancellationToken::new();
        Arc::new(Self {
            known: Mutex::default(),
            _end: ended.clone().drop_guard(),
            ended,
            tasks: TaskTracker::new(),
        })
    }

    /// The line to the gateway that offers, if it is open. A call that finds none helps to open one.
    pub(crate) fn to(self: &Arc<Self>, id: CallId, offer: &Offer) -> Option<Line> {
        let mut known = self.known.lock();
        match known.get(&offer.at) {
            Some(State::Open(line)) if line.is_open() => return Some(line.clone()),
            Some(State::Opening(openers)) if !openers.is_closed() => {
                // Full, there is another call to open it with.
                let _ = openers.try_send((id, offer.token));
                return None;
            }
            Some(State::Without(until)) if Instant::now() < *until => return None,
            Some(_) => {}
            None if known.len() >= GATEWAYS_MAX => {
                forget(&mut known);
                return None;
            }
            None => {}
        }
        let (openers, opener) = mpsc::channel(1);
        known.insert(offer.at.clone(), State::Opening(openers));
        drop(known);
        let (lines, at, ended) = (Arc::downgrade(self), offer.at.clone(), self.ended.clone());
        self.tasks.spawn(keep(lines, at, opener, ended));
        None
    }

    /// Ends all lines; comes back when whatever they did not bring to its end is with its settler again.
    pub(crate) async fn end(&self) {
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn leave_alone(&self, at: &str) {
        self.set(at, State::Without(Instant::now() + AGAIN));
    }

    fn set(&self, at: &str, state: State) {
        self.known.lock().insert(at.to_owned(), state);
    }
}

/// Makes room by what is of no use.
fn forget(known: &mut HashMap<String, State>) {
    let now = Instant::now();
    known.retain(|_, state| match state {
        State::Open(line) => line.is_open(),
        State::Without(until) => now < *until,
        State::Opening(openers) => !openers.is_closed(),
    });
}

/// Opens a line, and carries over it until it ends.
async fn keep(lines: Weak<Lines>, at: String, openers: mpsc::Receiver<Opener>, ended: CancellationToken) {
    let Some(opened) = ended.run_until_cancelled(open::open(&at, openers)).await else { return };
    let Some(lines) = lines.upgrade() else { return };
    let Some(connection) = opened else { return lines.leave_alone(&at) };
    let (of, gateway) = (Arc::downgrade(&lines), at.clone());
    let (line, carrying) = carry::line(connection, ended, move || {
        of.upgrade().iter().for_each(|lines| lines.leave_alone(&gateway));
    });
    lines.set(&at, State::Open(line));
    drop(lines);
    carrying.await;
}
