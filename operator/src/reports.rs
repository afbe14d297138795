//! Runners' reports: read as hostile, believed only of the App whose broker user sent them, then remembered.

mod bridge;

use std::sync::Arc;

use funcatron_broker::link::{ConsumeOptions, Envelope, Event, Link, LinkError};
use funcatron_broker::message::{BridgeReport, DurableQueue, MissingQueue, Report, ReportEvent};
use funcatron_crds::RevisionName;
use funcatron_crds::names::{LABEL_APP, LABEL_FN, LABEL_REVISION};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use tracing::{debug, info, warn};

use crate::apply::delete;
use crate::cache::label;
use crate::context::{Context, ReconcileError};
use crate::function::decide::Verdict;
use crate::function::status::failure;
use crate::keys::{Key, Kind, Name};

/// Reports taken at once.
const PREFETCH: u16 = 64;

/// A report that may be believed.
#[derive(Debug, PartialEq, Eq)]
struct Believed {
    function: Name,
    app: String,
    revision: RevisionName,
    runner: String,
    news: News,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Verdict(Verdict),
    Unloaded,
    Stuck,
}

/// Why a report is dropped.
#[derive(Debug, PartialEq, Eq)]
enum Dropped {
    /// Not sent by that App's user.
    Forged,
    /// About nothing that can be.
    Unreadable,
}

/// Judges a report by who sent it. `user` gives the broker user of an App.
fn judge(report: Report, user: impl Fn(&str, &str) -> Option<String>) -> Result<Believed, Dropped> {
    let Report { user_id, event, namespace, app, fn_name, revision, runner, reason, log } = report;
    let sender = user_id.ok_or(Dropped::Forged)?;
    if user(&namespace, &app).as_ref() != Some(&sender) {
        return Err(Dropped::Forged);
    }
    let revision = RevisionName::parse(&revision).map_err(|_| Dropped::Unreadable)?;
    if revision.fn_name() != fn_name {
        return Err(Dropped::Unreadable);
    }
    let told = || failure(reason.as_deref(), log.as_deref());
    let news = match event {
        ReportEvent::Loaded => News::Verdict(Verdict::Loaded),
        ReportEvent::Failed => News::Verdict(Verdict::Failed(told())),
        ReportEvent::KeyMissing => {
            News::Verdict(Verdict::KeyMissing(reason.unwrap_or_else(|| "a key is missing".to_owned())))
        }
        ReportEvent::Unloaded => News::Unloaded,
        ReportEvent::Stuck => News::Stuck,
    };
    Ok(Believed { function: Name::new(namespace, fn_name), app, revision, runner, news })
}

/// Takes reports until the link is down.
pub(crate) async fn consume(ctx: &Context, link: Arc<dyn Link>) -> Result<(), LinkError> {
    let queue = ctx.config.installation.reports_queue();
    let options = ConsumeOptions { prefetch: PREFETCH, exclusive: false, no_ack: false };
    let mut consumer = link.consume(&queue, options).await?;
    while let Some(Event::Delivery(mut delivery)) = consumer.next().await {
        let envelope = delivery.take_envelope();
        let fate = if DurableQueue::is(&envelope) {
            durable_queue(ctx, &envelope, &delivery.exchange)
        } else if BridgeReport::is(&envelope) {
            bridge::take(ctx, &envelope)
        } else if MissingQueue::is(&envelope) {
            missing_queue(ctx, &envelope, &delivery.exchange)
        } else {
            report(ctx, &envelope).await
        };
        ctx.metrics.report(fate);
        delivery.ack().await?;
    }
    Ok(())
}

async fn report(ctx: &Context, envelope: &Envelope) -> &'static str {
    match Report::from_envelope(envelope) {
        Ok(report) => take(ctx, report).await,
        Err(error) => {
            debug!(%error, "dropping a report that cannot be read");
            "unreadable"
        }
    }
}

/// A gateway has made a durable queue. Only the default exchange, which no App's user may write to, is believed.
fn durable_queue(ctx: &Context, envelope: &Envelope, exchange: &str) -> &'static str {
    if !exchange.is_empty() {
        warn!("dropping word of a durable queue that is not a gateway's");
        return "forged";
    }
    let Ok(DurableQueue { namespace, app, fn_name }) = DurableQueue::from_envelope(envelope) else {
        return "unreadable";
    };
    let Some(function) = known(ctx, namespace, &app, fn_name) else { return "unknown" };
    if ctx.saw_durable_queue(&function, &app) {
        info!(%function, "a gateway has made its durable queue");
    }
    ctx.queue.add(Key { kind: Kind::Fn, name: function });
    "taken"
}

/// A gateway's table names a revision whose queue is not there: what was declared counts no more, and is so again.
fn missing_queue(ctx: &Context, envelope: &Envelope, exchange: &str) -> &'static str {
    if !exchange.is_empty() {
        warn!("dropping word of a missing queue that is not a gateway's");
        return "forged";
    }
    let Ok(MissingQueue { namespace, app, fn_name }) = MissingQueue::from_envelope(envelope) else {
        return "unreadable";
    };
    let Some(function) = known(ctx, namespace, &app, fn_name) else { return "unknown" };
    info!(%function, "a gateway misses its revision's queue");
    ctx.broker.doubt();
    ctx.queue.add(Key { kind: Kind::Fn, name: function });
    "taken"
}

/// A Fn that is there and of that App.
fn known(ctx: &Context, namespace: String, app: &str, fn_name: String) -> Option<Name> {
    let function = Name::new(namespace, fn_name);
    let known = ctx.caches.fns.get(&function.namespace, &function.name)?;
    (known.spec.app == app).then_some(function)
}

async fn take(ctx: &Context, report: Report) -> &'static str {
    let user = |namespace: &str, app: &str| Some(ctx.names(namespace, app).ok()?.user().to_owned());
    let believed = match judge(report, user) {
        Ok(believed) => believed,
        Err(Dropped::Forged) => {
            warn!("dropping a report whose sender is not its App's user");
            return "forged";
        }
        Err(Dropped::Unreadable) => return "unreadable",
    };
    let known = ctx.caches.fns.get(&believed.function.namespace, &believed.function.name);
    if known.is_none_or(|function| function.spec.app != believed.app) {
        return "unknown";
    }
    remember(ctx, believed).await;
    "taken"
}

async fn remember(ctx: &Context, believed: Believed) {
    let Believed { function, app, revision, runner, news } = believed;
    match news {
        News::Verdict(verdict) => {
            // Dedicated runners say the same now and then, in case it was lost.
            let news = ctx.memory.with_fn(&function, |memory| {
                let Some(load) = memory.load(&revision) else { return false };
                let news = load.verdict != verdict;
                load.report(verdict.clone());
                news
            });
            if news {
                info!(%function, %revision, runner, ?verdict, "runner reported");
                ctx.queue.add(Key { kind: Kind::Fn, name: function });
            }
        }
        News::Unloaded => {
            if ctx.is_durable(&function.namespace, &app, &function.name) {
                ctx.queue.add(Key { kind: Kind::Fn, name: function.clone() });
            }
            for trigger in ctx.caches.triggers_of(&function.namespace, &app) {
                if trigger.spec.fn_name == function.name && trigger.spec.is_durable() {
                    ctx.queue.add(Key::new(Kind::Trigger, &function.namespace, trigger.name_any()));
                }
            }
        }
        News::Stuck => {
            if let Err(error) = replace_pod(ctx, &function, &app, &revision, &runner).await {
                warn!(%function, %revision, runner, %error, "cannot replace a stuck pod");
            }
        }
    }
}

/// Deletes a pod whose function hangs, after seeing that it is a pod of that revision: a runner may ask for its own
/// end alone.
async fn replace_pod(
    ctx: &Context,
    function: &Name,
    app: &str,
    revision: &RevisionName,
    runner: &str,
) -> Result<(), ReconcileError> {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &function.namespace);
    let pod = api.get_opt(runner).await.map_err(|source| ReconcileError::Read {
        what: format!("Pod {}/{runner}", function.namespace),
        source: Box::new(source),
    })?;
    let Some(pod) = pod else { return Ok(()) };
    let its_own = label(&pod, LABEL_APP) == app
        && label(&pod, LABEL_FN) == function.name
        && label(&pod, LABEL_REVISION) == revision.as_str();
    if !its_own {
        warn!(%function, %revision, runner, "a runner asked for the end of a pod that is not its own");
        return Ok(());
    }
    info!(%function, %revision, runner, "replacing a pod whose function hangs");
    Ok(delete::<Pod>(&ctx.client, &function.namespace, runner).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(event: ReportEvent) -> Report {
        Report {
            user_id: Some("i.team-a.shop".into()),
            event,
            namespace: "team-a".into(),
            app: "shop".into(),
            fn_name: "hello".into(),
            revision: "hello-0123abcd".into(),
            runner: "pod".into(),
            reason: Some("cannot import".into()),
            log: Some("Traceback\nModuleNotFoundError: nope".into()),
        }
    }

    fn user(namespace: &str, app: &str) -> Option<String> {
        Some(format!("i.{namespace}.{app}"))
    }

    #[test]
    fn a_report_without_a_sender_or_of_another_apps_is_forged() {
        let nobodys = Report { user_id: None, ..report(ReportEvent::Loaded) };
        assert_eq!(judge(nobodys, user), Err(Dropped::Forged));
        let anothers = Report { user_id: Some("i.team-a.shop-b".into()), ..report(ReportEvent::Loaded) };
        assert_eq!(judge(anothers, user), Err(Dropped::Forged));
    }

    #[test]
    fn a_revision_of_another_fn_is_unreadable() {
        let other = Report { revision: "other-0123abcd".into(), ..report(ReportEvent::Loaded) };
        assert_eq!(judge(other, user), Err(Dropped::Unreadable));
    }

    #[test]
    fn a_failure_carries_its_last_log_line() {
        let believed = judge(report(ReportEvent::Failed), user).unwrap();
        let News::Verdict(Verdict::Failed(why)) = believed.news else { panic!("{:?}", believed.news) };
        assert_eq!(why, "cannot import: ModuleNotFoundError: nope");
    }
}
