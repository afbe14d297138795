//! What the API server last said, by namespace and name. Fed by watches, read by everyone; never asks by itself.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::watch;
use tracing::warn;

use crate::keys::Name;

/// An object that came, changed or went.
#[derive(Debug)]
pub(crate) struct Touched<K> {
    /// Which.
    pub(crate) name: Name,
    /// As it was.
    pub(crate) before: Option<Arc<K>>,
    /// As it is; absent: gone.
    pub(crate) after: Option<Arc<K>>,
}

impl<K: Resource> Touched<K> {
    /// As it is, or else as it last was.
    pub(crate) fn either(&self) -> Option<&Arc<K>> {
        self.after.as_ref().or(self.before.as_ref())
    }

    /// Whether what its user wrote changed: a status alone concerns nobody else.
    pub(crate) fn spec_changed(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                let (before, after) = (before.meta(), after.meta());
                before.generation != after.generation
                    || before.deletion_timestamp != after.deletion_timestamp
                    || before.uid != after.uid
            }
            _ => true,
        }
    }
}

type Entries<K> = BTreeMap<Name, Arc<K>>;

struct State<K> {
    entries: Entries<K>,
    /// Objects that stand but cannot be read, with why.
    broken: BTreeMap<Name, String>,
    /// Names listed since the last `Init`; absent while no listing is under way.
    listing: Option<BTreeMap<Name, ()>>,
}

/// All objects of one kind.
pub(crate) struct Cache<K> {
    state: RwLock<State<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let state = State { entries: BTreeMap::new(), broken: BTreeMap::new(), listing: None };
        Self { state: RwLock::new(state), synced: watch::Sender::new(false) }
    }
}

impl<K: Resource> Cache<K>
where
    K::DynamicType: Default,
{
    /// The object of that name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state.read().entries.get(&Name::new(namespace, name)).cloned()
    }

    /// Whether it stands, readable or not.
    pub(crate) fn stands(&self, namespace: &str, name: &str) -> bool {
        let (state, name) = (self.state.read(), Name::new(namespace, name));
        state.entries.contains_key(&name) || state.broken.contains_key(&name)
    }

    /// All of one namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = Bound::Included(Name::new(namespace, ""));
        let state = self.state.read();
        let range = state.entries.range((from, Bound::Unbounded));
        range
            .take_while(|(name, _)| name.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// All.
    pub(crate) fn all(&self) -> Vec<(Name, Arc<K>)> {
        self.state.read().entries.iter().map(|(name, object)| (name.clone(), Arc::clone(object))).collect()
    }

    /// Takes what a write of ours returned, so that the next reconcile need not wait for the watch. The watch may have
    /// been faster and brought something newer, which stays: it will not be told again.
    pub(crate) fn put(&self, object: K) {
        let name = name_of(&object);
        let mut state = self.state.write();
        if state.entries.get(&name).is_none_or(|known| is_newer(&object, known.as_ref())) {
            state.entries.insert(name, Arc::new(object));
        }
    }

    /// Drops what we deleted.
    pub(crate) fn remove(&self, namespace: &str, name: &str) {
        self.state.write().entries.remove(&Name::new(namespace, name));
    }

    /// Waits for the first whole listing.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as self, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Takes one event of a watch in and says what it touched.
    pub(crate) fn observe(&self, event: Event<DeserializeGuard<K>>) -> Vec<Touched<K>> {
        let mut state = self.state.write();
        match event {
            Event::Init => {
                state.listing = Some(BTreeMap::new());
                vec![]
            }
            Event::InitApply(object) | Event::Apply(object) => state.apply(object).into_iter().collect(),
            Event::Delete(object) => {
                let name = name_of(&object);
                state.broken.remove(&name);
                state.drop_entry(name).into_iter().collect()
            }
            Event::InitDone => {
                let gone = state.finish_listing();
                drop(state);
                self.synced.send_replace(true);
                gone
            }
        }
    }
}

impl<K: Resource> State<K>
where
    K::DynamicType: Default,
{
    fn apply(&mut self, DeserializeGuard(object): DeserializeGuard<K>) -> Option<Touched<K>> {
        let name = match &object {
            Ok(object) => name_of(object),
            Err(invalid) => meta_name(&invalid.metadata),
        };
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone(), ());
        }
        match object {
            Ok(mut object) => {
                object.meta_mut().managed_fields = None;
                self.broken.remove(&name);
                let after = Arc::new(object);
                let before = self.entries.insert(name.clone(), Arc::clone(&after));
                let same = before
                    .as_ref()
                    .is_some_and(|before| before.meta().resource_version == after.meta().resource_version);
                (!same).then_some(Touched { name, before, after: Some(after) })
            }
            // What was last readable stays in force: a bad edit never takes anything down.
            Err(invalid) => {
                let kind = K::kind(&K::DynamicType::default()).into_owned();
                warn!(kind, %name, error = invalid.error, "object cannot be read, keeping its last good form");
                self.broken.insert(name, invalid.error);
                None
            }
        }
    }

    fn drop_entry(&mut self, name: Name) -> Option<Touched<K>> {
        let before = self.entries.remove(&name)?;
        Some(Touched { name, before: Some(before), after: None })
    }

    /// What was not listed is gone.
    fn finish_listing(&mut self) -> Vec<Touched<K>> {
        let Some(listed) = self.listing.take() else { return vec![] };
        self.broken.retain(|name, _| listed.contains_key(name));
        let gone: Vec<Name> =
            self.entries.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        gone.into_iter().filter_map(|name| self.drop_entry(name)).collect()
    }
}

/// By resource versions, which are numbers that grow (Kubernetes' API concepts, comparable since 1.35 and numbers long
/// before). Where they are not, what is known stays.
fn is_newer<K: Resource>(object: &K, known: &K) -> bool {
    let version = |object: &K| object.meta().resource_version.as_ref()?.parse::<u64>().ok();
    version(object).zip(version(known)).is_some_and(|(new, old)| new > old)
}

fn name_of<K: Resource>(object: &K) -> Name {
    meta_name(object.meta())
}

fn meta_name(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Name {
    Name::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The value of a label; empty where it is missing.
pub(crate) fn label<'a, K: ResourceExt>(object: &'a K, key: &str) -> &'a str {
    object.labels().get(key).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::error_boundary::InvalidObject;

    fn map(namespace: &str, name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.to_owned());
        map.metadata.namespace = Some(namespace.to_owned());
        map.metadata.resource_version = Some(version.to_owned());
        map
    }

    fn good(namespace: &str, name: &str, version: &str) -> DeserializeGuard<ConfigMap> {
        DeserializeGuard(Ok(map(namespace, name, version)))
    }

    fn bad(namespace: &str, name: &str) -> DeserializeGuard<ConfigMap> {
        let metadata = map(namespace, name, "9").metadata;
        DeserializeGuard(Err(InvalidObject { error: "spec: missing".to_owned(), metadata }))
    }

    fn listed(
        cache: &Cache<ConfigMap>,
        objects: Vec<DeserializeGuard<ConfigMap>>,
    ) -> Vec<Touched<ConfigMap>> {
        cache.observe(Event::Init);
        let mut touched: Vec<_> =
            objects.into_iter().flat_map(|object| cache.observe(Event::InitApply(object))).collect();
        touched.extend(cache.observe(Event::InitDone));
        touched
    }

    #[test]
    fn a_new_listing_touches_only_what_changed_came_or_went() {
        let cache = Cache::default();
        listed(&cache, vec![good("a", "same", "1"), good("a", "old", "1"), good("a", "gone", "1")]);
        let touched =
            listed(&cache, vec![good("a", "same", "1"), good("a", "old", "2"), good("b", "new", "1")]);
        let names: Vec<_> = touched.iter().map(|t| (t.name.name.as_str(), t.after.is_some())).collect();
        assert_eq!(names, [("old", true), ("new", true), ("gone", false)]);
    }

    #[test]
    fn an_unreadable_object_keeps_its_last_good_form_and_stops_no_other() {
        let cache = Cache::default();
        listed(&cache, vec![good("a", "x", "1"), bad("a", "never-good"), good("a", "y", "1")]);
        cache.observe(Event::Apply(bad("a", "x")));
        assert!(cache.get("a", "x").is_some() && cache.get("a", "y").is_some());
        assert!(cache.get("a", "never-good").is_none() && cache.stands("a", "never-good"));
    }

    #[test]
    fn the_answer_to_a_write_never_hides_what_the_watch_brought_since() {
        let cache = Cache::default();
        listed(&cache, vec![good("a", "x", "12")]);
        cache.put(map("a", "x", "9"));
        let version = || cache.get("a", "x").and_then(|map| map.metadata.resource_version.clone());
        assert_eq!(version().as_deref(), Some("12"));
        cache.put(map("a", "x", "13"));
        assert_eq!(version().as_deref(), Some("13"));
    }

    #[test]
    fn a_namespace_ends_where_the_next_begins() {
        let cache = Cache::default();
        listed(&cache, vec![good("a", "z", "1"), good("a-b", "a", "1"), good("b", "c", "1")]);
        let names: Vec<_> = cache.in_namespace("a").iter().map(|map| map.name_any()).collect();
        assert_eq!(names, ["z"]);
    }

    #[tokio::test]
    async fn it_is_synced_after_its_first_whole_listing() {
        let cache = Cache::<ConfigMap>::default();
        cache.observe(Event::Init);
        assert!(!*cache.synced.borrow());
        cache.observe(Event::InitDone);
        cache.synced().await;
    }
}
