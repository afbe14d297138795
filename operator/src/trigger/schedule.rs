//! A schedule's firing: claimed in the Trigger's status over the version that was read, then published with the
//! broker's word for it. Whether and what is decided by `schedule`; never reads a spec again.

use std::time::Duration;

use funcatron_broker::message::{Call, CallId, fresh_claimant};
use funcatron_broker::topology;
use funcatron_crds::{ConditionType, FiredCall, Timeout, Trigger, TriggerStatus, find_condition};
use funcatron_routing::app_table::AsyncPolicy;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use tracing::{debug, info, warn};

use crate::apply::replace_status;
use crate::context::{Context, ReconcileError};
use crate::keys::{Kind, Name};
use crate::schedule::{Act, Earlier, Firing, History, Occasion, Timetable, call, call_id, decide, queued};

/// Between two looks at a call that holds the next firing up.
const HOLD_LOOK: Duration = Duration::from_secs(10);
/// The broker counts every 5 s: a queue that was empty this long after a publish has seen it come and go.
const COUNT_AGE_MAX: SignedDuration = SignedDuration::from_secs(30);
/// What a firing that waits is told about.
const FIELD: &str = "spec.schedule.concurrencyPolicy";

/// What a look at a schedule came to.
pub(super) struct Looked {
    /// The Trigger as it stands: after a claim, a newer version.
    pub(super) trigger: Trigger,
    /// What is to be written.
    pub(super) history: History,
    /// Why a tick that is owed does not fire.
    pub(super) hold: Option<Hold>,
    /// When to look again.
    pub(super) look_again: Option<Duration>,
    /// Whether a call was published, which must be written down.
    pub(super) fired: bool,
    /// What went wrong after the claim: it is tried again.
    pub(super) error: Option<ReconcileError>,
}

/// Why a tick that is owed does not fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hold {
    /// The earlier call waits or runs.
    Running(String),
    /// Nobody knows whether it is over.
    Unknown(String),
}

/// Fires what is owed. `None`: someone else has written the Trigger since it was read, and nothing was published.
pub(super) async fn look(
    ctx: &Context,
    key: &Name,
    trigger: &Trigger,
    table: &Timetable,
) -> Result<Option<Looked>, ReconcileError> {
    let now = Timestamp::now();
    let history = history(trigger, now);
    let mut decision = decide(table, &history, Earlier::NotAsked, now);
    if let Act::Ask(earlier) = decision.act {
        decision = decide(table, &history, ask(ctx, key, trigger, table, earlier).await, now);
    }
    let looked = Looked { history: decision.history, ..Looked::nothing(trigger) };
    match decision.act {
        Act::Rest { until, skipped } => {
            if let Some(tick) = skipped {
                tell_skipped(ctx, trigger, tick).await;
            }
            Ok(Some(Looked { look_again: until.map(|until| wait(until, now)), ..looked }))
        }
        Act::Ask(earlier) | Act::Hold { earlier, .. } => {
            let unknown = !matches!(decision.act, Act::Hold { unknown: false, .. });
            let hold = Some(hold(ctx, earlier, unknown));
            Ok(Some(Looked { hold, look_again: Some(HOLD_LOOK), ..looked }))
        }
        Act::Publish(firing) | Act::Claim(firing) => {
            let claimed = match decision.act {
                // The watch may be behind what this very process has written since.
                Act::Publish(_) => reread(ctx, trigger).await?,
                _ => claim(ctx, trigger, table, &decision.history).await?,
            };
            let Some(claimed) = claimed else { return Ok(None) };
            Ok(Some(publish(ctx, key, claimed, table, decision.history, firing).await))
        }
    }
}

impl Looked {
    /// As it was read.
    fn nothing(trigger: &Trigger) -> Self {
        Self {
            trigger: trigger.clone(),
            history: history(trigger, Timestamp::now()),
            hold: None,
            look_again: None,
            fired: false,
            error: None,
        }
    }

    /// Nothing fires: there is no schedule, or what stands in its way is told.
    pub(super) fn idle(trigger: &Trigger, table: Option<&Timetable>, error: Option<ReconcileError>) -> Self {
        let mut looked = Self { error, ..Self::nothing(trigger) };
        if let Some(table) = table {
            looked.history = peek(&looked.history, table, Timestamp::now());
        }
        looked
    }
}

/// What is owed while nothing can be published: written, so that people see it.
fn peek(history: &History, table: &Timetable, now: Timestamp) -> History {
    let decision = decide(table, history, Earlier::NotAsked, now);
    match decision.act {
        // Nothing was claimed: what is owed stays so.
        Act::Claim(firing) => History { next_firing: Some(firing.tick), ..*history },
        // A tick that is skipped is told where it can be.
        Act::Rest { skipped: Some(tick), .. } => History { next_firing: Some(tick), ..*history },
        _ => decision.history,
    }
}

/// What the status tells of before. A Trigger that was refused owed nothing.
fn history(trigger: &Trigger, now: Timestamp) -> History {
    let created = trigger.creation_timestamp().map_or(now, |created| created.0);
    let Some(status) = &trigger.status else { return History::new(created) };
    let refused = [ConditionType::Accepted, ConditionType::ResolvedRefs]
        .into_iter()
        .filter_map(|kind| find_condition(&status.conditions, kind))
        .any(|condition| condition.status == "False");
    History {
        since: if refused { now } else { created },
        last_fired: status.last_fired.as_ref().map(|time| time.0),
        last_deadline: status.last_call.as_ref().map(|call| call.deadline.0),
        next_firing: status.next_firing.as_ref().map(|time| time.0),
        firing: status
            .firing
            .as_ref()
            .map(|firing| Firing { tick: firing.tick.0, deadline: firing.deadline.0 }),
    }
}

/// A status with this history.
pub(super) fn write_history(status: &mut TriggerStatus, history: &History, seed: &str) {
    let History { since: _, last_fired, last_deadline, next_firing, firing } = *history;
    let id = |tick| call_id(seed, tick).to_string();
    status.last_fired = last_fired.map(Time);
    status.last_call = last_fired
        .zip(last_deadline)
        .map(|(tick, deadline)| FiredCall { id: id(tick), deadline: Time(deadline) });
    status.next_firing = next_firing.map(Time);
    status.firing = firing.map(|Firing { tick, deadline }| funcatron_crds::Firing {
        tick: Time(tick),
        id: id(tick),
        deadline: Time(deadline),
    });
}

/// Writes the claim, unless someone has written since: a second leader has it then.
async fn claim(
    ctx: &Context,
    trigger: &Trigger,
    table: &Timetable,
    history: &History,
) -> Result<Option<Trigger>, ReconcileError> {
    let mut claimed = trigger.clone();
    write_history(claimed.status.get_or_insert_default(), history, table.seed());
    Ok(replace_status(&ctx.client, &claimed).await?)
}

async fn publish(
    ctx: &Context,
    key: &Name,
    trigger: Trigger,
    table: &Timetable,
    history: History,
    firing: Firing,
) -> Looked {
    let id = call_id(table.seed(), firing.tick);
    let sent = send(ctx, key, &trigger, id, firing).await;
    let fired = sent.is_ok();
    let history = if fired { history.fired() } else { history };
    if fired {
        info!(trigger = %key, tick = %firing.tick, %id, "fired");
    }
    let now = Timestamp::now();
    let look_again = match decide(table, &history, Earlier::NotAsked, now).act {
        Act::Rest { until, .. } => until.map(|until| wait(until, now)),
        _ => Some(Duration::ZERO),
    };
    Looked { trigger, history, hold: None, look_again, fired, error: sent.err() }
}

async fn send(
    ctx: &Context,
    key: &Name,
    trigger: &Trigger,
    id: CallId,
    firing: Firing,
) -> Result<(), ReconcileError> {
    let fn_name = &trigger.spec.fn_name;
    let function = ctx.caches.fns.get(&key.namespace, fn_name);
    let timeout = function.as_ref().and_then(|function| function.spec.timeout.as_ref()?.to_duration().ok());
    let policy = AsyncPolicy::of(function.as_ref().and_then(|function| function.spec.detached.as_ref()));
    let revision = function.and_then(|function| function.status.as_ref()?.revision.clone());
    // Without a ledger nobody would answer, though its queue may still stand.
    let claimant = ctx.config.ledger_url.as_ref().map(|_| fresh_claimant());
    let base = ctx.config.gateway_internal_url.trim_end_matches('/');
    let occasion = Occasion {
        namespace: &key.namespace,
        trigger: &key.name,
        app: &trigger.spec.app,
        fn_name,
        revision: revision.as_deref().unwrap_or_default(),
        url: &format!("{base}/invoke/{}/{fn_name}", key.namespace),
        timeout_ms: u64::try_from(timeout.unwrap_or(Timeout::DEFAULT).as_millis()).unwrap_or(u64::MAX),
        attempts_max: policy.attempts_max,
        claimant: claimant.as_deref(),
    };
    let queue = ctx.names(&key.namespace, &trigger.spec.app)?.durable_queue(fn_name)?;
    let call = call(occasion, id, firing, Timestamp::now());
    let message = call.to_envelope().map_err(ReconcileError::Message)?;
    ctx.broker.publish_confirmed(&queue, message).await?;
    tell(ctx, key, &call).await;
    Ok(())
}

/// Tells the ledger of a call that is with the broker. If the word is lost, its first attempt is the next.
async fn tell(ctx: &Context, key: &Name, call: &Call) {
    if ctx.config.ledger_url.is_none() {
        return;
    }
    let Ok(event) = queued(&key.namespace, call, Timestamp::now()).into_envelope() else { return };
    let installation = &ctx.config.installation;
    let told = async {
        ctx.broker.ensure(topology::ledger(installation)).await?;
        ctx.broker.publish(&installation.ledger_queue(), event).await
    };
    if let Err(error) = told.await {
        debug!(%key, %error, "the ledger is not told of a firing");
    }
}

/// What is known of an earlier call: the ledger's word, or else that nothing at all is in its Fn's queue.
async fn ask(ctx: &Context, key: &Name, trigger: &Trigger, table: &Timetable, earlier: Timestamp) -> Earlier {
    if let Some(ledger) = &ctx.ledger {
        match ledger.is_over(call_id(table.seed(), earlier)).await {
            Ok(Some(true)) => return Earlier::Over,
            Ok(Some(false)) => return Earlier::Running,
            Ok(None) => debug!(trigger = %key, %earlier, "the ledger does not know the earlier call"),
            Err(error) => warn!(trigger = %key, %error, "cannot ask the ledger"),
        }
    }
    match is_queue_idle(ctx, key, trigger).await {
        Ok(true) => Earlier::Over,
        Ok(false) => Earlier::Unknown,
        Err(error) => {
            warn!(trigger = %key, %error, "cannot count what is in the durable queue");
            Earlier::Unknown
        }
    }
}

/// Whether the Fn's durable queue is empty, counted long enough after the last publish. One that is not may hold
/// another Trigger's calls, and tells nothing.
async fn is_queue_idle(ctx: &Context, key: &Name, trigger: &Trigger) -> Result<bool, ReconcileError> {
    let age = SignedDuration::try_from(crate::schedule::CALL_AGE_MAX).unwrap_or(SignedDuration::MAX);
    let published = trigger
        .status
        .as_ref()
        .and_then(|status| status.last_call.as_ref()?.deadline.0.checked_sub(age).ok());
    if published.is_none_or(|published| Timestamp::now().duration_since(published) < COUNT_AGE_MAX) {
        return Ok(false);
    }
    let queue = ctx.names(&key.namespace, &trigger.spec.app)?.durable_queue(&trigger.spec.fn_name)?;
    Ok(ctx.management.is_idle(queue.as_str()).await?)
}

fn hold(ctx: &Context, earlier: Timestamp, unknown: bool) -> Hold {
    if !unknown {
        return Hold::Running(format!("{FIELD}: Forbid: waits for the end of the firing of {earlier}"));
    }
    let fix = match ctx.ledger.is_some() {
        true => "the ledger does not know its call, and messages are in the Fn's durable queue",
        false => {
            "no ledger is configured, and messages are in the Fn's durable queue; let the operator ask a ledger \
             (--ledger-url), or set Allow"
        }
    };
    Hold::Unknown(format!(
        "{FIELD}: Forbid: nothing fires, since nobody knows whether the firing of {earlier} is over: {fix}"
    ))
}

async fn tell_skipped(ctx: &Context, trigger: &Trigger, tick: Timestamp) {
    let message = format!("{tick} was missed by more than spec.schedule.startingDeadline and is skipped");
    info!(trigger = trigger.name_any(), %tick, "skipped a firing that was missed");
    ctx.tell(Kind::Trigger, trigger, ("False", "FiringSkipped", &message)).await;
}

/// The Trigger as the API server has it now, if its status still holds this claim.
pub(super) async fn reread(ctx: &Context, trigger: &Trigger) -> Result<Option<Trigger>, ReconcileError> {
    let claimed = |trigger: &Trigger| trigger.status.as_ref().and_then(|status| status.firing.clone());
    let namespace = trigger.namespace().unwrap_or_default();
    let api = Api::<Trigger>::namespaced(ctx.client.clone(), &namespace);
    let now = api.get_opt(&trigger.name_any()).await.map_err(|source| ReconcileError::Read {
        what: format!("Trigger {namespace}/{}", trigger.name_any()),
        source: Box::new(source),
    })?;
    Ok(now.filter(|now| claimed(now) == claimed(trigger) && now.metadata.uid == trigger.metadata.uid))
}

/// At least a millisecond, so that a clock that is a little early does not spin.
fn wait(until: Timestamp, now: Timestamp) -> Duration {
    let wait = until.duration_since(now).unsigned_abs();
    if until > now { wait.max(Duration::from_millis(1)) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{Reason, ScheduleTrigger, TriggerSpec, set_condition};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn trigger() -> Trigger {
        let schedule = Some(ScheduleTrigger { cron: "@hourly".into(), ..ScheduleTrigger::default() });
        let mut trigger = Trigger::new("nightly", TriggerSpec { schedule, ..TriggerSpec::default() });
        trigger.metadata.creation_timestamp = Some(Time(at("2026-01-01T00:00:00Z")));
        trigger
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let history_before = History {
            last_fired: Some(at("2026-01-02T00:00:00Z")),
            last_deadline: Some(at("2026-01-02T01:00:00Z")),
            next_firing: Some(at("2026-01-02T03:00:00Z")),
            firing: Some(Firing { tick: at("2026-01-02T02:00:00Z"), deadline: at("2026-01-02T03:00:01Z") }),
            ..History::new(at("2026-01-01T00:00:00Z"))
        };
        let mut trigger = trigger();
        write_history(trigger.status.get_or_insert_default(), &history_before, "uid");
        let json = serde_json::to_string(&trigger.status).unwrap();
        trigger.status = serde_json::from_str(&json).unwrap();
        assert_eq!(history(&trigger, at("2026-02-01T00:00:00Z")), history_before);
    }

    #[test]
    fn a_trigger_that_was_refused_owes_nothing_from_then() {
        let (mut trigger, now) = (trigger(), at("2026-02-01T00:00:00Z"));
        let status = trigger.status.get_or_insert_default();
        let kind = ConditionType::Accepted;
        set_condition(&mut status.conditions, kind, false, Reason::Invalid, "", None, &Time(now));
        assert_eq!(history(&trigger, now).since, now);
        let status = trigger.status.get_or_insert_default();
        set_condition(&mut status.conditions, kind, true, Reason::Accepted, "", None, &Time(now));
        assert_eq!(history(&trigger, now).since, at("2026-01-01T00:00:00Z"));
    }

    #[test]
    fn a_moment_that_has_passed_is_waited_for_no_longer() {
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(wait(now, now), Duration::ZERO);
        assert_eq!(wait(now + SignedDuration::from_secs(5), now), Duration::from_secs(5));
        assert_eq!(wait(now + SignedDuration::from_micros(5), now), Duration::from_millis(1));
    }
}
