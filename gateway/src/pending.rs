//! The calls that wait for an answer, by id. Pure: holds no link and no clock; whoever inserts a call takes it out.
//!
//! Which replies count: the sender must be the App's own broker user, whatever the reply says. Of the attempt under
//! way every outcome counts. Of an earlier attempt only an answer does: a call that had a second attempt is idempotent,
//! so the first answer is as good as any, while an earlier attempt's failure says nothing of the one under way.
//! A reply to an attempt that was never made is forged.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use funcatron_broker::envelope::Envelope;
use funcatron_broker::message::{Call, DecodeError, Outcome, ReadHeadError, Reply, Token, Unread};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::apps::AppCounts;
use crate::body::ReadBodyError;
use crate::core::Count;
use crate::direct::{DirectAnswer, Upload};

/// Locks that calls are spread over: far more than cores, so that two rarely meet.
const SHARDS: usize = 64;

/// What a waiting call is told.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A reply of the right sender, or why what it sent is none.
    Reply(Box<Result<Reply, DecodeError>>),
    /// No queue took the message.
    Returned,
    /// The link over which it was published is down.
    LinkLost,
    /// An answer that comes over its stream, or why what began there is none.
    Direct(Box<Result<DirectAnswer, ReadHeadError>>),
    /// Its request's body did not come whole.
    BodyLost(ReadBodyError),
}

/// What became of a reply or a returned message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Its call was told.
    Told,
    /// Nobody waits for it: late, cancelled, or of an attempt that is over.
    Late,
    /// Its sender is not who it must be, or it answers what was never asked.
    Forged,
    /// It names no call.
    Nameless,
}

#[derive(Debug)]
struct Entry {
    attempt: u32,
    /// Which link it was published over.
    epoch: u64,
    user: Arc<str>,
    tell: oneshot::Sender<Signal>,
    stream: Stream,
}

/// The stream of an attempt. Its token ends with its entry, and so with the call's answer, deadline and cancellation.
#[derive(Debug)]
enum Stream {
    /// Nobody may open one, or not again.
    Closed,
    /// Whoever has the token may open it.
    Offered(Offered),
    /// It is open, until this is dropped.
    Open(#[expect(dead_code, reason = "its end is what counts")] DropGuard),
}

/// A request's body that is not in its call's message.
#[derive(Debug)]
pub(crate) enum Beside {
    /// There is none, or it is in the message.
    Nothing,
    /// All of it is here, as often as it is asked for.
    Whole(Bytes),
    /// It comes from its client, once.
    Upload(Arc<Upload>),
}

/// What is offered to the runner of one attempt.
#[derive(Debug)]
pub(crate) struct Offered {
    pub(crate) token: Token,
    /// The request's body, where it is not in the message.
    pub(crate) beside: Beside,
    /// Whether the client asks to switch protocols.
    pub(crate) may_switch: bool,
    /// What is open for its App.
    pub(crate) counts: Arc<AppCounts>,
    /// Whether a line was opened with the token, which opens one at most.
    pub(crate) has_line: bool,
}

/// A stream that was opened with the right token.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) attempt: u32,
    pub(crate) beside: Beside,
    pub(crate) may_switch: bool,
    /// Cancelled when its attempt is over.
    pub(crate) over: CancellationToken,
    /// Its place among its App's.
    pub(crate) place: Count,
}

/// Whose a line is that was opened with the right token.
#[derive(Debug)]
pub(crate) struct Lender {
    /// The App's user at the broker, which counts as the sender of all that comes.
    pub(crate) user: Arc<str>,
    /// Its place among its App's.
    pub(crate) place: Count,
}

/// Why a stream or a line is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// No call waits with this token, or it was used.
    Void,
    /// Its App has as many as it may; the token stays good.
    Busy,
}

/// A UUIDv7's last half is random already.
#[derive(Debug, Default)]
struct RandomBits(u64);

impl Hasher for RandomBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut last = [0; 8];
        let taken = bytes.len().min(8);
        last[..taken].copy_from_slice(&bytes[bytes.len() - taken..]);
        self.0 = self.0.rotate_left(32) ^ u64::from_le_bytes(last);
    }
}

type Shard = Mutex<HashMap<Uuid, Entry, BuildHasherDefault<RandomBits>>>;

/// The calls that wait.
#[derive(Debug)]
pub(crate) struct Pending {
    shards: Box<[Shard]>,
    count: AtomicUsize,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), count: AtomicUsize::new(0) }
    }

    /// Calls that wait now.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, id: Uuid) -> &Shard {
        // The map's own hash uses the top and bottom bits of the last eight bytes.
        &self.shards[usize::from(id.as_bytes()[11]) % SHARDS]
    }

    /// Waits for the replies to one attempt; an earlier attempt's wait ends.
    pub(crate) fn insert(
        &self,
        id: Uuid,
        attempt: u32,
        epoch: u64,
        user: &Arc<str>,
        offered: Option<Offered>,
    ) -> oneshot::Receiver<Signal> {
        let (tell, told) = oneshot::channel();
        let stream = offered.map_or(Stream::Closed, Stream::Offered);
        let entry = Entry { attempt, epoch, user: Arc::clone(user), tell, stream };
        if self.shard(id).lock().insert(id, entry).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// Waits no more; says whether the call was still waiting.
    pub(crate) fn remove(&self, id: Uuid) -> bool {
        self.take(id, |_| true).is_some()
    }

    fn take(&self, id: Uuid, when: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let mut shard = self.shard(id).lock();
        let entry = shard.get(&id).is_some_and(when).then(|| shard.remove(&id)).flatten();
        if entry.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        entry
    }

    /// Tells a call of its reply, if the reply counts.
    pub(crate) fn settle(&self, reply: Result<Reply, Unread>) -> Settled {
        let (id, sender, attempt, answers) = match &reply {
            Ok(Reply { id, user_id, attempt, outcome, .. }) => {
                (Some(*id), user_id, Some(*attempt), matches!(outcome, Outcome::Answer(_)))
            }
            Err(Unread { id, user_id, attempt, .. }) => (*id, user_id, *attempt, false),
        };
        let Some(id) = id else { return Settled::Nameless };
        let mut verdict = Settled::Late;
        let entry = self.take(id.uuid(), |entry| {
            verdict = entry.judge(sender.as_deref(), attempt, answers);
            verdict == Settled::Told
        });
        let reply = || Box::new(reply.map_err(|unread| unread.reason));
        let told = entry.map(|entry| entry.tell.send(Signal::Reply(reply())));
        // A call that left a moment ago hears nothing any more.
        if told.is_some_and(|told| told.is_err()) { Settled::Late } else { verdict }
    }

    /// Opens the stream of a call's attempt, if this is its token and it was not used before.
    pub(crate) fn open(&self, id: Uuid, token: Token, app_streams_max: usize) -> Result<Opened, OpenError> {
        let mut shard = self.shard(id).lock();
        let entry = shard.get_mut(&id).ok_or(OpenError::Void)?;
        let Offered { beside, may_switch, counts, .. } = entry.offered(token).ok_or(OpenError::Void)?;
        let place = Count::up(&counts.streams, app_streams_max).ok_or(OpenError::Busy)?;
        let beside = std::mem::replace(beside, Beside::Nothing);
        let (may_switch, over) = (*may_switch, CancellationToken::new());
        entry.stream = Stream::Open(over.clone().drop_guard());
        Ok(Opened { attempt: entry.attempt, beside, may_switch, over, place })
    }

    /// Lets whoever has the token of a waiting call open one line for its App. The call's stream may still be opened.
    pub(crate) fn lend_line(
        &self,
        id: Uuid,
        token: Token,
        app_lines_max: usize,
    ) -> Result<Lender, OpenError> {
        let mut shard = self.shard(id).lock();
        let entry = shard.get_mut(&id).ok_or(OpenError::Void)?;
        let offered = entry.offered(token).filter(|offered| !offered.has_line).ok_or(OpenError::Void)?;
        let place = Count::up(&offered.counts.lines, app_lines_max).ok_or(OpenError::Busy)?;
        offered.has_line = true;
        Ok(Lender { user: Arc::clone(&entry.user), place })
    }

    /// The body of a waiting call, for whoever has its token and is of its App; any number of times, since who asks again
    /// has not got it.
    pub(crate) fn body(&self, id: Uuid, token: Token, user: &str) -> Option<Bytes> {
        let mut shard = self.shard(id).lock();
        let entry = shard.get_mut(&id).filter(|entry| *entry.user == *user)?;
        match &entry.offered(token)?.beside {
            Beside::Whole(body) => Some(body.clone()),
            Beside::Nothing | Beside::Upload(_) => None,
        }
    }

    /// Tells a call of the answer that has begun on its stream; says whether it still waited.
    pub(crate) fn settle_direct(
        &self,
        id: Uuid,
        attempt: u32,
        answer: Result<DirectAnswer, ReadHeadError>,
    ) -> bool {
        let entry = self.take(id, |entry| entry.attempt == attempt);
        entry.is_some_and(|entry| entry.tell.send(Signal::Direct(Box::new(answer))).is_ok())
    }

    /// Tells a call whatever else ends its wait.
    pub(crate) fn tell(&self, id: Uuid, signal: Signal) {
        if let Some(entry) = self.take(id, |_| true) {
            // Whoever left a moment ago hears nothing any more.
            let _ = entry.tell.send(signal);
        }
    }

    /// Tells a call that no queue took it.
    pub(crate) fn returned(&self, message: &Envelope) -> Settled {
        let id = message.properties.message_id.as_deref().and_then(|id| Uuid::try_parse(id).ok());
        let Some(id) = id else { return Settled::Nameless };
        let attempt = Call::attempt_of(message);
        let entry = self.take(id, |entry| Some(entry.attempt) == attempt);
        let told = entry.is_some_and(|entry| entry.tell.send(Signal::Returned).is_ok());
        if told { Settled::Told } else { Settled::Late }
    }

    /// Tells every call that was published over this link that it is down; says how many.
    pub(crate) fn link_lost(&self, epoch: u64) -> usize {
        let mut told = 0;
        for shard in &self.shards {
            let lost: Vec<Entry> =
                shard.lock().extract_if(|_, entry| entry.epoch == epoch).map(|(_, entry)| entry).collect();
            self.count.fetch_sub(lost.len(), Ordering::Relaxed);
            told += lost.into_iter().filter_map(|entry| entry.tell.send(Signal::LinkLost).ok()).count();
        }
        told
    }
}

impl Entry {
    /// What is offered, for whoever has the token.
    fn offered(&mut self, token: Token) -> Option<&mut Offered> {
        match &mut self.stream {
            Stream::Offered(offered) if offered.token == token => Some(offered),
            Stream::Offered(_) | Stream::Open(_) | Stream::Closed => None,
        }
    }

    fn judge(&self, sender: Option<&str>, attempt: Option<u32>, answers: bool) -> Settled {
        if sender != Some(&*self.user) {
            return Settled::Forged;
        }
        match attempt {
            // Without a readable attempt it is nonsense of the App's own; the call shall hear so rather than wait.
            None => Settled::Told,
            Some(attempt) if attempt == self.attempt => Settled::Told,
            Some(attempt) if attempt > self.attempt => Settled::Forged,
            Some(_) if answers => Settled::Told,
            Some(_) => Settled::Late,
        }
    }
}

#[cfg(test)]
mod tests {
    use funcatron_broker::envelope::{Headers, Properties};
    use funcatron_broker::message::CallId;
    use http::{HeaderMap, StatusCode};

    use super::*;

    const ANSWER: Outcome = Outcome::Answer(StatusCode::OK);

    fn reply(id: Uuid, user: Option<&str>, attempt: u32, outcome: Outcome) -> Result<Reply, Unread> {
        let (id, user_id) = (CallId::from_uuid(id), user.map(str::to_owned));
        Ok(Reply { id, user_id, attempt, outcome, headers: HeaderMap::new(), body: Bytes::new() })
    }

    fn message(id: Uuid, attempt: u32) -> Envelope {
        let mut headers = Headers::default();
        headers.insert("fn-call", format!(r#"{{"attempt":{attempt}}}"#));
        let properties = Properties { message_id: Some(id.to_string()), ..Properties::default() };
        Envelope { properties, headers, ..Envelope::default() }
    }

    fn user() -> Arc<str> {
        "i.team-a.shop".into()
    }

    const SHOP: Option<&str> = Some("i.team-a.shop");

    #[tokio::test]
    async fn a_reply_reaches_its_call_once() {
        let (pending, id) = (Pending::new(), Uuid::now_v7());
        let told = pending.insert(id, 1, 1, &user(), None);
        assert_eq!(pending.settle(reply(id, SHOP, 1, ANSWER)), Settled::Told);
        assert!(matches!(told.await.unwrap(), Signal::Reply(_)));
        assert_eq!(pending.settle(reply(id, SHOP, 1, ANSWER)), Settled::Late);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn a_forged_reply_is_refused_and_the_call_waits_on() {
        let (pending, id) = (Pending::new(), Uuid::now_v7());
        let _told = pending.insert(id, 1, 1, &user(), None);
        for sender in [None, Some(""), Some("i.team-a.shop2"), Some("i.team-b.shop")] {
            assert_eq!(pending.settle(reply(id, sender, 1, ANSWER)), Settled::Forged, "{sender:?}");
        }
        assert_eq!(pending.settle(reply(id, SHOP, 2, ANSWER)), Settled::Forged);
        assert_eq!(pending.len(), 1);
        let reason = DecodeError::Missing("correlation-id");
        let nameless = Unread { reason, id: None, user_id: SHOP.map(str::to_owned), attempt: Some(1) };
        assert_eq!(pending.settle(Err(nameless)), Settled::Nameless);
    }

    #[test]
    fn of_an_earlier_attempt_only_an_answer_counts() {
        let (pending, id) = (Pending::new(), Uuid::now_v7());
        let _first = pending.insert(id, 1, 1, &user(), None);
        let mut second = pending.insert(id, 2, 1, &user(), None);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.settle(reply(id, SHOP, 1, Outcome::RunnerLost)), Settled::Late);
        assert_eq!(pending.returned(&message(id, 1)), Settled::Late);
        assert!(second.try_recv().is_err());
        assert_eq!(pending.settle(reply(id, SHOP, 1, ANSWER)), Settled::Told);
        assert!(matches!(second.try_recv(), Ok(Signal::Reply(_))));
    }

    #[test]
    fn a_returned_message_is_told_to_its_own_attempt() {
        let (pending, id) = (Pending::new(), Uuid::now_v7());
        let mut told = pending.insert(id, 2, 1, &user(), None);
        assert_eq!(pending.returned(&message(id, 2)), Settled::Told);
        assert!(matches!(told.try_recv(), Ok(Signal::Returned)));
        assert!(!pending.remove(id));
    }

    #[test]
    fn a_lost_link_is_told_to_its_own_calls_alone() {
        let pending = Pending::new();
        let mut over: Vec<_> =
            (0..200).map(|_| pending.insert(Uuid::now_v7(), 1, 1, &user(), None)).collect();
        let mut other = pending.insert(Uuid::now_v7(), 1, 2, &user(), None);
        assert_eq!((pending.link_lost(1), pending.len()), (200, 1));
        assert!(over.iter_mut().all(|told| matches!(told.try_recv(), Ok(Signal::LinkLost))));
        assert!(other.try_recv().is_err());
    }
}
