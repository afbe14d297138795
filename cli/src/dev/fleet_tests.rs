use super::*;
use crate::dev::plan::{AppPlan, FnPlan};
use funcatron_broker::names::Installation;
use funcatron_crds::{Digest, FnSpec};
use funcatron_operator::callbacks::word;

fn names() -> AppNames {
    AppNames::new(&Installation::parse("dev").unwrap(), "default", "shop").unwrap()
}

fn entry(revision: &str) -> RevisionEntry {
    RevisionEntry {
        name: RevisionName::parse(revision).unwrap(),
        runtime: Some("python".into()),
        run: Digest::of(revision.as_bytes()),
        code: Some(Digest::of(b"code")),
        concurrency: 1,
        durable: false,
    }
}

fn plan(revision: Option<&str>) -> Plan {
    let mut plan = Plan::default();
    let fns = revision.map(|revision| {
        let planned = FnPlan {
            revision: entry(revision),
            timeout_ms: 1000,
            detached: Default::default(),
            policies: vec![],
            word: word("default", "hello", &FnSpec::default(), String::new()),
            bundles: Default::default(),
        };
        ("hello".to_owned(), planned)
    });
    let app = AppPlan {
        names: names(),
        bounds: AppBounds::with_body(1),
        fns: fns.into_iter().collect(),
        triggers: Vec::new(),
        bindings: BTreeSet::new(),
        schedules: BTreeMap::new(),
        config: BTreeMap::new(),
    };
    plan.apps.insert(Key::new("default", "shop"), app);
    plan
}

fn report(event: ReportEvent, revision: &str) -> Report {
    Report {
        user_id: None,
        event,
        namespace: "default".into(),
        app: "shop".into(),
        fn_name: "hello".into(),
        revision: revision.into(),
        runner: "r".into(),
        reason: Some("no module named x".into()),
        log: None,
    }
}

fn serving(fleet: &Fleet) -> Option<String> {
    let tables = fleet.tables();
    let revision = tables[&Key::new("default", "shop")].fns["hello"].revision.as_ref()?;
    Some(revision.name.to_string())
}

const FIRST: &str = "hello-00000001";
const SECOND: &str = "hello-00000002";

#[test]
fn a_revision_serves_once_it_is_loaded() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    assert_eq!(serving(&fleet), None);
    assert_eq!(fleet.wakes_due(now).len(), 1);
    let notice = fleet.on_report(&report(ReportEvent::Loaded, FIRST), now).unwrap();
    assert!(matches!(notice, Notice::Serving { .. }));
    assert_eq!(serving(&fleet).as_deref(), Some(FIRST));
    assert!(fleet.is_settled());
}

#[test]
fn a_failed_revision_leaves_the_last_good_one_serving() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    fleet.adopt(&plan(Some(SECOND)), now);
    let notice = fleet.on_report(&report(ReportEvent::Failed, SECOND), now).unwrap();
    assert!(matches!(notice, Notice::Failed { serving: Some(_), .. }), "{notice:?}");
    assert_eq!(serving(&fleet).as_deref(), Some(FIRST));
    assert_eq!(fleet.retirable(now + RETIRE_AFTER), vec![]);
    assert_eq!(fleet.on_report(&report(ReportEvent::Failed, SECOND), now), None, "told once");
}

#[test]
fn a_fn_is_coming_until_it_serves_or_is_known_to_fail() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    assert!(fleet.is_coming("default", "hello"));
    assert!(!fleet.is_coming("other", "hello"));
    fleet.on_report(&report(ReportEvent::Failed, FIRST), now);
    assert!(!fleet.is_coming("default", "hello"));
    fleet.adopt(&plan(Some(SECOND)), now);
    fleet.on_report(&report(ReportEvent::Loaded, SECOND), now);
    assert!(!fleet.is_coming("default", "hello"));
}

#[test]
fn fns_of_a_runtime_that_is_not_to_be_had_are_settled() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    assert!(!fleet.is_settled());
    fleet.unavailable(&Key::new("default", "shop"), "python");
    assert!(fleet.is_settled());
}

#[test]
fn a_runtime_runs_on_until_the_last_revision_of_it_is_gone() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    fleet.adopt(&plan(None), now);
    assert!(fleet.runtimes().is_empty());
    assert_eq!(fleet.runtimes_in_use().len(), 1);
    let old = fleet.retirable(now + RETIRE_AFTER);
    fleet.retired(&old[0]);
    assert!(fleet.runtimes_in_use().is_empty());
}

#[test]
fn the_bundles_of_what_serves_and_of_what_is_to_are_kept() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    fleet.adopt(&plan(Some(SECOND)), now);
    let key = Key::new("default", "shop");
    let (first, second) = (Digest::of(FIRST.as_bytes()), Digest::of(SECOND.as_bytes()));
    assert!(fleet.bundles()[&key].contains(&&first) && fleet.bundles()[&key].contains(&&second));
    fleet.on_report(&report(ReportEvent::Loaded, SECOND), now);
    assert!(!fleet.bundles()[&key].contains(&&first));
}

#[test]
fn the_old_revision_retires_after_the_new_one_serves() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    fleet.adopt(&plan(Some(SECOND)), now);
    fleet.on_report(&report(ReportEvent::Loaded, SECOND), now);
    assert_eq!(fleet.retirable(now), vec![]);
    let old = fleet.retirable(now + RETIRE_AFTER);
    assert_eq!(old.len(), 1);
    assert_eq!(old[0].revision.as_str(), FIRST);
    fleet.retired(&old[0]);
    assert_eq!(fleet.retirable(now + RETIRE_AFTER), vec![]);
}

#[test]
fn a_revision_that_comes_back_is_not_retired() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    for revision in [FIRST, SECOND, FIRST] {
        fleet.adopt(&plan(Some(revision)), now);
        fleet.on_report(&report(ReportEvent::Loaded, revision), now);
    }
    let retiring: Vec<String> =
        fleet.retirable(now + RETIRE_AFTER).iter().map(|old| old.revision.to_string()).collect();
    assert_eq!(retiring, [SECOND]);
}

#[test]
fn a_revision_that_never_served_retires_when_another_is_wanted() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.adopt(&plan(Some(SECOND)), now);
    assert_eq!(fleet.retirable(now + RETIRE_AFTER)[0].revision.as_str(), FIRST);
}

#[test]
fn a_fn_whose_manifest_broke_serves_on_and_one_that_left_does_not() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    let mut broken = plan(None);
    broken.broken.insert(Broken::Fn(Key::new("default", "hello")));
    fleet.adopt(&broken, now);
    assert_eq!(serving(&fleet).as_deref(), Some(FIRST));
    fleet.adopt(&plan(None), now);
    assert!(fleet.tables()[&Key::new("default", "shop")].fns.is_empty());
    assert_eq!(fleet.retirable(now + RETIRE_AFTER).len(), 1);
}

#[test]
fn wakes_are_repeated_ever_later_until_a_report_comes() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    assert_eq!(fleet.wakes_due(now).len(), 1);
    assert_eq!(fleet.wakes_due(now).len(), 0);
    assert_eq!(fleet.wakes_due(now + WAKE_INTERVAL_MIN).len(), 1);
    assert_eq!(fleet.wakes_due(now + WAKE_INTERVAL_MIN * 2).len(), 0);
    assert_eq!(fleet.wakes_due(now + WAKE_INTERVAL_MIN * 3).len(), 1);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    assert_eq!(fleet.wakes_due(now + WAKE_INTERVAL_MAX * 4).len(), 0);
}

#[test]
fn a_fresh_host_loads_again_what_serves_and_nothing_retires() {
    let (mut fleet, now) = (Fleet::default(), Instant::now());
    fleet.adopt(&plan(Some(FIRST)), now);
    fleet.wakes_due(now);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    fleet.reload(&Key::new("default", "shop"), "python", now);
    assert_eq!(serving(&fleet).as_deref(), Some(FIRST));
    assert_eq!(fleet.wakes_due(now).len(), 1);
    fleet.on_report(&report(ReportEvent::Loaded, FIRST), now);
    assert_eq!(fleet.retirable(now + RETIRE_AFTER), vec![]);
}
