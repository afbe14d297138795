use funcatron_broker::message::{CallId, Ended, Happened, Source, Verdict};
use funcatron_ledger::state::Status;
use funcatron_ledger::store::{Call, CallKey, Entry, Keep, ListQuery, Logs, Outcome, Store};

use super::*;

pub(super) const HOUR_MS: u64 = 60 * 60 * 1000;

pub(super) async fn read(store: &Store, id: CallId) -> Option<Call> {
    store.call("team-a", "shop", CallKey::Id(id)).await.unwrap()
}

pub(super) async fn numbers(store: &Store) -> Vec<u64> {
    let query = ListQuery { limit: 100, ..ListQuery::default() };
    let page = store.list("team-a", "shop", &query).await.unwrap();
    page.calls.into_iter().map(|(number, _)| number).collect()
}

pub(crate) async fn a_call_is_kept_whole(store: Store) {
    let (id, before) = (CallId::fresh(), CallId::fresh());
    let repeated = Happened::Queued {
        source: Source::Retry,
        request: Some(Box::new(request())),
        retry_of: Some(before),
    };
    let events =
        [event(id, T0, repeated), started(id, T0 + 1, 1), ended(id, T0 + 2, 1, Ended::Success, true)];
    write(&store, events).await;
    let call = read(&store, id).await.unwrap();
    let state = &call.state;
    assert_eq!((call.number, state.id, state.status), (1, id, Status::Success));
    assert_eq!((state.source, state.retry_of), (Some(Source::Retry), Some(before)));
    let times = (state.submitted_ms, state.started_ms, state.completed_ms);
    assert_eq!(times, (T0, Some(T0 + 1), Some(T0 + 2)));
    assert_eq!((state.attempts, state.runner.as_deref()), (1, Some("runner-1")));
    assert_eq!(
        (state.revision.as_deref(), state.reason.as_deref()),
        (Some("mail-1a2b3c4d"), Some("reason 1"))
    );
    assert_eq!(call.request, Some(request()));
    assert_eq!(call.answer.as_ref().unwrap().body.bytes, "answer 1");
    assert_eq!(store.call("team-a", "shop", CallKey::Number(1)).await.unwrap(), Some(call.clone()));
    assert_eq!(store.call_by_id(id).await.unwrap(), Some(call));
    assert_eq!(store.call("team-a", "other", CallKey::Id(id)).await.unwrap(), None);
    assert_eq!(read(&store, before).await, None);
}

pub(crate) async fn events_in_any_order_and_twice_make_one_call(store: Store) {
    let id = CallId::fresh();
    let life = [
        queued(id, T0),
        started(id, T0 + 1, 1),
        ended(id, T0 + 2, 1, Ended::Error, false),
        started(id, T0 + 3, 2),
        ended(id, T0 + 4, 2, Ended::Success, true),
    ];
    // One batch each, so that every event meets what the database kept of the others.
    for event in life.iter().rev().chain(&life) {
        write(&store, [event.clone()]).await;
    }
    let other = CallId::fresh();
    let at_once = life.iter().cloned().map(|event| CallEvent { id: other, ..event });
    write(&store, at_once).await;
    let (one, two) = (read(&store, id).await.unwrap(), read(&store, other).await.unwrap());
    assert_eq!((one.number, two.number), (1, 2));
    assert_eq!(CallState { id, ..two.state }, one.state);
    assert_eq!((&one.answer, &one.request), (&two.answer, &two.request));
    assert_eq!((one.state.status, one.state.attempts), (Status::Success, 2));
    assert_eq!(one.answer.unwrap().body.bytes, "answer 2");
}

pub(crate) async fn numbers_of_an_app_have_no_gap(store: Store) {
    for n in 0..5 {
        write(&store, (0..3).map(|_| queued(CallId::fresh(), T0 + n))).await;
        let other = CallEvent { app: "other".into(), ..queued(CallId::fresh(), T0 + n) };
        write(&store, [other]).await;
    }
    assert_eq!(numbers(&store).await, (1..=15).rev().collect::<Vec<u64>>());
    let others =
        store.list("team-a", "other", &ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
    assert_eq!(others.calls.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
}

pub(crate) async fn a_failed_batch_leaves_nothing_and_takes_no_number(store: Store) {
    let id = CallId::fresh();
    let entries: Vec<Entry> = (0..200).map(|_| Entry::Call(queued(CallId::fresh(), T0))).collect();
    // Dropped before it is done, as a shutdown would.
    let dropped = tokio::time::timeout(std::time::Duration::from_millis(1), store.apply(&entries)).await;
    assert!(dropped.is_err(), "two hundred calls take longer than a millisecond");
    write(&store, [queued(id, T0)]).await;
    assert_eq!(read(&store, id).await.unwrap().number, 1);
    assert_eq!(numbers(&store).await, [1]);
}

pub(crate) async fn writers_at_once_leave_no_gap(store: Store) {
    let writers = (0..4).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                write(&store, [queued(CallId::fresh(), T0), queued(CallId::fresh(), T0)]).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(numbers(&store).await, (1..=40).rev().collect::<Vec<u64>>());
}

pub(crate) async fn an_event_of_another_app_changes_nothing(store: Store) {
    let id = CallId::fresh();
    write(&store, [queued(id, T0)]).await;
    let before = read(&store, id).await;
    let foreign = CallEvent { app: "other".into(), ..ended(id, T0, 1, Ended::Error, true) };
    assert_eq!(store.apply(&[Entry::Call(foreign)]).await.unwrap(), [Outcome::Foreign]);
    assert_eq!(read(&store, id).await, before);
    assert_eq!(store.logs(id).await.unwrap(), Logs::default());
}

pub(crate) async fn a_list_is_newest_first_and_goes_on_where_it_stopped(store: Store) {
    write(&store, (0..7).map(|n| queued(CallId::fresh(), T0 + n))).await;
    let mut query = ListQuery { limit: 3, ..ListQuery::default() };
    let mut pages = Vec::new();
    loop {
        let page = store.list("team-a", "shop", &query).await.unwrap();
        pages.push(page.calls.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        // What comes meanwhile belongs to no later page.
        write(&store, [queued(CallId::fresh(), T0)]).await;
        let Some(below) = page.below else { break };
        query.below = Some(below);
    }
    assert_eq!(pages, [vec![7, 6, 5], vec![4, 3, 2], vec![1]]);
}

pub(crate) async fn a_list_is_of_one_fn_one_status_and_one_span_of_time(store: Store) {
    let (first, second, third) = (CallId::fresh(), CallId::fresh(), CallId::fresh());
    write(&store, [queued(first, T0), queued(second, T0 + 10), queued(third, T0 + 20)]).await;
    let other = CallEvent { fn_name: "bill".into(), ..queued(CallId::fresh(), T0 + 30) };
    write(&store, [started(second, T0 + 11, 1), other.clone()]).await;
    let all = ListQuery { limit: 100, ..ListQuery::default() };
    let mail = Some("mail".to_owned());
    let cases = [
        (all.clone(), vec![other.id, third, second, first]),
        (ListQuery { fn_name: mail.clone(), ..all.clone() }, vec![third, second, first]),
        (ListQuery { status: Some(Status::Running), ..all.clone() }, vec![second]),
        (ListQuery { fn_name: mail, status: Some(Status::Queued), ..all.clone() }, vec![third, first]),
        (ListQuery { from_ms: Some(T0 + 10), to_ms: Some(T0 + 30), ..all.clone() }, vec![third, second]),
        (ListQuery { fn_name: Some("none".into()), ..all }, vec![]),
    ];
    for (query, expected) in cases {
        let page = store.list("team-a", "shop", &query).await.unwrap();
        let ids: Vec<CallId> = page.calls.iter().map(|(_, state)| state.id).collect();
        assert_eq!(ids, expected, "{query:?}");
    }
}

pub(crate) async fn logs_of_all_attempts_are_kept_failed_ones_included(store: Store) {
    let id = CallId::fresh();
    let events = [ended(id, T0 + 4, 2, Ended::Success, true), ended(id, T0 + 2, 1, Ended::Error, false)];
    write(&store, events.clone()).await;
    write(&store, events).await;
    let logs = store.logs(id).await.unwrap().attempts;
    assert_eq!(logs, [(1, "log 1".to_owned()), (2, "log 2".to_owned())]);
}

pub(crate) async fn text_that_a_database_cannot_hold_is_still_kept(store: Store) {
    let id = CallId::fresh();
    let mut odd = ended(id, T0, 1, Ended::Error, true);
    let Happened::Ended { reason, runner, log, answer, .. } = &mut odd.happened else { unreachable!() };
    *reason = Some("a\0b".into());
    *runner = "r\0".into();
    *log = Some("l\0g".into());
    answer.as_mut().unwrap().headers.push(("x-odd".into(), "v\0".into()));
    write(&store, [odd]).await;
    let call = read(&store, id).await.unwrap();
    assert_eq!(call.state.reason.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(store.logs(id).await.unwrap().attempts, [(1, "l\u{fffd}g".to_owned())]);
    assert_eq!(call.answer.unwrap().headers[1].1, "v\0");
}

const RUN: Outcome = Outcome::Claimed(Verdict::Run);
const DUPLICATE: Outcome = Outcome::Claimed(Verdict::Duplicate);

pub(crate) async fn a_call_is_the_publication_that_is_claimed_first(store: Store) {
    let id = CallId::fresh();
    let entries =
        [claim(id, 1, "a"), claim(id, 1, "b"), claim(id, 1, "a"), claim(id, 2, "a"), claim(id, 3, "b")];
    let words = store.apply(&entries).await.unwrap();
    assert_eq!(words, [RUN, DUPLICATE, RUN, RUN, DUPLICATE]);
    // The same when each meets what the database kept.
    assert_eq!(store.apply(&[claim(id, 3, "b")]).await.unwrap(), [DUPLICATE]);
    assert_eq!(store.apply(&[claim(id, 1, "a")]).await.unwrap(), [DUPLICATE], "a lost runner's");
    assert_eq!(store.apply(&[claim(id, 3, "a")]).await.unwrap(), [RUN]);
}

pub(crate) async fn of_publications_claimed_at_once_one_is_the_call(store: Store) {
    for _ in 0..20 {
        let id = CallId::fresh();
        let (a, b) = ([claim(id, 1, "a")], [claim(id, 1, "b")]);
        let (a, b) = tokio::join!(store.apply(&a), store.apply(&b));
        let words = [a.unwrap()[0], b.unwrap()[0]];
        assert!(words == [RUN, DUPLICATE] || words == [DUPLICATE, RUN], "{words:?}");
    }
}

pub(crate) async fn another_apps_claim_on_an_id_takes_nothing_from_its_own(store: Store) {
    let id = CallId::fresh();
    let foreign = || {
        let Entry::Claim(mut foreign, at_ms) = claim(id, 9, "x") else { unreachable!() };
        foreign.app = "other".into();
        Entry::Claim(foreign, at_ms)
    };
    assert_eq!(store.apply(&[foreign(), claim(id, 1, "a")]).await.unwrap(), [RUN, RUN]);
    write(&store, [event(id, T0, Happened::Cancelled)]).await;
    assert_eq!(store.apply(&[foreign(), claim(id, 2, "a")]).await.unwrap(), [RUN, DUPLICATE]);
}

pub(crate) async fn what_was_given_up_on_is_said_to_be_dead(store: Store) {
    let id = CallId::fresh();
    store.apply(&[claim(id, 1, "a")]).await.unwrap();
    write(&store, [event(id, T0, Happened::Dead { reason: "x".into() })]).await;
    let words = store.apply(&[claim(id, 2, "a"), claim(id, 1, "b")]).await.unwrap();
    assert_eq!(words, [Outcome::Claimed(Verdict::Dead), DUPLICATE]);
}

pub(crate) async fn an_ended_call_cannot_be_claimed(store: Store) {
    let id = CallId::fresh();
    write(&store, [queued(id, T0), event(id, T0, Happened::Cancelled)]).await;
    let word = store.apply(&[claim(id, 1, "a")]).await.unwrap();
    assert_eq!(word, [Outcome::Claimed(Verdict::Duplicate)]);
}

pub(crate) async fn an_app_is_known_by_its_word_or_by_its_calls(store: Store) {
    let known = async |app: &str| store.knows_app("team-a", app).await.unwrap();
    assert!(!known("shop").await);
    store.apply(&[word(T0, None, false)]).await.unwrap();
    assert!(known("shop").await && !known("other").await);
    let other = CallEvent { app: "other".into(), ..queued(CallId::fresh(), T0) };
    write(&store, [other]).await;
    assert!(known("other").await);
    store.apply(&[word(T0 + 1, None, true)]).await.unwrap();
    assert!(!known("shop").await);
}

pub(crate) async fn an_older_word_of_an_app_does_not_count(store: Store) {
    store.apply(&[word(T0 + 1, None, false)]).await.unwrap();
    assert_eq!(store.apply(&[word(T0, None, true)]).await.unwrap(), [Outcome::Nothing]);
    assert!(store.knows_app("team-a", "shop").await.unwrap());
}

pub(crate) async fn an_app_that_goes_ends_its_calls(store: Store) {
    let (waits, done) = (CallId::fresh(), CallId::fresh());
    let over = [queued(done, T0), ended(done, T0 + 1, 1, Ended::Success, true)];
    let mut entries: Vec<Entry> = over.into_iter().map(Entry::Call).collect();
    entries.extend([Entry::Call(queued(waits, T0)), word(T0 + 5, None, true)]);
    // In the same batch: what was read before must not come back.
    entries.push(Entry::Call(started(waits, T0 + 6, 1)));
    store.apply(&entries).await.unwrap();
    let state = read(&store, waits).await.unwrap().state;
    assert_eq!((state.status, state.completed_ms), (Status::Cancelled, Some(T0 + 5)));
    assert_eq!(read(&store, done).await.unwrap().state.status, Status::Success);
}

pub(crate) async fn what_is_older_than_its_app_keeps_it_is_forgotten_with_its_log(store: Store) {
    let (old, young, kept) = (CallId::fresh(), CallId::fresh(), CallId::fresh());
    let end = |id, at_ms| ended(id, at_ms, 1, Ended::Success, true);
    let many = (0..600).map(|_| end(CallId::fresh(), T0));
    write(&store, [end(old, T0), end(young, T0 + 2 * HOUR_MS)].into_iter().chain(many)).await;
    write(&store, [CallEvent { app: "other".into(), ..end(kept, T0) }]).await;
    store.apply(&[word(T0, Some(HOUR_MS), false)]).await.unwrap();
    let now_ms = T0 + 2 * HOUR_MS;
    assert_eq!(store.sweep(now_ms, &Keep::for_ms(72 * HOUR_MS)).await.unwrap().forgotten, 601);
    assert_eq!(read(&store, old).await, None);
    assert_eq!(store.logs(old).await.unwrap(), Logs::default());
    assert!(read(&store, young).await.is_some());
    assert!(store.call_by_id(kept).await.unwrap().is_some(), "its App says nothing: the default counts");
    assert_eq!(store.sweep(now_ms, &Keep::for_ms(HOUR_MS)).await.unwrap().forgotten, 1);
    assert_eq!(store.call_by_id(kept).await.unwrap(), None);
    write(&store, [queued(CallId::fresh(), now_ms)]).await;
    assert_eq!(numbers(&store).await, [603, 2], "a number is never given twice");
}

pub(crate) async fn the_schema_may_be_brought_up_to_date_again(store: Store) {
    let id = CallId::fresh();
    write(&store, [queued(id, T0)]).await;
    store.migrate().await.unwrap();
    assert!(read(&store, id).await.is_some());
}
