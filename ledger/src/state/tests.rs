use proptest::prelude::*;

use super::*;

fn id() -> CallId {
    "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()
}

fn event(at_ms: u64, happened: Happened) -> CallEvent {
    CallEvent {
        user_id: None,
        id: id(),
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        at_ms,
        happened,
    }
}

fn queued(at_ms: u64) -> CallEvent {
    event(at_ms, Happened::Queued { source: Source::Http, request: None, retry_of: None })
}

fn started(at_ms: u64, attempt: u32) -> CallEvent {
    let (revision, runner) = (format!("mail-{attempt}"), format!("runner-{attempt}"));
    event(at_ms, Happened::Started { attempt, revision, runner })
}

fn ended(at_ms: u64, attempt: u32, outcome: Ended, is_final: bool) -> CallEvent {
    let answer = RecordedAnswer {
        status: u16::try_from(200 + attempt).unwrap(),
        headers: Vec::new(),
        body: Default::default(),
        cut: false,
    };
    event(
        at_ms,
        Happened::Ended {
            attempt,
            revision: format!("mail-{attempt}"),
            runner: format!("runner-{attempt}"),
            outcome,
            is_final,
            reason: Some(format!("attempt {attempt}")),
            answer: Some(Box::new(answer)),
            log: Some(format!("log {attempt}")),
        },
    )
}

fn dead(at_ms: u64) -> CallEvent {
    event(at_ms, Happened::Dead { reason: "tried often enough".into() })
}

/// The state and the status of the answer that is kept.
fn after(events: impl IntoIterator<Item = CallEvent>) -> (CallState, Option<u16>) {
    let (mut state, mut answer) = (None, None);
    for event in events {
        let Some(applied) = apply(state.clone(), event) else { continue };
        if let Some(kept) = applied.answer {
            answer = kept.map(|answer| answer.status);
        }
        state = Some(applied.state);
    }
    (state.expect("an event that says something"), answer)
}

#[test]
fn a_call_goes_from_queued_over_running_to_its_end() {
    let steps = [queued(1), started(2, 1), ended(3, 1, Ended::Success, true)];
    let statuses: Vec<Status> = (1..=3).map(|n| after(steps[..n].to_vec()).0.status).collect();
    assert_eq!(statuses, [Status::Queued, Status::Running, Status::Success]);
    let (state, answer) = after(steps);
    assert_eq!((state.submitted_ms, state.started_ms, state.completed_ms), (1, Some(2), Some(3)));
    assert_eq!((state.attempts, state.runner.as_deref(), answer), (1, Some("runner-1"), Some(201)));
}

#[test]
fn a_failed_attempt_queues_again_until_the_next_begins() {
    let steps = [queued(1), started(2, 1), ended(3, 1, Ended::Error, false), started(4, 2)];
    let (waiting, _) = after(steps[..3].to_vec());
    assert_eq!((waiting.status, waiting.completed_ms), (Status::Queued, None));
    assert_eq!(waiting.reason.as_deref(), Some("attempt 1"));
    let (running, _) = after(steps);
    assert_eq!((running.status, running.attempts, running.started_ms), (Status::Running, 2, Some(2)));
}

#[test]
fn a_terminal_state_never_changes() {
    let ends = [
        ended(5, 2, Ended::Success, true),
        ended(5, 2, Ended::Error, true),
        ended(5, 2, Ended::Timeout, true),
        ended(5, 2, Ended::Cancelled, true),
        dead(5),
    ];
    for first in &ends {
        let (settled, _) = after([queued(1), first.clone()]);
        assert!(settled.status.is_terminal());
        for later in ends.iter().chain(&[started(9, 3), ended(9, 3, Ended::Error, false)]) {
            let (state, _) = after([queued(1), first.clone(), later.clone()]);
            assert_eq!((state.status, state.completed_ms), (settled.status, Some(5)));
        }
    }
}

#[test]
fn dead_beats_a_failure_after_which_another_attempt_was_to_follow() {
    let failed = ended(3, 4, Ended::Error, false);
    for events in [[failed.clone(), dead(4)], [dead(4), failed]] {
        let (state, answer) = after(events);
        assert_eq!((state.status, state.completed_ms, answer), (Status::Dead, Some(4), Some(204)));
        assert_eq!(state.reason.as_deref(), Some("tried often enough"));
    }
}

#[test]
fn an_answer_of_an_earlier_attempt_does_not_replace_the_last_ones() {
    let (first, last) = (ended(3, 1, Ended::Error, false), ended(5, 2, Ended::Success, true));
    for events in [[first.clone(), last.clone()], [last, first]] {
        let (state, answer) = after(events);
        assert_eq!((answer, state.runner.as_deref()), (Some(202), Some("runner-2")));
    }
}

#[test]
fn only_a_call_that_is_not_begun_can_be_cancelled() {
    let cancelled = event(3, Happened::Cancelled);
    assert_eq!(after([queued(1), cancelled.clone()]).0.status, Status::Cancelled);
    assert_eq!(after([queued(1), started(2, 1), cancelled.clone()]).0.status, Status::Running);
    let waits = [queued(1), started(2, 1), ended(3, 1, Ended::Error, false), cancelled];
    assert_eq!(after(waits).0.status, Status::Cancelled);
}

#[test]
fn a_call_whose_queued_was_lost_is_known_by_what_came() {
    let (state, _) = after([ended(7, 1, Ended::Success, true), started(4, 1)]);
    assert_eq!((state.source, state.submitted_ms, state.fn_name.as_str()), (None, 4, "mail"));
    let (state, _) = after([ended(7, 1, Ended::Success, true), started(4, 1), queued(5)]);
    assert_eq!((state.source, state.submitted_ms), (Some(Source::Http), 5));
}

#[test]
fn a_duplicate_says_nothing_about_its_call() {
    assert_eq!(apply(None, ended(3, 1, Ended::Duplicate, true)), None);
    let known = after([queued(1)]).0;
    assert_eq!(apply(Some(known), ended(3, 1, Ended::Duplicate, true)), None);
}

#[test]
fn another_app_cannot_speak_of_a_call() {
    let known = after([queued(1)]).0;
    let foreign = CallEvent { app: "other".into(), ..ended(3, 1, Ended::Error, true) };
    assert_eq!(apply(Some(known), foreign), None);
}

#[test]
fn a_status_is_read_back() {
    for status in Status::ALL {
        assert_eq!(Status::parse(status.as_str()), Some(status));
    }
    assert_eq!(Status::parse("done"), None);
}

fn claim(attempt: u32, claimant: &str) -> Claim {
    Claim {
        user_id: None,
        id: id(),
        reply_to: "i.team-a.shop.r.x".into(),
        namespace: "team-a".into(),
        app: "shop".into(),
        fn_name: "mail".into(),
        attempt,
        claimant: claimant.into(),
    }
}

#[test]
fn the_first_publication_that_is_claimed_is_the_call() {
    let known = Claimant { attempt: 2, claimant: "a".into() };
    let cases = [
        (None, claim(1, "a"), Verdict::Run),
        (None, claim(3, "a"), Verdict::Run),
        // Asked again, or delivered again.
        (Some(&known), claim(2, "a"), Verdict::Run),
        (Some(&known), claim(3, "a"), Verdict::Run),
        // A runner that is lost and does not know it.
        (Some(&known), claim(1, "a"), Verdict::Duplicate),
        // Another publication, whatever its attempt.
        (Some(&known), claim(1, "b"), Verdict::Duplicate),
        (Some(&known), claim(2, "b"), Verdict::Duplicate),
        (Some(&known), claim(3, "b"), Verdict::Duplicate),
    ];
    for (recorded, claim, verdict) in cases {
        for status in [None, Some(Status::Queued), Some(Status::Running)] {
            assert_eq!(decide(recorded, status, &claim), verdict, "{claim:?}");
        }
        for status in [Status::Success, Status::Error, Status::Timeout, Status::Cancelled] {
            assert_eq!(decide(recorded, Some(status), &claim), Verdict::Duplicate, "{claim:?}");
        }
    }
}

#[test]
fn a_publication_that_was_given_up_on_is_a_dead_letter_and_another_is_not() {
    let known = Claimant { attempt: 1, claimant: "a".into() };
    let word = |recorded, claim| decide(recorded, Some(Status::Dead), &claim);
    assert_eq!(word(Some(&known), claim(2, "a")), Verdict::Dead);
    assert_eq!(word(None, claim(2, "a")), Verdict::Dead, "its claim was forgotten");
    assert_eq!(word(Some(&known), claim(2, "b")), Verdict::Duplicate);
}

/// A whole life: attempts that fail, and one end, which is the only terminal event.
fn life() -> impl Strategy<Value = Vec<CallEvent>> {
    (0_u32..4, 0_u8..4).prop_map(|(failures, end)| {
        let mut events = vec![queued(1)];
        for attempt in 1..=failures {
            let at_ms = u64::from(attempt) * 10;
            events.extend([started(at_ms, attempt), ended(at_ms + 5, attempt, Ended::Error, false)]);
        }
        let last = failures + 1;
        events.extend(match end {
            0 => vec![dead(100)],
            1 => vec![started(90, last), ended(100, last, Ended::Success, true)],
            2 => vec![started(90, last), ended(100, last, Ended::Error, true)],
            _ => vec![started(90, last), ended(100, last, Ended::Timeout, true)],
        });
        events
    })
}

proptest! {
    #[test]
    fn the_order_of_events_and_their_repetition_change_nothing(
        (events, shuffled, again) in life().prop_flat_map(|events| {
            let twice: Vec<CallEvent> = events.iter().chain(&events).cloned().collect();
            (Just(events.clone()), Just(events).prop_shuffle(), Just(twice).prop_shuffle())
        })
    ) {
        let expected = after(events);
        prop_assert!(expected.0.status.is_terminal());
        prop_assert_eq!(&after(shuffled), &expected);
        prop_assert_eq!(&after(again), &expected);
    }
}

fn asked(age_max_ms: Option<u64>, headers: Vec<(String, String)>) -> Option<Box<RecordedRequest>> {
    Some(Box::new(RecordedRequest {
        method: "POST".into(),
        url: "http://shop.example.com/mail".into(),
        headers,
        body: Default::default(),
        cut: false,
        intent: funcatron_broker::message::Intent::HttpRequest,
        timeout: 30_000,
        attempts_max: None,
        age_max_ms,
        revision: None,
        operation: None,
        template: None,
        params: Default::default(),
    }))
}

fn told(source: Source, request: Option<Box<RecordedRequest>>, last: CallEvent) -> Option<CallbackKind> {
    let queued = event(1, Happened::Queued { source, request, retry_of: None });
    let one = after([queued.clone(), last.clone()]).0.callback();
    assert_eq!(one, after([last, queued]).0.callback(), "in any order");
    one
}

#[test]
fn the_end_of_a_call_that_nobody_waits_for_is_told() {
    let detached = || asked(Some(60_000), Vec::new());
    let success = || ended(2, 1, Ended::Success, true);
    let (success_kind, failure) = (Some(CallbackKind::Success), Some(CallbackKind::Failure));
    assert_eq!(told(Source::Http, detached(), success()), success_kind);
    assert_eq!(told(Source::Schedule, None, success()), success_kind);
    assert_eq!(told(Source::Retry, asked(None, Vec::new()), success()), success_kind);
    assert_eq!(told(Source::Http, detached(), ended(2, 1, Ended::Error, true)), failure);
    assert_eq!(told(Source::Http, detached(), ended(2, 1, Ended::Timeout, true)), failure);
    assert_eq!(told(Source::Http, detached(), dead(2)), failure);
    assert_eq!(told(Source::Http, detached(), event(2, Happened::Cancelled)), None);
    assert_eq!(told(Source::Http, detached(), ended(2, 1, Ended::Error, false)), None, "it is tried again");
}

#[test]
fn a_call_that_somebody_waited_for_and_a_callback_tell_nobody() {
    let success = || ended(2, 1, Ended::Success, true);
    assert_eq!(told(Source::Http, asked(None, Vec::new()), success()), None);
    let callback = vec![(CALLBACK_OF_HEADER.to_owned(), id().to_string())];
    assert_eq!(told(Source::Callback, asked(Some(1), callback.clone()), success()), None);
    assert_eq!(told(Source::Retry, asked(Some(1), callback), success()), None, "nor where it is repeated");
}

#[test]
fn a_runners_word_is_enough_where_the_queued_was_lost() {
    let word = ended(2, 1, Ended::Success, true);
    assert_eq!(after([word.clone()]).0.callback(), None);
    let word = CallEvent { user_id: Some("i.team-a.shop".into()), ..word };
    assert_eq!(after([word]).0.callback(), Some(CallbackKind::Success));
}
