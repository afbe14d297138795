//! What is decided when a call ends, and who delivers it.

use std::time::Duration;

use funcatron_broker::message::{CallId, CallbackTarget, Ended, FnEvent, Happened};
use funcatron_ledger::state::CallbackKind;
use funcatron_ledger::store::{CallbackStatus, Entry, Keep, Outcome, Settled, Store, WaitingApp};

use super::rules::HOUR_MS;
use super::*;

const MINUTE_MS: u64 = 60_000;

pub(crate) fn function(at_ms: u64, name: &str) -> FnEvent {
    FnEvent {
        user_id: None,
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: name.into(),
        at_ms,
        url: format!("http://gateway/invoke/team-a/{name}"),
        timeout_ms: 5_000,
        attempts_max: Some(3),
        age_max_ms: None,
        on_success: None,
        on_failure: None,
        deleted: false,
    }
}

/// `mail` tells both of its ends.
fn mail(at_ms: u64) -> Entry {
    Entry::Fn(FnEvent {
        on_success: Some(CallbackTarget::Fn("thank".into())),
        on_failure: Some(CallbackTarget::Url("https://example.com/failed?key=secret".into())),
        ..function(at_ms, "mail")
    })
}

/// A call that nobody waits for and that has ended so.
async fn ended_call(store: &Store, outcome: Ended) -> CallId {
    let id = CallId::fresh();
    write(store, [queued(id, T0), started(id, T0, 1), ended(id, T0 + 1, 1, outcome, true)]).await;
    id
}

async fn shop(store: &Store) -> Option<WaitingApp> {
    let mut apps = store.apps_with_callbacks().await.unwrap();
    assert!(apps.len() <= 1);
    apps.pop()
}

/// Kind, status, attempts.
async fn seen(store: &Store, id: CallId) -> Vec<(CallbackKind, CallbackStatus, u32)> {
    let callbacks = store.callbacks(id).await.unwrap();
    callbacks.into_iter().map(|shown| (shown.kind, shown.status, shown.attempts)).collect()
}

pub(crate) async fn an_end_is_told_once_however_often_it_is_heard(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let won = ended_call(&store, Ended::Success).await;
    let lost = ended_call(&store, Ended::Error).await;
    let late = ended_call(&store, Ended::Timeout).await;
    let dead = CallId::fresh();
    let gave_up = event(dead, T0 + 2, Happened::Dead { reason: "tried often enough".into() });
    write(&store, [gave_up.clone(), queued(dead, T0), gave_up]).await;
    for id in [won, lost, late, dead] {
        write(&store, [ended(id, T0 + 9, 1, Ended::Success, true), queued(id, T0)]).await;
    }
    let (success, failure) = (CallbackKind::Success, CallbackKind::Failure);
    for (id, kind) in [(won, success), (lost, failure), (late, failure), (dead, failure)] {
        assert_eq!(seen(&store, id).await, [(kind, CallbackStatus::Waiting, 0)], "{id}");
    }
    assert_eq!(store.callbacks(won).await.unwrap()[0].target, "thank");
    assert_eq!(store.callbacks(lost).await.unwrap()[0].target, "https://example.com/failed");
    let app = shop(&store).await.unwrap();
    assert_eq!((&*app.namespace, &*app.app, app.waiting, app.due_ms), ("team-a", "shop", 4, T0 + 1));
}

pub(crate) async fn who_waited_who_cancelled_and_who_was_not_asked_tell_nobody(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let taken_back = CallId::fresh();
    write(&store, [queued(taken_back, T0), event(taken_back, T0, Happened::Cancelled)]).await;
    let waited = CallId::fresh();
    let request = RecordedRequest { age_max_ms: None, ..request() };
    let sync = Happened::Queued { source: Source::Http, request: Some(Box::new(request)), retry_of: None };
    write(&store, [event(waited, T0, sync), ended(waited, T0, 1, Ended::Error, true)]).await;
    let callback = CallId::fresh();
    let queued_callback = Happened::Queued { source: Source::Callback, request: None, retry_of: None };
    write(&store, [event(callback, T0, queued_callback), ended(callback, T0, 1, Ended::Success, true)]).await;
    let other = CallId::fresh();
    let others = [queued(other, T0), ended(other, T0, 1, Ended::Success, true)];
    write(&store, others.map(|event| CallEvent { fn_name: "quiet".into(), ..event })).await;
    for id in [taken_back, waited, callback, other] {
        assert_eq!(seen(&store, id).await, [], "{id}");
    }
    assert_eq!(shop(&store).await, None);
}

pub(crate) async fn an_older_word_of_a_fn_does_not_count(store: Store) {
    let quiet = Entry::Fn(function(T0 + 2, "mail"));
    let outcomes = store.apply(&[mail(T0 + 1), quiet, mail(T0)]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Kept, Outcome::Kept, Outcome::Nothing]);
    let id = ended_call(&store, Ended::Success).await;
    assert_eq!(seen(&store, id).await, []);
    let known = store.known_fn("team-a", "shop", "mail").await.unwrap().unwrap();
    assert_eq!((&*known.url, known.timeout_ms), ("http://gateway/invoke/team-a/mail", 5_000));
    assert_eq!((known.attempts_max, known.age_max_ms), (Some(3), None));
    let gone = Entry::Fn(FnEvent { deleted: true, ..function(T0 + 3, "mail") });
    store.apply(&[gone]).await.unwrap();
    assert_eq!(store.known_fn("team-a", "shop", "mail").await.unwrap(), None);
}

pub(crate) async fn a_callback_is_one_holders_until_its_lease_ends(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let id = ended_call(&store, Ended::Success).await;
    let app = shop(&store).await.unwrap();
    let early = store.take_callbacks(&app, T0, T0 + MINUTE_MS, 9).await.unwrap();
    assert_eq!(early, [], "it is not due before its call has ended");
    let (now, until) = (T0 + 5, T0 + 5 + MINUTE_MS);
    let first = store.take_callbacks(&app, now, until, 9).await.unwrap().pop().unwrap();
    assert_eq!((first.call, first.kind, first.attempt), (id, CallbackKind::Success, 1));
    assert_eq!(first.target, CallbackTarget::Fn("thank".into()));
    assert_eq!(store.take_callbacks(&app, until - 1, until, 9).await.unwrap(), []);
    let second = store.take_callbacks(&app, until, until + MINUTE_MS, 9).await.unwrap().pop().unwrap();
    assert_eq!(second.attempt, 2);
    let again = Settled {
        status: CallbackStatus::Waiting,
        attempts: 2,
        error: Some("it answered 503\0".into()),
        due_ms: Some(until + 7),
    };
    let taken = Settled { status: CallbackStatus::Delivered, attempts: 1, error: None, due_ms: None };
    assert!(!store.settle_callback(&first, &taken, until).await.unwrap(), "its lease has ended");
    assert!(store.settle_callback(&second, &again, until).await.unwrap());
    let shown = store.callbacks(id).await.unwrap().pop().unwrap();
    assert_eq!((shown.status, shown.attempts, shown.at_ms), (CallbackStatus::Waiting, 2, until));
    assert_eq!(shown.last_error.as_deref(), Some("it answered 503\u{fffd}"));
    let third = store.take_callbacks(&app, until + 7, until + MINUTE_MS, 9).await.unwrap().pop().unwrap();
    let taken = Settled { attempts: 3, ..taken };
    assert!(store.settle_callback(&third, &taken, until + 8).await.unwrap());
    assert_eq!(seen(&store, id).await, [(CallbackKind::Success, CallbackStatus::Delivered, 3)]);
    assert!(!store.settle_callback(&third, &again, until + 9).await.unwrap(), "what is over stays so");
    assert_eq!(shop(&store).await, None);
}

pub(crate) async fn holders_at_once_never_hold_the_same(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let ids: Vec<CallId> = (0..40).map(|_| CallId::fresh()).collect();
    write(&store, ids.iter().flat_map(|id| [queued(*id, T0), ended(*id, T0, 1, Ended::Success, true)])).await;
    let app = shop(&store).await.unwrap();
    let takers = (0..4).map(|_| {
        let (store, app) = (store.clone(), app.clone());
        tokio::spawn(async move {
            let mut held = Vec::new();
            let taking = async {
                loop {
                    let taken = store.take_callbacks(&app, T0 + 1, T0 + MINUTE_MS, 3).await.unwrap();
                    let none_left = store.apps_with_callbacks().await.unwrap()[0].due_ms > T0 + 1;
                    held.extend(taken.into_iter().map(|due| due.call));
                    if none_left {
                        return;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(60), taking).await.unwrap();
            held
        })
    });
    let mut held = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        held.extend(taker.await.unwrap());
    }
    assert_eq!(held.len(), ids.len());
    held.sort();
    held.dedup();
    assert_eq!(held.len(), ids.len());
}

pub(crate) async fn an_app_has_so_many_callbacks_waiting(store: Store) {
    let store = store.with_callbacks_max(2);
    store.apply(&[mail(T0)]).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        // The first two in one batch, the others in one each.
        let pair = [CallId::fresh(), CallId::fresh()];
        let events = pair.iter().flat_map(|id| [queued(*id, T0), ended(*id, T0, 1, Ended::Success, true)]);
        write(&store, events).await;
        ids.extend(pair);
    }
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(seen(&store, *id).await[0].1);
    }
    use CallbackStatus::{Dropped, Waiting};
    assert_eq!(statuses, [Waiting, Waiting, Dropped, Dropped]);
    let why = store.callbacks(ids[3]).await.unwrap().pop().unwrap().last_error;
    assert_eq!(why.as_deref(), Some("2 callbacks of its App were waiting already"));
    let other = CallEvent { app: "other".into(), ..queued(CallId::fresh(), T0) };
    let end = CallEvent { id: other.id, app: "other".into(), ..ended(other.id, T0, 1, Ended::Success, true) };
    let Entry::Fn(word) = mail(T0) else { unreachable!() };
    store.apply(&[Entry::Fn(FnEvent { app: "other".into(), ..word })]).await.unwrap();
    let of_other = other.id;
    write(&store, [other, end]).await;
    assert_eq!(seen(&store, of_other).await[0].1, Waiting, "another App has room of its own");
}

pub(crate) async fn callbacks_go_with_their_call_and_stop_with_their_app(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let old = ended_call(&store, Ended::Success).await;
    store.sweep(T0 + 2 * HOUR_MS, &Keep::for_ms(HOUR_MS)).await.unwrap();
    assert_eq!((seen(&store, old).await, shop(&store).await), (Vec::new(), None));
    let waits = ended_call(&store, Ended::Success).await;
    store.apply(&[word(T0 + 5, None, true)]).await.unwrap();
    assert_eq!(seen(&store, waits).await, [(CallbackKind::Success, CallbackStatus::Dropped, 0)]);
    assert_eq!(shop(&store).await, None);
    assert_eq!(store.known_fn("team-a", "shop", "mail").await.unwrap(), None, "its Fns are gone with it");
}

pub(crate) async fn a_call_that_is_given_up_on_tells_its_failure(store: Store) {
    store.apply(&[mail(T0)]).await.unwrap();
    let id = CallId::fresh();
    write(&store, [queued(id, T0)]).await;
    store.sweep(T0 + 9 * 24 * HOUR_MS, &Keep::for_ms(HOUR_MS)).await.unwrap();
    assert_eq!(seen(&store, id).await, [(CallbackKind::Failure, CallbackStatus::Waiting, 0)]);
}
