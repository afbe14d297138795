//! Removes what nobody owns any more: ConfigMaps of the system namespace, and names on the broker. Runs only after
//! all caches have synced, and touches only this installation's prefix.

use std::collections::BTreeSet;

use funcatron_broker::names::{AppObject, Meaning};
use funcatron_crds::names::{
    LABEL_APP, LABEL_NAMESPACE, LABEL_PART, LABEL_ROUTE, PART_APP_TABLE, PART_BUNDLE, PART_ROUTE_TABLE,
};
use funcatron_crds::{Digest, RevisionName, names};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use tracing::info;

use crate::apply::delete;
use crate::cache::label;
use crate::context::{Caches, Context, ReconcileError};
use crate::keys::{Key, Kind, Name};
use crate::objects::revisions;

/// Whether the ConfigMap's owner stands. What is not ours is left alone.
fn has_owner(caches: &Caches, map: &PartialObjectMeta<ConfigMap>) -> bool {
    let namespace = label(map, LABEL_NAMESPACE);
    match label(map, LABEL_PART) {
        PART_ROUTE_TABLE => caches.routes.stands(namespace, label(map, LABEL_ROUTE)),
        PART_APP_TABLE | PART_BUNDLE => caches.apps.stands(namespace, label(map, LABEL_APP)),
        _ => true,
    }
}

/// Deletes tables and bundles of what is gone.
pub(crate) async fn config_maps(ctx: &Context) -> Result<(), ReconcileError> {
    for (name, map) in ctx.caches.tables.all() {
        if !has_owner(&ctx.caches, &map) {
            info!(config_map = name.name, "deleting a ConfigMap that nobody owns");
            delete_map(ctx, &name.name).await?;
        }
    }
    Ok(())
}

/// Deletes the bundles of an App that no revision names. The caller holds the App's turn.
pub(crate) async fn bundles(ctx: &Context, namespace: &str, app: &str) -> Result<(), ReconcileError> {
    let revisions = ctx.caches.revisions.in_namespace(namespace);
    let records = revisions.iter().filter_map(|object| revisions::read(object)).map(|stored| stored.record);
    let named: BTreeSet<String> = records
        .filter(|record| record.app == app)
        .flat_map(|record| [Some(record.run), record.code].into_iter().flatten())
        .map(|digest: Digest| names::bundle(namespace, app, &digest))
        .collect();
    for map in ctx.caches.tables.in_namespace(&ctx.config.system_namespace) {
        let bundle = label(map.as_ref(), LABEL_PART) == PART_BUNDLE
            && label(map.as_ref(), LABEL_NAMESPACE) == namespace
            && label(map.as_ref(), LABEL_APP) == app;
        if bundle && !named.contains(&map.name_any()) {
            delete_map(ctx, &map.name_any()).await?;
        }
    }
    Ok(())
}

/// Deletes a ConfigMap of the system namespace.
pub(crate) async fn delete_map(ctx: &Context, name: &str) -> Result<(), ReconcileError> {
    delete::<ConfigMap>(&ctx.client, &ctx.config.system_namespace, name).await?;
    ctx.caches.tables.remove(&ctx.config.system_namespace, name);
    Ok(())
}

/// Whether something on the broker has lost its owner. Runners' own queues go with their connections.
fn is_orphan(caches: &Caches, meaning: &Meaning) -> bool {
    let Meaning::App { namespace, app, kind } = meaning else { return false };
    let fn_of_app = |name: &str| {
        let here = caches.fns.get(namespace, name).map(|function| function.spec.app == *app);
        // One that stands but cannot be read keeps what it has.
        here.unwrap_or_else(|| caches.fns.stands(namespace, name))
    };
    if !caches.apps.stands(namespace, app) {
        return true;
    }
    match kind {
        AppObject::Revision(revision) => match RevisionName::parse(revision) {
            // A Fn that moved to another App retires its revisions here itself.
            Ok(name) => !caches.fns.stands(namespace, name.fn_name()),
            Err(_) => true,
        },
        AppObject::Durable(name) | AppObject::Dead(name) => !fn_of_app(name),
        AppObject::Bridge(trigger) => !caches.triggers.stands(namespace, trigger),
        AppObject::Exchange(_)
        | AppObject::Wake(_)
        | AppObject::Runner
        | AppObject::Cancel
        | AppObject::User => false,
    }
}

/// Deletes everything of this installation on the broker that has lost its owner.
pub(crate) async fn all_names(ctx: &Context) -> Result<(), ReconcileError> {
    named_like_queues(ctx, &ctx.config.installation.prefix()).await?;
    for user in ctx.management.users(&ctx.config.installation.prefix()).await? {
        let meaning = Meaning::of_user(&ctx.config.installation, &user);
        if meaning.is_some_and(|meaning| is_orphan(&ctx.caches, &meaning)) {
            info!(user, "deleting a broker user that nobody owns");
            ctx.management.delete_user(&user).await?;
        }
    }
    Ok(())
}

/// Deletes what an App has on the broker and has lost its owner: everything, once the App is gone.
pub(crate) async fn app_names(ctx: &Context, namespace: &str, app: &str) -> Result<(), ReconcileError> {
    let user = ctx.names(namespace, app)?.user().to_owned();
    named_like_queues(ctx, &format!("{user}.")).await
}

/// Queues, their policies, and exchanges.
async fn named_like_queues(ctx: &Context, prefix: &str) -> Result<(), ReconcileError> {
    let orphan = |name: &String| {
        let meaning = Meaning::of(&ctx.config.installation, name);
        meaning.is_some_and(|meaning| is_orphan(&ctx.caches, &meaning))
    };
    for queue in ctx.management.queues(prefix).await? {
        if orphan(&queue) {
            info!(queue, "deleting a queue that nobody owns");
            ctx.management.delete_queue(&queue).await?;
        } else {
            suspect(ctx, &queue);
        }
    }
    for policy in ctx.management.policies(prefix).await?.into_keys().filter(orphan) {
        ctx.policies.remove(&ctx.management, &policy).await?;
    }
    for exchange in ctx.management.exchanges(prefix).await?.into_iter().filter(orphan) {
        info!(exchange, "deleting an exchange that nobody owns");
        ctx.management.delete_exchange(&exchange).await?;
    }
    Ok(())
}

/// A Trigger may have gone while nobody looked: the bindings of each durable queue are compared once more. One that no
/// Trigger made was made by a gateway, and is looked after.
fn suspect(ctx: &Context, queue: &str) {
    if let Some(Meaning::App { namespace, app, kind: AppObject::Durable(name) }) =
        Meaning::of(&ctx.config.installation, queue)
    {
        ctx.memory.suspect_bindings(&namespace, &app, &name);
        ctx.saw_durable_queue(&Name::new(&namespace, &name), &app);
        ctx.queue.add(Key::new(Kind::Fn, namespace, name));
    }
}

/// Deletes all that the broker holds for an App that is going, its user first: nothing of it comes back.
pub(crate) async fn whole_app(ctx: &Context, namespace: &str, app: &str) -> Result<(), ReconcileError> {
    let user = ctx.names(namespace, app)?.user().to_owned();
    ctx.management.delete_user(&user).await?;
    for queue in ctx.management.queues(&format!("{user}.")).await? {
        ctx.management.delete_queue(&queue).await?;
    }
    for policy in ctx.management.policies(&format!("{user}.")).await?.into_keys() {
        ctx.policies.remove(&ctx.management, &policy).await?;
    }
    for exchange in ctx.management.exchanges(&format!("{user}.")).await? {
        ctx.management.delete_exchange(&exchange).await?;
    }
    ctx.broker.doubt();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_broker::names::Installation;
    use funcatron_crds::{App, AppSpec, FnSpec, Function};

    fn caches() -> Caches {
        let caches = Caches::default();
        let mut app = App::new("shop", AppSpec::default());
        app.metadata.namespace = Some("team-a".into());
        caches.apps.put(app);
        let spec = FnSpec { app: "shop".into(), ..FnSpec::default() };
        let mut function = Function::new("hello", spec);
        function.metadata.namespace = Some("team-a".into());
        caches.fns.put(function);
        caches
    }

    fn orphan(name: &str) -> bool {
        let installation = Installation::parse("i").unwrap();
        Meaning::of(&installation, name).is_some_and(|meaning| is_orphan(&caches(), &meaning))
    }

    #[test]
    fn what_an_owner_stands_for_is_kept() {
        for name in [
            "i.replies",
            "i.reports",
            "i.ledger",
            "i.gw.x",
            "i.team-a.shop.cancel",
            "i.team-a.shop.rev.hello-0123abcd",
            "i.team-a.shop.fn.hello",
            "i.team-a.shop.wake.python",
            "i.team-a.shop.x.payments",
        ] {
            assert!(!orphan(name), "{name}");
        }
    }

    #[test]
    fn what_has_lost_its_app_or_fn_goes() {
        for name in [
            "i.team-a.gone.cancel",
            "i.team-b.shop.wake.python",
            "i.team-a.shop.rev.gone-0123abcd",
            "i.team-a.shop.fn.gone",
            "i.team-a.shop.dead.gone",
            "i.team-a.shop.x.bridge.gone",
        ] {
            assert!(orphan(name), "{name}");
        }
    }

    #[test]
    fn another_installation_and_foreign_names_are_never_touched() {
        for name in ["other.team-a.gone.cancel", "ii.team-a.gone.cancel", "i.a.b.c.d.e", "amq.topic", "i"] {
            assert!(!orphan(name), "{name}");
        }
    }

    #[test]
    fn a_table_is_owned_by_its_route_and_a_foreign_map_by_nobody_of_ours() {
        let map = |part: &str, route: &str| {
            let mut map = crate::objects::meta_only::<ConfigMap>(Default::default());
            map.metadata.labels = Some(
                [(LABEL_PART, part), (LABEL_NAMESPACE, "team-a"), (LABEL_APP, "shop"), (LABEL_ROUTE, route)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            );
            map
        };
        assert!(has_owner(&caches(), &map(PART_APP_TABLE, "")));
        assert!(has_owner(&caches(), &map("something-else", "")));
        assert!(!has_owner(&caches(), &map(PART_ROUTE_TABLE, "gone")));
    }
}
