use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use funcatron_broker::names::Installation;
use funcatron_routing::app_table::AppBounds;
use funcatron_routing::{
    Backend, CallPolicy, EncodedTable, ExplicitRule, OwnHost, RouteSource, Rules, compile,
};
use k8s_openapi::ByteString;
use kube::runtime::watcher::Event;

use super::*;

fn follower() -> Follower {
    let installation = Installation::parse("i").unwrap();
    let store = Arc::new(TableStore::new(&installation, OwnHost::Unclaimed));
    Follower { store, listed: Vec::new(), reachable: true }
}

fn object(name: &str, data: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.data = Some(BTreeMap::from([(names::TABLE_KEY.to_owned(), data.to_owned())]));
    object
}

fn app(namespace: &str, name: &str, body_bytes_max: u64) -> ConfigMap {
    let table = AppTable::new(namespace, name, AppBounds::with_body(body_bytes_max));
    object(&names::app_table(namespace, name), &String::from_utf8(table.to_bytes()).unwrap())
}

fn route(namespace: &str, name: &str) -> ConfigMap {
    let backends = vec![Backend { fn_name: "page".into(), weight: 1 }];
    let rules = [ExplicitRule { matches: Vec::new(), backends, call: CallPolicy::default() }];
    let source = RouteSource {
        namespace,
        name,
        app: "shop",
        hostnames: &[],
        base_path: None,
        created_ms: 1,
        uid: "u",
        rules: Rules::Explicit(&rules),
    };
    match compile(&source).unwrap().encode().unwrap() {
        EncodedTable::Json(json) => object(&names::route_table(namespace, name), &json),
        EncodedTable::Gzip(_) => panic!("a table of one rule is small"),
    }
}

fn limit(follower: &Follower) -> Option<u64> {
    follower.store.app("team-a", "shop").map(|part| part.body_bytes_max)
}

fn list(follower: &mut Follower, objects: Vec<ConfigMap>) {
    follower.follow(Ok(Event::Init));
    for object in objects {
        follower.follow(Ok(Event::InitApply(object)));
    }
    follower.follow(Ok(Event::InitDone));
}

#[test]
fn a_gateway_is_synced_once_all_tables_were_listed() {
    let mut follower = follower();
    follower.follow(Ok(Event::Init));
    follower.follow(Ok(Event::InitApply(app("team-a", "shop", 7))));
    assert!(!follower.store.is_synced());
    follower.follow(Ok(Event::InitDone));
    assert!(follower.store.is_synced());
    assert_eq!(limit(&follower), Some(7));
}

#[test]
fn a_broken_table_leaves_the_last_good_one_in_place() {
    let mut follower = follower();
    list(&mut follower, vec![app("team-a", "shop", 7), route("team-a", "site")]);
    follower.follow(Ok(Event::Apply(object("app.team-a.shop", "{"))));
    follower.follow(Ok(Event::Apply(object("route.team-a.site", "[]"))));
    assert_eq!((limit(&follower), follower.store.route_keys().len()), (Some(7), 1));
    list(&mut follower, vec![object("app.team-a.shop", "{"), object("route.team-a.site", "{}")]);
    assert_eq!((limit(&follower), follower.store.route_keys().len()), (Some(7), 1));
    follower.follow(Ok(Event::Apply(app("team-a", "shop", 8))));
    assert_eq!(limit(&follower), Some(8));
}

#[test]
fn one_broken_table_does_not_keep_out_the_others() {
    let mut follower = follower();
    let broken = object("route.team-a.broken", "{");
    list(
        &mut follower,
        vec![broken, route("team-a", "site"), object("app.x.y", "?"), app("team-a", "shop", 7)],
    );
    assert_eq!((limit(&follower), follower.store.route_keys().len()), (Some(7), 1));
}

#[test]
fn what_a_new_list_lacks_is_gone() {
    let mut follower = follower();
    list(&mut follower, vec![app("team-a", "shop", 7), route("team-a", "site"), route("team-a", "api")]);
    list(&mut follower, vec![route("team-a", "api")]);
    assert_eq!(limit(&follower), None);
    assert_eq!(
        follower.store.route_keys().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["team-a/api"]
    );
}

#[test]
fn a_deleted_table_is_gone_and_no_other() {
    let mut follower = follower();
    list(&mut follower, vec![app("team-a", "shop", 7), route("team-a", "site"), app("team-b", "shop", 9)]);
    follower.follow(Ok(Event::Delete(app("team-a", "shop", 7))));
    follower.follow(Ok(Event::Delete(route("team-a", "site"))));
    assert!(limit(&follower).is_none() && follower.store.route_keys().is_empty());
    assert!(follower.store.app("team-b", "shop").is_some());
}

#[test]
fn a_table_under_anothers_name_does_not_serve() {
    let mut follower = follower();
    let mut posing = app("team-b", "shop", 7);
    posing.metadata.name = Some("app.team-a.shop".into());
    let mut posing_route = route("team-b", "site");
    posing_route.metadata.name = Some("route.team-a.site".into());
    list(&mut follower, vec![posing, posing_route]);
    assert!(limit(&follower).is_none() && follower.store.route_keys().is_empty());
}

#[test]
fn a_large_table_is_read_from_its_packed_form() {
    let mut follower = follower();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&AppTable::new("team-a", "shop", AppBounds::with_body(7)).to_bytes()).unwrap();
    let mut packed = object("app.team-a.shop", "");
    packed.data = None;
    let content = ByteString(encoder.finish().unwrap());
    packed.binary_data = Some(BTreeMap::from([(names::TABLE_GZIP_KEY.to_owned(), content)]));
    follower.follow(Ok(Event::Apply(packed)));
    assert_eq!(limit(&follower), Some(7));
}

#[test]
fn with_the_api_server_gone_the_last_tables_serve() {
    let mut follower = follower();
    list(&mut follower, vec![app("team-a", "shop", 7)]);
    follower.follow(Err(watcher::Error::NoResourceVersion));
    follower.follow(Ok(Event::Init));
    assert_eq!(limit(&follower), Some(7));
}
