//! Callbacks: whoever a Fn names is told the end of its calls, a Fn of its App through that one's durable queue, anybody
//! else over HTTP, signed.
//!
//! What is to be told is decided by `state` and written by `store` in the transaction that ends the call. `worker` takes
//! it from there, `queue` and `post` deliver it, `pace` says when again, `guard` where never.

mod event;
mod guard;
mod pace;
mod post;
mod queue;
mod sign;
mod worker;

use std::sync::Arc;

use funcatron_broker::message::CallbackTarget;
use reqwest::Url;

pub use guard::{AllowList, AllowListError};
pub use pace::Pace;
pub use sign::{CallbackKey, CallbackKeyError};

pub(crate) use post::{Poster, PosterError};
pub(crate) use worker::run;

/// What of a target is shown; the rest of a path is its owner's to look up.
const SHOWN_BYTES_MAX: usize = 256;

/// What a ledger is told of callbacks when it starts.
#[derive(Debug, Clone)]
pub struct CallbackConfig {
    /// Signs what is sent over HTTP; the same for all replicas.
    pub key: Arc<CallbackKey>,
    /// Where callbacks may go beside the public internet.
    pub allow: AllowList,
    /// How often and how long they are tried.
    pub pace: Pace,
}

/// What a running ledger delivers callbacks with.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) key: Arc<CallbackKey>,
    pub(crate) pace: Pace,
    pub(crate) poster: Poster,
}

impl Outbound {
    pub(crate) fn new(config: CallbackConfig) -> Result<Self, PosterError> {
        let CallbackConfig { key, allow, pace } = config;
        Ok(Self { key, pace, poster: Poster::new(allow, pace.answer_timeout)? })
    }
}

/// A target without what may be a credential: a Fn's name, or a URL without user and query.
pub(crate) fn shown(target: &CallbackTarget) -> String {
    let mut text = match target {
        CallbackTarget::Fn(name) => name.clone(),
        CallbackTarget::Url(text) => match Url::parse(text) {
            Ok(url) => format!("{}{}", url.origin().ascii_serialization(), url.path()),
            Err(_) => "no URL".to_owned(),
        },
    };
    text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_target_is_no_credential() {
        let url = |text: &str| shown(&CallbackTarget::Url(text.to_owned()));
        assert_eq!(url("https://u:p@example.com:8443/hook?key=secret#x"), "https://example.com:8443/hook");
        assert_eq!(url("https://example.com"), "https://example.com/");
        assert_eq!(url("mailto"), "no URL");
        assert_eq!(url(&format!("https://example.com/{}", "x".repeat(2000))).len(), SHOWN_BYTES_MAX);
        assert_eq!(shown(&CallbackTarget::Fn("mail".into())), "mail");
    }
}
