//! An App's table: composed (pure) from what serves each Fn, written when it differs.

use funcatron_crds::names::LABEL_FN;
use funcatron_crds::{App, Function, RevisionName, Timeout, Trigger, names};
use funcatron_routing::app_table::{
    AppBounds, AppTable, AsyncPolicy, FnEntry, HttpTriggerEntry, RevisionEntry,
};
use kube::ResourceExt;

use crate::apply::{apply, is_current, stamped};
use crate::cache::label;
use crate::context::{Context, ReconcileError};
use crate::keys::Name;
use crate::objects::config_maps::{self, Content};
use crate::objects::revisions::{self, Stored};
use crate::trigger::sources;

/// One Fn as the table sees it.
pub(crate) struct ServedFn {
    /// Its name.
    name: String,
    /// What serves, if anything.
    serving: Option<Stored>,
    /// Longest time from submit to answer, as its spec says now.
    timeout_ms: u64,
    /// Whether it has a durable queue.
    durable: bool,
    /// How calls are tried that nobody waits for.
    detached: AsyncPolicy,
}

/// Composes the table. The timeout is that of the revision that serves: both belong to what was tried.
fn compose(app: &App, fns: Vec<ServedFn>, triggers: &[&Trigger]) -> AppTable {
    let bounds = AppBounds::of(&app.spec);
    let mut table = AppTable::new(app.namespace().unwrap_or_default(), app.name_any(), bounds);
    table.fns = fns.into_iter().map(fn_entry).collect();
    table.triggers = triggers.iter().filter_map(|trigger| trigger_entry(trigger)).collect();
    table.triggers.sort_by(|a, b| a.name.cmp(&b.name));
    table
}

fn fn_entry(served: ServedFn) -> (String, FnEntry) {
    let ServedFn { name, serving, timeout_ms, durable, detached } = served;
    let entry = match serving {
        None => FnEntry { revision: None, timeout_ms, detached },
        Some(Stored { name, number: _, record }) => FnEntry {
            timeout_ms: record.timeout_ms,
            detached,
            revision: Some(RevisionEntry {
                name,
                runtime: record.runtime,
                run: record.run,
                code: record.code,
                concurrency: record.concurrency,
                durable,
            }),
        },
    };
    (name, entry)
}

fn trigger_entry(trigger: &Trigger) -> Option<HttpTriggerEntry> {
    // It keeps its path from others, and answers nothing there.
    let http = trigger.spec.http.as_ref().filter(|_| !trigger.spec.is_suspended())?;
    Some(HttpTriggerEntry {
        name: trigger.name_any(),
        source: http.source.clone(),
        fn_name: trigger.spec.fn_name.clone(),
        is_async: trigger.spec.is_async(),
    })
}

/// The stored revision of a Fn that belongs to its present App.
fn stored(ctx: &Context, function: &Function, revision: &RevisionName) -> Option<Stored> {
    let namespace = function.namespace().unwrap_or_default();
    let object = ctx.caches.revisions.get(&namespace, revision.as_str())?;
    let ours = label(object.as_ref(), LABEL_FN) == function.name_any();
    revisions::read(&object).filter(|stored| ours && stored.record.app == function.spec.app)
}

/// What serves a Fn: as decided, or as its status tells from before a restart.
fn serving(ctx: &Context, function: &Function) -> Option<Stored> {
    let name = Name::new(function.namespace().unwrap_or_default(), function.name_any());
    let decided = ctx.memory.with_known_fn(&name, |memory| memory.serving.clone()).flatten();
    let told = || RevisionName::parse(function.status.as_ref()?.revision.as_deref()?).ok();
    let revision = decided.unwrap_or_else(told)?;
    stored(ctx, function, &revision)
}

fn served(ctx: &Context, function: &Function) -> ServedFn {
    let (namespace, name) = (function.namespace().unwrap_or_default(), function.name_any());
    let timeout = function.spec.timeout.as_ref().and_then(|timeout| timeout.to_duration().ok());
    let timeout_ms = timeout.unwrap_or(Timeout::DEFAULT).as_millis();
    ServedFn {
        serving: serving(ctx, function),
        timeout_ms: u64::try_from(timeout_ms).unwrap_or(u64::MAX),
        durable: ctx.is_durable(&namespace, &function.spec.app, &name),
        detached: AsyncPolicy::of(function.spec.detached.as_ref()),
        name,
    }
}

/// Writes the App's table if it differs from the one that stands. The caller holds the App's turn.
pub(crate) async fn publish(ctx: &Context, namespace: &str, app_name: &str) -> Result<(), ReconcileError> {
    let Some(app) = ctx.caches.living_app(namespace, app_name) else { return Ok(()) };
    let fns = ctx.caches.fns_of(namespace, app_name);
    let fns = fns.iter().map(|function| served(ctx, function)).collect();
    let triggers = ctx.caches.triggers_of(namespace, app_name);
    let winners = sources::winners(triggers.iter().map(AsRef::as_ref));
    let text = String::from_utf8_lossy(&compose(&app, fns, &winners).to_bytes()).into_owned();
    let system = &ctx.config.system_namespace;
    let object = stamped(config_maps::app_table(system, namespace, app_name, Content::of(text)));
    let standing = ctx.caches.tables.get(system, &names::app_table(namespace, app_name));
    if standing.is_some_and(|standing| is_current(standing.as_ref(), &object)) {
        return Ok(());
    }
    let written = apply(&ctx.client, &object).await?;
    ctx.caches.tables.put(crate::objects::meta_only(written.metadata));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::revisions::Record;
    use funcatron_crds::{AppSpec, Digest, HttpTrigger, TriggerSpec};

    fn stored_revision() -> Stored {
        Stored {
            name: RevisionName::new("hello", "0123abcd").unwrap(),
            number: 1,
            record: Record {
                app: "shop".into(),
                runtime: Some("python".into()),
                image: None,
                run: Digest::of(b"run"),
                code: Some(Digest::of(b"code")),
                concurrency: 2,
                timeout_ms: 5000,
                secrets: [].into(),
                config_maps: [].into(),
            },
        }
    }

    #[test]
    fn a_fn_without_a_loaded_revision_stands_in_the_table_and_answers_503() {
        let served = ServedFn {
            name: "hello".into(),
            serving: None,
            timeout_ms: 7,
            durable: false,
            detached: AsyncPolicy::default(),
        };
        let table = compose(&App::new("shop", AppSpec::default()), vec![served], &[]);
        assert_eq!(
            table.fns["hello"],
            FnEntry { revision: None, timeout_ms: 7, detached: AsyncPolicy::default() }
        );
        assert_eq!(table.bounds.body_bytes_max, 6_291_456);
    }

    #[test]
    fn a_trigger_enters_as_it_is_answered_and_not_at_all_while_suspended() {
        let trigger = |is_async, suspend| {
            let http = Some(HttpTrigger { source: "/hook".into() });
            Trigger::new("hook", TriggerSpec { http, is_async, suspend, ..TriggerSpec::default() })
        };
        for is_async in [None, Some(false), Some(true)] {
            let entry = trigger_entry(&trigger(is_async, None)).unwrap();
            assert_eq!(entry.is_async, is_async == Some(true));
        }
        assert_eq!(trigger_entry(&trigger(Some(true), Some(true))), None);
    }

    #[test]
    fn the_serving_revision_brings_its_own_timeout() {
        let served = ServedFn {
            name: "hello".into(),
            serving: Some(stored_revision()),
            timeout_ms: 7,
            durable: true,
            detached: AsyncPolicy::default(),
        };
        let table = compose(&App::new("shop", AppSpec::default()), vec![served], &[]);
        let entry = &table.fns["hello"];
        assert_eq!(entry.timeout_ms, 5000);
        assert!(
            entry.revision.as_ref().is_some_and(|revision| revision.durable && revision.concurrency == 2)
        );
    }
}
