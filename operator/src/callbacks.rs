//! What the call ledger is told of a Fn: how it is called, and whom the ends of its calls are told. Pure, and the same on
//! a laptop.

use funcatron_broker::message::{CallbackTarget, FnEvent};
use funcatron_crds::{Callback, FnSpec, Timeout};
use funcatron_routing::app_table::AsyncPolicy;

/// A Fn's word, but for its time.
pub fn word(namespace: &str, fn_name: &str, spec: &FnSpec, url: String) -> FnEvent {
    let AsyncPolicy { attempts_max, age_max_ms } = AsyncPolicy::of(spec.detached.as_ref());
    let timeout = spec.timeout.as_ref().and_then(|timeout| timeout.to_duration().ok());
    let asked = spec.detached.as_ref();
    FnEvent {
        user_id: None,
        namespace: namespace.to_owned(),
        app: spec.app.clone(),
        fn_name: fn_name.to_owned(),
        at_ms: 0,
        url,
        timeout_ms: u64::try_from(timeout.unwrap_or(Timeout::DEFAULT).as_millis()).unwrap_or(u64::MAX),
        attempts_max,
        age_max_ms,
        on_success: asked.and_then(|asked| target(asked.on_success.as_ref()?)),
        on_failure: asked.and_then(|asked| target(asked.on_failure.as_ref()?)),
        deleted: false,
    }
}

/// The CRD's rules have refused what says both or nothing.
fn target(callback: &Callback) -> Option<CallbackTarget> {
    let Callback { fn_name, url } = callback;
    let by_name = fn_name.clone().map(CallbackTarget::Fn);
    by_name.or_else(|| url.clone().map(CallbackTarget::Url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{AsyncRetry, FnAsync};

    #[test]
    fn a_fn_that_says_nothing_tells_nobody() {
        let spec = FnSpec { app: "shop".into(), ..FnSpec::default() };
        let word = word("team-a", "mail", &spec, "http://gateway/invoke/team-a/mail".into());
        assert_eq!((&*word.namespace, &*word.app, &*word.fn_name), ("team-a", "shop", "mail"));
        assert_eq!((word.timeout_ms, word.attempts_max, word.age_max_ms), (30_000, None, None));
        assert_eq!((word.on_success, word.on_failure), (None, None));
    }

    #[test]
    fn whom_a_fn_tells_and_how_it_is_called_is_its_word() {
        let spec = FnSpec {
            app: "shop".into(),
            timeout: Some(Timeout::new("2s")),
            detached: Some(FnAsync {
                retry: Some(AsyncRetry { max_attempts: Some(7), ..AsyncRetry::default() }),
                dead_letter: None,
                on_success: Some(Callback { fn_name: Some("thank".into()), url: None }),
                on_failure: Some(Callback { fn_name: None, url: Some("https://example.com".into()) }),
            }),
            ..FnSpec::default()
        };
        let word = word("team-a", "mail", &spec, String::new());
        assert_eq!((word.timeout_ms, word.attempts_max), (2_000, Some(7)));
        assert_eq!(word.on_success, Some(CallbackTarget::Fn("thank".into())));
        assert_eq!(word.on_failure, Some(CallbackTarget::Url("https://example.com".into())));
    }
}
