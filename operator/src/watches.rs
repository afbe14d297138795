//! Feeds the caches from the API server's watches, for ever; each touch is told to `wiring`.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tracing::warn;

use crate::cache::{Cache, Touched};
use crate::context::Context;
use crate::objects::{LABEL_MANAGED_BY, MANAGED_BY};
use crate::wiring;

/// A watch is renewed before load balancers cut what looks idle, in seconds.
const WATCH_TIMEOUT_S: u32 = 200;

type Events<K> = futures::stream::BoxStream<'static, watcher::Result<Event<DeserializeGuard<K>>>>;

/// Starts every watch; they end when the set is dropped.
pub(crate) fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default().timeout(WATCH_TIMEOUT_S);
    let ours = all.clone().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let client = || ctx.client.clone();
    let system = &ctx.config.system_namespace;
    tasks.spawn(feed(ctx, guarded(Api::all(client()), all.clone()), |ctx| &ctx.caches.apps, wiring::on_app));
    tasks.spawn(feed(ctx, guarded(Api::all(client()), all.clone()), |ctx| &ctx.caches.fns, wiring::on_fn));
    tasks.spawn(feed(
        ctx,
        guarded(Api::all(client()), all.clone()),
        |ctx| &ctx.caches.routes,
        wiring::on_route,
    ));
    tasks.spawn(feed(
        ctx,
        guarded(Api::all(client()), all.clone()),
        |ctx| &ctx.caches.triggers,
        wiring::on_trigger,
    ));
    tasks.spawn(feed(
        ctx,
        guarded(Api::all(client()), ours.clone()),
        |ctx| &ctx.caches.deployments,
        wiring::on_deployment,
    ));
    tasks.spawn(feed(
        ctx,
        guarded(Api::all(client()), ours.clone()),
        |ctx| &ctx.caches.revisions,
        wiring::on_revision,
    ));
    let policies = plain(watch(Api::<PartialObjectMeta<NetworkPolicy>>::all(client()), ours.clone()));
    tasks.spawn(feed(ctx, policies, |ctx| &ctx.caches.policies, wiring::on_policy));
    let tables = plain(watch(Api::<PartialObjectMeta<ConfigMap>>::namespaced(client(), system), ours));
    tasks.spawn(feed(ctx, tables, |ctx| &ctx.caches.tables, wiring::on_table));
    let maps = plain(watch(Api::<PartialObjectMeta<ConfigMap>>::all(client()), all).modify(|map| {
        // What decides is whether it changed; names and versions of a whole cluster's ConfigMaps are enough.
        map.metadata.annotations = None;
        map.metadata.labels = None;
    }));
    tasks.spawn(feed(ctx, maps, |ctx| &ctx.caches.config_maps, wiring::on_config_map));
    tasks
}

/// One object that cannot be read stops no other.
fn guarded<K>(api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Events<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watch(api, config).default_backoff().boxed()
}

fn plain<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> Events<K> {
    let guard = |object| DeserializeGuard(Ok(object));
    events
        .default_backoff()
        .map(move |event| {
            event.map(|event| match event {
                Event::Apply(object) => Event::Apply(guard(object)),
                Event::Delete(object) => Event::Delete(guard(object)),
                Event::Init => Event::Init,
                Event::InitApply(object) => Event::InitApply(guard(object)),
                Event::InitDone => Event::InitDone,
            })
        })
        .boxed()
}

fn feed<K>(
    ctx: &Arc<Context>,
    mut events: Events<K>,
    cache: impl Fn(&Context) -> &Cache<K> + Send + 'static,
    touched: impl Fn(&Context, &Touched<K>) + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    K: Resource + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let ctx = Arc::clone(ctx);
    async move {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    for touch in cache(&ctx).observe(event) {
                        touched(&ctx, &touch);
                    }
                }
                Err(error) => {
                    let kind = K::kind(&K::DynamicType::default()).into_owned();
                    warn!(kind, %error, "watch interrupted, trying on");
                }
            }
        }
    }
}
