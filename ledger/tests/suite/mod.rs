//! The rules that the ledger keeps on each of its databases, as tests that know no database.
//!
//! `each_rule!` names them all: a database's test file runs the list, so that none is forgotten there.

mod callbacks;
mod objects;
mod rules;
mod sweeps;

use bytes::Bytes;
use funcatron_broker::message::{
    AppEvent, CallEvent, CallId, Claim, Ended, Happened, Intent, Record, RecordedAnswer, RecordedBody,
    RecordedRequest, Source,
};
use funcatron_ledger::state::CallState;
use funcatron_ledger::store::{Entry, Store};

pub(crate) use callbacks::*;
pub(crate) use objects::*;
pub(crate) use rules::*;
pub(crate) use sweeps::*;

/// Hands the names of all rules to a macro.
#[macro_export]
macro_rules! each_rule {
    ($run:ident) => {
        $run! {
            a_call_is_kept_whole,
            events_in_any_order_and_twice_make_one_call,
            numbers_of_an_app_have_no_gap,
            a_failed_batch_leaves_nothing_and_takes_no_number,
            writers_at_once_leave_no_gap,
            an_event_of_another_app_changes_nothing,
            a_list_is_newest_first_and_goes_on_where_it_stopped,
            a_list_is_of_one_fn_one_status_and_one_span_of_time,
            logs_of_all_attempts_are_kept_failed_ones_included,
            text_that_a_database_cannot_hold_is_still_kept,
            a_call_is_the_publication_that_is_claimed_first,
            of_publications_claimed_at_once_one_is_the_call,
            another_apps_claim_on_an_id_takes_nothing_from_its_own,
            what_was_given_up_on_is_said_to_be_dead,
            an_ended_call_cannot_be_claimed,
            an_app_is_known_by_its_word_or_by_its_calls,
            an_older_word_of_an_app_does_not_count,
            an_app_that_goes_ends_its_calls,
            what_is_older_than_its_app_keeps_it_is_forgotten_with_its_log,
            a_call_of_which_nothing_is_heard_ends_as_dead,
            an_app_has_so_many_calls_whether_they_have_ended_or_not,
            what_the_oldest_calls_weigh_makes_room_and_their_rows_say_so,
            an_app_has_so_many_claims,
            of_many_logs_the_last_are_shown,
            an_end_is_told_once_however_often_it_is_heard,
            who_waited_who_cancelled_and_who_was_not_asked_tell_nobody,
            an_older_word_of_a_fn_does_not_count,
            a_callback_is_one_holders_until_its_lease_ends,
            holders_at_once_never_hold_the_same,
            an_app_has_so_many_callbacks_waiting,
            callbacks_go_with_their_call_and_stop_with_their_app,
            a_call_that_is_given_up_on_tells_its_failure,
            an_object_is_kept_for_as_long_as_its_call_may_need_it,
            objects_have_so_much_room_of_an_app_and_of_all,
            the_schema_may_be_brought_up_to_date_again,
        }
    };
}

pub(crate) const T0: u64 = 1_790_000_000_000;

pub(crate) fn event(id: CallId, at_ms: u64, happened: Happened) -> CallEvent {
    CallEvent {
        user_id: None,
        id,
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        at_ms,
        happened,
    }
}

pub(crate) fn request() -> RecordedRequest {
    RecordedRequest {
        method: "POST".into(),
        url: "http://shop.example.com/mail".into(),
        headers: vec![("content-type".into(), "text/plain".into())],
        body: RecordedBody::of(&Bytes::from_static(b"hello\0\xff")),
        cut: false,
        intent: Intent::HttpRequest,
        timeout: 30_000,
        attempts_max: Some(3),
        age_max_ms: Some(60_000),
        revision: Some("mail-1a2b3c4d".into()),
        operation: None,
        template: None,
        params: Default::default(),
    }
}

pub(crate) fn queued(id: CallId, at_ms: u64) -> CallEvent {
    let request = Some(Box::new(request()));
    event(id, at_ms, Happened::Queued { source: Source::Http, request, retry_of: None })
}

pub(crate) fn started(id: CallId, at_ms: u64, attempt: u32) -> CallEvent {
    let (revision, runner) = ("mail-1a2b3c4d".into(), format!("runner-{attempt}"));
    event(id, at_ms, Happened::Started { attempt, revision, runner })
}

pub(crate) fn ended(id: CallId, at_ms: u64, attempt: u32, outcome: Ended, is_final: bool) -> CallEvent {
    let answer = RecordedAnswer {
        status: 200,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: RecordedBody::of(&Bytes::from(format!("answer {attempt}"))),
        cut: false,
    };
    event(
        id,
        at_ms,
        Happened::Ended {
            attempt,
            revision: "mail-1a2b3c4d".into(),
            runner: format!("runner-{attempt}"),
            outcome,
            is_final,
            reason: Some(format!("reason {attempt}")),
            answer: Some(Box::new(answer)),
            log: Some(format!("log {attempt}")),
        },
    )
}

pub(crate) fn word(at_ms: u64, retention_ms: Option<u64>, deleted: bool) -> Entry {
    Entry::App(AppEvent {
        user_id: None,
        namespace: "team-a".into(),
        app: "shop".into(),
        at_ms,
        retention_ms,
        record: Record::Async,
        deleted,
    })
}

pub(crate) fn claim(id: CallId, attempt: u32, claimant: &str) -> Entry {
    let claim = Claim {
        user_id: None,
        id,
        reply_to: "i.team-a.shop.r.x".into(),
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        attempt,
        claimant: claimant.into(),
    };
    Entry::Claim(claim, T0)
}

/// Writes events in one batch.
pub(crate) async fn write(store: &Store, events: impl IntoIterator<Item = CallEvent>) {
    let entries: Vec<Entry> = events.into_iter().map(Entry::Call).collect();
    store.apply(&entries).await.unwrap();
}
