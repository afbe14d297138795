//! The rules that every carrier keeps, as tests that know no carrier.
//!
//! `each_rule!` names them all: a carrier's test file runs the list, so that none is forgotten there.

pub(crate) mod ground;
mod policies;
mod queues;
mod routing;
mod settling;
mod trouble;

pub(crate) use ground::Kit;
pub(crate) use policies::*;
pub(crate) use queues::*;
pub(crate) use routing::*;
pub(crate) use settling::*;
pub(crate) use trouble::*;

/// Hands the names of all rules to a macro.
#[macro_export]
macro_rules! each_rule {
    ($run:ident) => {
        $run! {
            what_is_published_arrives_unchanged,
            an_acked_message_is_gone,
            what_is_acked_together_is_gone_and_nothing_else,
            what_was_published_leaves_before_its_link_closes,
            a_flush_ends_and_says_whether_the_link_is_up,
            prefetch_bounds_what_is_out,
            consumers_share_a_queue,
            no_ack_settles_by_sending,
            a_rejected_message_is_tried_to_the_limit_then_dead_lettered,
            a_refused_message_is_dead_lettered_at_once,
            what_is_given_back_counts_as_no_attempt,
            a_failed_attempt_waits_as_its_queues_policy_says,
            without_a_policy_the_next_attempt_follows_at_once,
            a_queues_own_policy_counts_before_that_of_all,
            of_a_queues_and_its_policys_bound_the_lower_counts,
            a_dead_letter_goes_at_the_age_that_its_policy_grants,
            an_attempt_that_ends_with_its_link_counts,
            what_is_to_be_tried_for_ever_comes_back_each_time,
            a_closed_link_gives_back_what_was_out,
            a_cut_link_gives_back_what_was_out,
            what_is_dropped_unsettled_goes_back_with_its_consumer,
            a_cancelled_consumer_ends_after_what_was_under_way,
            an_expired_message_is_not_delivered,
            a_dead_letter_does_not_expire,
            a_full_queue_refuses_a_confirmed_publish,
            a_full_queue_drops_its_head_where_it_says_so,
            inspect_counts_ready_and_consumers,
            deleting_if_empty_counts_ready_messages_only,
            deleting_a_queue_cancels_its_consumers,
            an_exclusive_queue_is_one_links_and_goes_with_it,
            an_exclusive_consumer_is_alone,
            declaring_twice_is_fine_and_otherwise_an_error,
            a_mandatory_message_comes_back,
            a_mandatory_confirmed_message_is_returned_to_its_own_publisher,
            a_topic_binding_takes_what_matches,
            a_fanout_reaches_every_queue,
            a_reply_reaches_its_own_queue,
            an_unbound_queue_gets_no_more,
            an_exchange_is_seen_while_it_stands,
            what_is_missing_is_named,
            an_exchange_that_is_gone_does_not_hurt_calls,
            what_cannot_travel_is_refused_before_it_is_sent,
            a_closed_link_says_so,
            supervise_runs_the_session_again_on_a_new_link,
            supervise_stops_when_told,
        }
    };
}
