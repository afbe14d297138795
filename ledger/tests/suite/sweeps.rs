//! What the sweep does with what is too old, too much, or silent.

use funcatron_broker::message::{CallId, Ended, Verdict};
use funcatron_ledger::state::Status;
use funcatron_ledger::store::{Entry, Keep, Outcome, Store, Swept};

use super::rules::{HOUR_MS, numbers, read};
use super::*;

const KEEP: Keep = Keep {
    retention_ms: HOUR_MS,
    calls_per_app_max: i64::MAX,
    bytes_per_app_max: i64::MAX,
    claims_per_app_max: i64::MAX,
};

const EIGHT_DAYS_MS: u64 = 8 * 24 * HOUR_MS;

pub(crate) async fn a_call_of_which_nothing_is_heard_ends_as_dead(store: Store) {
    let (waits, runs, done) = (CallId::fresh(), CallId::fresh(), CallId::fresh());
    let over = ended(done, T0 + EIGHT_DAYS_MS, 1, Ended::Success, true);
    write(&store, [queued(waits, T0), queued(runs, T0), started(runs, T0 + 7, 1), over]).await;
    assert_eq!(store.sweep(T0 + EIGHT_DAYS_MS, &KEEP).await.unwrap(), Swept::default());
    let swept = store.sweep(T0 + EIGHT_DAYS_MS + 1, &KEEP).await.unwrap();
    assert_eq!(swept, Swept { given_up: 1, ..Swept::default() });
    let state = read(&store, waits).await.unwrap().state;
    assert_eq!((state.status, state.completed_ms), (Status::Dead, Some(T0 + EIGHT_DAYS_MS + 1)));
    assert_eq!(state.reason.as_deref(), Some("nothing was heard of it for 8 days"));
    assert_eq!(read(&store, runs).await.unwrap().state.status, Status::Running);
    // Its end is a terminal state like any other, and it is kept as long.
    write(&store, [ended(waits, T0 + EIGHT_DAYS_MS + 2, 1, Ended::Success, true)]).await;
    assert_eq!(read(&store, waits).await.unwrap().state.status, Status::Dead);
    let later = store.sweep(T0 + EIGHT_DAYS_MS + HOUR_MS + 2, &KEEP).await.unwrap();
    assert_eq!(later, Swept { forgotten: 2, given_up: 1, ..Swept::default() });
    assert_eq!(read(&store, waits).await, None);
}

pub(crate) async fn an_app_has_so_many_calls_whether_they_have_ended_or_not(store: Store) {
    write(&store, (0..700).map(|_| started(CallId::fresh(), T0, 1))).await;
    write(&store, [ended(CallId::fresh(), T0, 1, Ended::Success, true)]).await;
    let other = CallId::fresh();
    write(&store, [CallEvent { app: "other".into(), ..started(other, T0, 1) }]).await;
    let keep = Keep { calls_per_app_max: 3, ..KEEP };
    let swept = store.sweep(T0, &keep).await.unwrap();
    assert_eq!(swept, Swept { forgotten: 698, ..Swept::default() });
    assert_eq!(numbers(&store).await, [701, 700, 699]);
    assert!(store.call_by_id(other).await.unwrap().is_some());
}

fn with_log(id: CallId, attempt: u32, bytes: usize) -> CallEvent {
    let mut event = ended(id, T0, attempt, Ended::Error, false);
    let Happened::Ended { log, .. } = &mut event.happened else { unreachable!() };
    *log = Some("x".repeat(bytes));
    event
}

pub(crate) async fn what_the_oldest_calls_weigh_makes_room_and_their_rows_say_so(store: Store) {
    let ids: Vec<CallId> = (0..4).map(|_| CallId::fresh()).collect();
    let other = CallId::fresh();
    for id in &ids {
        // What comes twice is there once.
        for _ in 0..2 {
            write(&store, [queued(*id, T0), with_log(*id, 1, 10_000)]).await;
        }
    }
    write(&store, [CallEvent { app: "other".into(), ..with_log(other, 1, 16_000) }]).await;
    let whole = read(&store, ids[2]).await.unwrap();
    let keep = Keep { bytes_per_app_max: 25_000, ..KEEP };
    let swept = store.sweep(T0, &keep).await.unwrap();
    assert_eq!(swept, Swept { trimmed: 2, ..Swept::default() });
    for id in &ids[..2] {
        let call = read(&store, *id).await.unwrap();
        assert!(call.is_trimmed && call.request.is_none() && call.answer.is_none());
        assert_eq!((call.state.attempts, call.state.status), (1, Status::Queued), "its row stays");
        assert!(store.logs(*id).await.unwrap().attempts.is_empty());
    }
    assert_eq!(read(&store, ids[2]).await, Some(whole));
    for id in [ids[2], ids[3], other] {
        assert_eq!(store.logs(id).await.unwrap().attempts.len(), 1);
        assert!(!store.call_by_id(id).await.unwrap().unwrap().is_trimmed);
    }
    assert_eq!(store.sweep(T0, &keep).await.unwrap(), Swept::default(), "what is left has room");
    write(&store, [with_log(ids[0], 2, 10_000)]).await;
    assert_eq!(store.sweep(T0, &keep).await.unwrap().trimmed, 1, "what comes later is weighed too");
}

pub(crate) async fn an_app_has_so_many_claims(store: Store) {
    let ids: Vec<CallId> = (0..5).map(|_| CallId::fresh()).collect();
    let at = |id: CallId, claimant: &str, at_ms: u64| {
        let Entry::Claim(claim, _) = claim(id, 1, claimant) else { unreachable!() };
        Entry::Claim(claim, at_ms)
    };
    let claims: Vec<Entry> = ids.iter().zip(T0..).map(|(id, at_ms)| at(*id, "a", at_ms)).collect();
    store.apply(&claims).await.unwrap();
    store.sweep(T0, &Keep { claims_per_app_max: 3, ..KEEP }).await.unwrap();
    let asked: Vec<Entry> = ids.iter().map(|id| at(*id, "b", T0)).collect();
    let words = store.apply(&asked).await.unwrap();
    let (run, duplicate) = (Outcome::Claimed(Verdict::Run), Outcome::Claimed(Verdict::Duplicate));
    assert_eq!(words, [run, run, duplicate, duplicate, duplicate], "the newest are kept");
}

pub(crate) async fn of_many_logs_the_last_are_shown(store: Store) {
    let id = CallId::fresh();
    write(&store, (1..=20).map(|attempt| with_log(id, attempt, 16 * 1024))).await;
    let logs = store.logs(id).await.unwrap();
    let shown: Vec<u32> = logs.attempts.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!((shown, logs.left_out), ((5..=20).collect(), 4));
}
