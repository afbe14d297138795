//! Gives askers their replies and the broker its last words, for many deliveries at a time.
//!
//! A reply goes over the line to its gateway, where there is one, else through the broker. What is ready together leaves
//! together: replies to one gateway in one message, acknowledgements in one word. A delivery is acknowledged only once its
//! reply is with the gateway or has left this process for the broker, so that it is never lost with it. While its runner
//! could take more, that waits a moment for the next, since a word of its own costs as much as theirs.

use std::sync::Arc;
use std::time::Duration;

use funcatron_broker::link::{Delivery, Link, LinkError, Target};
use funcatron_broker::message::{self, Outcome, Packed, Reply};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::durable::Next;
use crate::line::{Line, Post};
use crate::session::Identity;

/// Deliveries that are settled together; more of them wait for the next turn.
const TOGETHER_MAX: usize = 256;

/// How long an acknowledgement waits for company, far below anybody's timeout.
const ACK_WAIT_MAX: Duration = Duration::from_millis(5);

/// What the broker is told of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastWord {
    Ack,
    TryAgain,
    DeadLetter,
    /// It was not begun, and may be elsewhere.
    GiveBack,
}

impl From<Next> for LastWord {
    fn from(next: Next) -> Self {
        match next {
            Next::Done => Self::Ack,
            Next::Again => Self::TryAgain,
            Next::Dead => Self::DeadLetter,
        }
    }
}

/// One delivery's settlement.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) delivery: Delivery,
    pub(crate) word: LastWord,
    /// A reply, and the queue it goes to.
    pub(crate) reply: Option<(String, Reply)>,
}

/// Told when a delivery is settled as far as it takes.
pub(crate) type Told = oneshot::Sender<()>;

#[derive(Debug)]
enum Task {
    /// Settle, then tell.
    Settle(Box<Last>, Told),
    /// Acknowledge what a gateway has its replies of, and tell.
    Arrived(Vec<(Delivery, Told)>),
    /// Say what waits to be said, then tell.
    Finish(Told),
}

/// Settles over one link; over with the last of its clones.
#[derive(Debug, Clone)]
pub(crate) struct Settler(mpsc::Sender<Task>);

impl Settler {
    /// Settles over `link` until nobody needs it.
    pub(crate) fn start(identity: Arc<Identity>, link: Arc<dyn Link>) -> Self {
        let (tell, told) = mpsc::channel(TOGETHER_MAX);
        tokio::spawn(Desk { identity, link, waiting: Vec::new(), wait_until: None }.run(told));
        Self(tell)
    }

    /// Comes back when the reply has left and the last word will follow, or when the link is down and gives the
    /// delivery to another. A reply goes over the line where it can.
    pub(crate) async fn settle(&self, last: Box<Last>, line: Option<Line>) {
        let place = line.as_ref().filter(|_| last.word == LastWord::Ack).and_then(|line| line.place(&last));
        let Some(place) = place else { return self.have_done(|done| Task::Settle(last, done)).await };
        let (told, settled) = oneshot::channel();
        place.take(Post { last, told, settler: self.clone() });
        // An error is the link's end.
        let _ = settled.await;
    }

    /// Settles what came to its end on a line. Never waits, so that nobody who is cut off takes a settlement along.
    pub(crate) fn arrived(posts: Vec<Post>) {
        let mut posts = posts.into_iter().peekable();
        while let Some(Post { last, told, settler }) = posts.next() {
            let mut together = vec![(last.delivery, told)];
            let same = |post: &Post| post.settler.0.same_channel(&settler.0);
            while let Some(Post { last, told, .. }) = posts.next_if(same) {
                together.push((last.delivery, told));
            }
            // A closed channel is the link's end.
            if let Err(TrySendError::Full(task)) = settler.0.try_send(Task::Arrived(together)) {
                tokio::spawn(async move { settler.0.send(task).await });
            }
        }
    }

    /// Settles through the broker what did not.
    pub(crate) async fn give_back(posts: Vec<Post>) {
        for Post { last, told, settler } in posts {
            // An error is the link's end.
            let _ = settler.0.send(Task::Settle(last, told)).await;
        }
    }

    /// Comes back when no last word waits to be said.
    pub(crate) async fn finish(&self) {
        self.have_done(Task::Finish).await;
    }

    async fn have_done(&self, task: impl FnOnce(oneshot::Sender<()>) -> Task) {
        let (done, settled) = oneshot::channel();
        if self.0.send(task(done)).await.is_ok() {
            // An error is the link's end.
            let _ = settled.await;
        }
    }
}

struct Desk {
    identity: Arc<Identity>,
    link: Arc<dyn Link>,
    /// To be acknowledged, …
    waiting: Vec<Delivery>,
    /// … at the latest now.
    wait_until: Option<Instant>,
}

impl Desk {
    async fn run(mut self, mut told: mpsc::Receiver<Task>) {
        let mut tasks = Vec::new();
        loop {
            let receiving = told.recv_many(&mut tasks, TOGETHER_MAX);
            let received = match self.wait_until {
                Some(until) => timeout_at(until, receiving).await,
                None => Ok(receiving.await),
            };
            let settled = match received {
                Err(_) => self.ack().await,
                Ok(0) => {
                    // Whoever waited for these has been answered; the link may be gone as well.
                    let _ = self.ack().await;
                    return;
                }
                Ok(_) => {
                    // Whoever is ready to settle does so first.
                    tokio::task::yield_now().await;
                    while tasks.len() < TOGETHER_MAX
                        && let Ok(task) = told.try_recv()
                    {
                        tasks.push(task);
                    }
                    self.work(std::mem::take(&mut tasks)).await
                }
            };
            if let Err(error) = settled {
                debug!(%error, "deliveries not settled");
            }
        }
    }

    async fn work(&mut self, tasks: Vec<Task>) -> Result<(), LinkError> {
        let Sorted { mut lasts, arrived, done, finish } = sort(tasks);
        for (reply_to, replies) in by_asker(&mut lasts) {
            heard(self.reply(&reply_to, replies).await)?;
        }
        // Those whose replies left before; with these replies they cost nothing.
        heard(self.ack().await)?;
        self.link.flush().await?;
        let mut soon = !finish;
        for delivery in arrived {
            soon &= delivery.leaves_room();
            self.waiting.push(delivery);
        }
        for Last { delivery, word, .. } in lasts {
            match word {
                LastWord::Ack => {
                    soon &= delivery.leaves_room();
                    self.waiting.push(delivery);
                }
                LastWord::TryAgain => heard(delivery.reject(true).await)?,
                LastWord::DeadLetter => heard(delivery.reject(false).await)?,
                LastWord::GiveBack => heard(delivery.give_back().await)?,
            }
        }
        if soon {
            self.wait_until = (!self.waiting.is_empty()).then(|| Instant::now() + ACK_WAIT_MAX);
        } else {
            heard(self.ack().await)?;
        }
        for tell in done {
            // Whoever was told to stop waits no more.
            let _ = tell.send(());
        }
        Ok(())
    }

    async fn ack(&mut self) -> Result<(), LinkError> {
        self.wait_until = None;
        Delivery::ack_all(self.waiting.drain(..)).await
    }

    async fn reply(&self, reply_to: &str, replies: Vec<Reply>) -> Result<(), LinkError> {
        let Packed { alone, together } = message::pack(self.identity.names.user(), replies);
        let to = Target::exchange(&self.identity.replies, reply_to);
        for message in together {
            self.link.publish(to, message, false).await?;
        }
        for reply in alone {
            self.reply_alone(to, reply).await?;
        }
        Ok(())
    }

    /// A reply that cannot be carried is one of failure. The call has run: giving it to another would run it twice.
    async fn reply_alone(&self, to: Target<'_>, reply: Reply) -> Result<(), LinkError> {
        let (id, attempt) = (reply.id, reply.attempt);
        let refused = match reply.into_envelope() {
            Ok(envelope) => match self.link.publish(to, envelope, false).await {
                Err(LinkError::Unsendable(why)) => why,
                sent => return sent,
            },
            Err(error) => error.to_string(),
        };
        warn!(call = %id, reason = refused, "an answer cannot be carried");
        let words = format!("the function's answer cannot be carried: {refused}");
        let user_id = self.identity.names.user();
        let failed = Reply::without_answer(id, user_id, attempt, Outcome::Failed, words).into_envelope();
        let failed = failed.map_err(|error| LinkError::Unsendable(error.to_string()))?;
        self.link.publish(to, failed, false).await
    }
}

/// Tasks, by what is to be done.
#[derive(Default)]
struct Sorted {
    lasts: Vec<Last>,
    /// Their replies have arrived already.
    arrived: Vec<Delivery>,
    done: Vec<Told>,
    finish: bool,
}

fn sort(tasks: Vec<Task>) -> Sorted {
    let mut sorted = Sorted::default();
    for task in tasks {
        match task {
            Task::Settle(last, tell) => {
                sorted.lasts.push(*last);
                sorted.done.push(tell);
            }
            Task::Arrived(settled) => {
                for (delivery, tell) in settled {
                    sorted.arrived.push(delivery);
                    sorted.done.push(tell);
                }
            }
            Task::Finish(tell) => {
                sorted.finish = true;
                sorted.done.push(tell);
            }
        }
    }
    sorted
}

/// Passes on the link's end alone: what went wrong with one delivery is not the others' affair.
fn heard(said: Result<(), LinkError>) -> Result<(), LinkError> {
    match said {
        Err(error @ LinkError::Closed(_)) => Err(error),
        Err(error) => {
            warn!(%error, "a delivery is not settled");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Takes the replies out, those to one queue together.
fn by_asker(lasts: &mut [Last]) -> Vec<(String, Vec<Reply>)> {
    let mut askers: Vec<(String, Vec<Reply>)> = Vec::new();
    for (reply_to, reply) in lasts.iter_mut().filter_map(|last| last.reply.take()) {
        match askers.iter_mut().find(|(known, _)| *known == reply_to) {
            Some((_, replies)) => replies.push(reply),
            None => askers.push((reply_to, vec![reply])),
        }
    }
    askers
}
