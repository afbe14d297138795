//! Schedules in `dev`: decided by the operator's own cores, with what has fired kept in memory. Never reads a clock.
//!
//! Nothing here tells when a call is over, so `Forbid` is as `Allow`; people are told so beside the Trigger.

use std::collections::BTreeMap;
use std::time::Duration;

use funcatron_broker::link::{Confirm, Link, LinkError, Target};
use funcatron_broker::message::{EncodeError, fresh_claimant};
use funcatron_broker::names::NameError;
use funcatron_operator::schedule::{
    Act, Decision, Earlier, Firing, History, Occasion, call, call_id, decide, queued,
};
use jiff::Timestamp;

use super::manifests::Key;
use super::plan::{AppPlan, Plan, SchedulePlan};

/// A broker that has not confirmed by then is away, and the call is sent again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a firing is not with the broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FireError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("the broker does not take the call of Trigger {0}")]
    NotTaken(String),
}

/// A tick that has fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) trigger: Key,
    pub(crate) tick: Timestamp,
}

/// What has become of each schedule since this process began.
#[derive(Default)]
pub(crate) struct Schedules {
    histories: BTreeMap<Key, History>,
}

impl Schedules {
    /// Begins with what is new, and forgets what is gone.
    pub(crate) fn adopt(&mut self, plan: &Plan, now: Timestamp) {
        let mut planned = BTreeMap::new();
        for (app, AppPlan { schedules, .. }) in &plan.apps {
            for name in schedules.keys() {
                let key = Key::new(&app.namespace, name);
                let history = self.histories.get(&key).copied().unwrap_or_else(|| History::new(now));
                planned.insert(key, history);
            }
        }
        self.histories = planned;
    }

    /// Publishes what is due. One that fails is sent again at the next look, under the same id.
    pub(crate) async fn fire(
        &mut self,
        link: &dyn Link,
        plan: &Plan,
        invoke_base: &str,
        now: Timestamp,
    ) -> Vec<Result<Fired, FireError>> {
        let mut fired = Vec::new();
        for (app_key, app) in &plan.apps {
            let sender = Sender { link, app, app_key, invoke_base, now };
            for (name, schedule) in &app.schedules {
                let trigger = Key::new(&app_key.namespace, name);
                let Some(firing) = self.claim(&trigger, schedule, now) else { continue };
                match sender.send(&trigger, schedule, firing).await {
                    Ok(true) => fired.push(Ok(self.keep_fired(trigger, firing))),
                    Ok(false) => {}
                    Err(error) => fired.push(Err(error)),
                }
            }
        }
        fired
    }

    fn keep_fired(&mut self, trigger: Key, firing: Firing) -> Fired {
        if let Some(history) = self.histories.get_mut(&trigger) {
            *history = history.fired();
        }
        Fired { trigger, tick: firing.tick }
    }

    fn claim(&mut self, trigger: &Key, schedule: &SchedulePlan, now: Timestamp) -> Option<Firing> {
        let history = self.histories.get_mut(trigger)?;
        let mut decided = decide(&schedule.table, history, Earlier::NotAsked, now);
        if let Act::Ask(_) = decided.act {
            decided = decide(&schedule.table, history, Earlier::Over, now);
        }
        let Decision { act, history: next } = decided;
        *history = next;
        match act {
            Act::Claim(firing) | Act::Publish(firing) => Some(firing),
            Act::Rest { .. } | Act::Ask(_) | Act::Hold { .. } => None,
        }
    }
}

struct Sender<'a> {
    link: &'a dyn Link,
    app: &'a AppPlan,
    app_key: &'a Key,
    invoke_base: &'a str,
    now: Timestamp,
}

impl Sender<'_> {
    /// Whether there was somebody to call: a Fn that does not run here is called by nobody.
    async fn send(&self, trigger: &Key, schedule: &SchedulePlan, firing: Firing) -> Result<bool, FireError> {
        let fn_name = &schedule.fn_name;
        let Some(function) = self.app.fns.get(fn_name) else { return Ok(false) };
        let occasion = Occasion {
            namespace: &trigger.namespace,
            trigger: &trigger.name,
            app: &self.app_key.name,
            fn_name,
            revision: function.revision.name.as_str(),
            url: &format!("{}/invoke/{}/{fn_name}", self.invoke_base, trigger.namespace),
            timeout_ms: function.timeout_ms,
            attempts_max: function.detached.attempts_max,
            claimant: Some(&fresh_claimant()),
        };
        let id = call_id(schedule.table.seed(), firing.tick);
        let queue = self.app.names.durable_queue(fn_name)?;
        let call = call(occasion, id, firing, self.now);
        let sent = self.link.publish_confirmed(Target::queue(&queue), call.to_envelope()?, true);
        match tokio::time::timeout(CONFIRM_TIMEOUT, sent).await.ok().transpose()? {
            Some(Confirm::Acked) => {}
            _ => return Err(FireError::NotTaken(trigger.name.clone())),
        }
        let queued = queued(&trigger.namespace, &call, self.now).into_envelope()?;
        let ledger = self.app.names.installation().ledger_queue();
        self.link.publish(Target::queue(&ledger), queued, false).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use funcatron_broker::link::{Connector as _, ConsumeOptions, Consumer, Event};
    use funcatron_broker::local::LocalBroker;
    use funcatron_broker::message::Call;
    use funcatron_broker::names::Installation;
    use funcatron_broker::topology;

    use super::*;
    use crate::dev::manifests::{self, Schemas};
    use crate::dev::plan::compile;

    const APP_AND_FN: &str = r"
apiVersion: funcatron.dev/v1alpha1
kind: App
metadata: {name: shop}
spec: {}
---
apiVersion: funcatron.dev/v1alpha1
kind: Fn
metadata: {name: report}
spec: {app: shop, runtime: python, timeout: 5m, source: {inline: 'def handler(c, d): pass'}}
---
";

    fn plan(trigger: &str) -> Plan {
        let folder = tempfile::tempdir().unwrap();
        let trigger = format!(
            "kind: Trigger\nmetadata: {{name: nightly}}\nspec: {{app: shop, fn: report, {trigger}}}\n"
        );
        let text = format!("{APP_AND_FN}apiVersion: funcatron.dev/v1alpha1\n{trigger}");
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let manifests = manifests::read(folder.path(), &Schemas::compile().unwrap()).unwrap();
        compile(&Installation::parse("dev").unwrap(), &manifests, &BTreeMap::new())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A broker with the Fn's queue, and whoever takes from it.
    async fn broker(plan: &Plan) -> (Arc<dyn Link>, Consumer) {
        let app = &plan.apps[&Key::new("default", "shop")];
        let link = LocalBroker::new().connect().await.unwrap();
        link.declare(&topology::durable(&app.names, "report").unwrap()).await.unwrap();
        let options = ConsumeOptions { prefetch: 0, exclusive: false, no_ack: true };
        let calls = link.consume(&app.names.durable_queue("report").unwrap(), options).await.unwrap();
        (link, calls)
    }

    fn ticks(fired: Vec<Result<Fired, FireError>>) -> Vec<String> {
        fired.into_iter().map(|fired| fired.unwrap().tick.to_string()).collect()
    }

    #[tokio::test]
    async fn each_tick_calls_the_fn_once() {
        let plan = plan("schedule: {cron: '* * * * *'}");
        assert_eq!(plan.problems, vec![]);
        assert!(plan.apps[&Key::new("default", "shop")].fns["report"].revision.durable);
        let (link, mut calls) = broker(&plan).await;
        let mut schedules = Schedules::default();
        schedules.adopt(&plan, at("2026-11-22T12:00:30Z"));
        let mut all = vec![];
        for second in 30..180 {
            let now = at("2026-11-22T12:00:00Z") + jiff::SignedDuration::from_secs(second);
            all.extend(ticks(schedules.fire(&*link, &plan, "http://127.0.0.1:1", now).await));
        }
        assert_eq!(all, ["2026-11-22T12:01:00Z", "2026-11-22T12:02:00Z"]);
        for tick in all {
            let Some(Event::Delivery(delivery)) = calls.try_next() else { panic!("no call of {tick}") };
            let call = Call::from_envelope(delivery.envelope).unwrap();
            assert_eq!(call.headers["ce-time"], tick.as_str());
            assert_eq!(call.headers["ce-source"], "/namespaces/default/triggers/nightly");
            assert_eq!(call.url, "http://127.0.0.1:1/invoke/default/report");
            assert_eq!(call.timeout_ms, 300_000);
        }
        assert!(calls.try_next().is_none());
    }

    #[tokio::test]
    async fn a_broker_that_takes_nothing_gets_the_same_call_later() {
        let plan = plan("schedule: {cron: '@hourly'}");
        let without_queue = LocalBroker::new().connect().await.unwrap();
        let mut schedules = Schedules::default();
        schedules.adopt(&plan, at("2026-11-22T12:30:00Z"));
        let now = at("2026-11-22T13:00:05Z");
        let refused = schedules.fire(&*without_queue, &plan, "", now).await;
        assert!(matches!(refused[..], [Err(FireError::NotTaken(_))]), "{refused:?}");
        let (link, _calls) = broker(&plan).await;
        let fired = schedules.fire(&*link, &plan, "", now).await;
        assert_eq!(ticks(fired), ["2026-11-22T13:00:00Z"]);
    }

    #[tokio::test]
    async fn a_suspended_schedule_fires_nothing() {
        let plan = plan("schedule: {cron: '* * * * *'}, suspend: true");
        let (link, _calls) = broker(&plan).await;
        let mut schedules = Schedules::default();
        schedules.adopt(&plan, at("2026-11-22T12:00:00Z"));
        let fired = schedules.fire(&*link, &plan, "", at("2026-11-23T12:00:00Z")).await;
        assert!(fired.is_empty(), "{fired:?}");
    }

    #[test]
    fn a_bad_schedule_is_told_in_the_operators_words_and_with_its_place() {
        for (schedule, words) in [
            ("{cron: '0 3 * * moon'}", ["a.yaml:", "spec.schedule.cron: `0 3 * * moon`", "@daily"]),
            (
                "{cron: '@daily', timeZone: Mars}",
                ["a.yaml:", "spec.schedule.timeZone: `Mars`", "Europe/Berlin"],
            ),
            ("{cron: '@daily', jitter: 2h}", ["a.yaml:", "spec.schedule.jitter", "a jitter is 0s to 1h"]),
        ] {
            let plan = plan(&format!("schedule: {schedule}"));
            let problems: Vec<_> = plan.problems.iter().map(ToString::to_string).collect();
            let found = problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)));
            assert!(found, "{words:?} in {problems:?}");
        }
    }

    #[test]
    fn the_manifests_of_the_documentation_are_fine() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schedules.md");
        let page = std::fs::read_to_string(page).unwrap();
        let manifests = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), manifests).unwrap();
        let manifests = manifests::read(folder.path(), &Schemas::compile().unwrap()).unwrap();
        let plan = compile(&Installation::parse("dev").unwrap(), &manifests, &BTreeMap::new());
        assert_eq!(plan.problems, vec![]);
        assert_eq!(plan.apps[&Key::new("default", "shop")].schedules.len(), 1);
    }

    #[test]
    fn forbid_is_told_not_to_be_kept_here() {
        let plan = plan("schedule: {cron: '@daily', concurrencyPolicy: Forbid}");
        assert!(plan.notes.iter().any(|note| note.contains("Forbid needs a cluster")), "{:?}", plan.notes);
    }
}
