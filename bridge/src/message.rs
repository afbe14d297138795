//! A message of the user's broker as it goes on to the platform's: unchanged but for what would lie there. Pure.

use funcatron_broker::link::Envelope;
use funcatron_broker::message::{WIRE_HEADER, is_ours};

/// Takes out what the platform's broker or its runners would read as something else.
pub(crate) fn onward(mut message: Envelope) -> Envelope {
    // With it, a message passes for a call of ours.
    message.headers.remove(WIRE_HEADER);
    debug_assert!(!is_ours(&message));
    // The user that the other broker has checked; this one would close the channel over it.
    message.properties.user_id = None;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::link::HeaderValue;

    #[test]
    fn a_message_goes_on_as_it_is() {
        let mut message = Envelope { body: "x".into(), ..Envelope::default() };
        message.properties.reply_to = Some("r".into());
        message.properties.expiration_ms = Some(7);
        message.headers.insert("fn-call", "hers");
        message.headers.insert("sent", HeaderValue::Timestamp(1));
        assert_eq!(onward(message.clone()), message);
    }

    #[test]
    fn nothing_goes_on_as_a_call_of_ours_or_as_another_user() {
        let mut message = Envelope::default();
        message.headers.insert(WIRE_HEADER, 1);
        message.properties.user_id = Some("guest".into());
        assert_eq!(onward(message), Envelope::default());
    }
}
