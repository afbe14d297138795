//! A Route's next status. Pure.

use std::sync::Arc;

use funcatron_crds::{ConditionType, Reason, Route, RouteStatus};
use funcatron_routing::{Claim, Conflict, RouteTable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::keys::Name;
use crate::status::{Conditions, Refusal};

/// Missing Fns named in a message; more would not be read.
const NAMED_MAX: usize = 5;
/// URLs and conflicts listed in a status.
const LISTED_MAX: usize = 64;

/// All that a Route's status follows from.
pub(super) struct Facts {
    /// What is wrong with it.
    pub(super) refusal: Option<Refusal>,
    /// What serves; absent: refused.
    pub(super) table: Option<Arc<RouteTable>>,
    /// What belongs to older Routes.
    pub(super) conflicts: Vec<Conflict>,
}

/// The refusal of a Route that claims what an older one owns; that is named only to its neighbours.
pub(super) fn conflict(key: &Name, conflicts: &[Conflict]) -> Refusal {
    let named: Vec<String> =
        conflicts.iter().take(NAMED_MAX).map(|conflict| describe(key, conflict)).collect();
    Refusal::accepted(Reason::Conflict, named.join("; "))
}

fn describe(key: &Name, Conflict { claim, owner }: &Conflict) -> String {
    match owner.namespace == key.namespace {
        true => format!("{claim} belongs to Route `{}`, which is older", owner.name),
        false => format!("{claim} belongs to an older Route of another namespace"),
    }
}

/// The refusal of a Route some of whose operations lead to no Fn of its App.
pub(super) fn unresolved(table: &RouteTable, is_fn: impl Fn(&str) -> bool) -> Option<Refusal> {
    let missing = |name: &str| !is_fn(name);
    let mut named: Vec<String> = vec![];
    for (number, rule) in table.rules().iter().enumerate() {
        for backend in rule.backends().iter().filter(|backend| missing(&backend.fn_name)) {
            let what = match rule.operation_id() {
                Some(id) => format!("operation `{id}`"),
                None => format!("match {} of spec.rules", number + 1),
            };
            named.push(format!(
                "{what} names Fn `{}`, which App `{}` does not have",
                backend.fn_name,
                table.app()
            ));
        }
    }
    named.dedup();
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    if named.is_empty() {
        return None;
    }
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(Refusal::refs(Reason::FnNotFound, format!("{}{more}", named.join("; "))))
}

/// The status that follows. `own` is the URL of the gateway's own hostname.
pub(super) fn next_status(route: &Route, facts: &Facts, own: &str, now: Time) -> RouteStatus {
    let Facts { refusal, table, conflicts } = facts;
    let before = route.status.clone().unwrap_or_default();
    let generation = route.metadata.generation;
    let mut conditions = Conditions::of(&before.conditions, generation, now);
    conditions.set_refusal(refusal.as_ref());
    let ready = match refusal {
        Some(Refusal { condition: _, reason, message }) => (false, *reason, message.clone()),
        None => (true, Reason::Ready, String::new()),
    };
    conditions.set(ConditionType::Ready, ready);
    RouteStatus {
        observed_generation: generation,
        conditions: conditions.finish(),
        urls: table.as_ref().map(|table| urls(table, own)).unwrap_or_default(),
        operations: Some(
            table.as_ref().map_or(0, |table| i32::try_from(table.operations()).unwrap_or(i32::MAX)),
        ),
        conflicts: conflicts.iter().take(LISTED_MAX).map(|conflict| conflict.claim.to_string()).collect(),
    }
}

/// Where it answers: its hostnames, or the gateway's own below its namespace. The scheme is the gateway's.
fn urls(table: &RouteTable, own: &str) -> Vec<String> {
    let scheme = own.split_once("://").map_or("http", |(scheme, _)| scheme);
    let base = table.base_path().trim_end_matches('/');
    let hosts: Vec<String> = table.hostnames().map(|host| format!("{scheme}://{host}{base}/")).collect();
    if hosts.is_empty() {
        let own = own.trim_end_matches('/');
        let path = own_path(table);
        return vec![format!("{own}{path}")];
    }
    hosts.into_iter().take(LISTED_MAX).collect()
}

fn own_path(table: &RouteTable) -> String {
    let base = table.base_path().trim_end_matches('/');
    let claim = Claim { host: None, path: format!("/{}{base}/", table.namespace()) };
    claim.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcatron_crds::{RouteSpec, find_condition, is_true};
    use funcatron_routing::{Backend, ExplicitRule, RouteKey, RouteSource, Rules, compile};

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn table(hostnames: &[String]) -> RouteTable {
        let backend = |name: &str| Backend { fn_name: name.into(), weight: 1 };
        let rules =
            [ExplicitRule { backends: vec![backend("page"), backend("next")], ..ExplicitRule::default() }];
        compile(&RouteSource {
            namespace: "team-a",
            name: "site",
            app: "shop",
            hostnames,
            base_path: Some("/v1"),
            created_ms: 1,
            uid: "u",
            rules: Rules::Explicit(&rules),
        })
        .unwrap()
    }

    fn site() -> Route {
        Route::new("site", RouteSpec::default())
    }

    #[test]
    fn a_route_answers_on_its_hostnames_or_below_its_namespace() {
        let own = "https://gw.example.com";
        assert_eq!(urls(&table(&["api.example.com".into()]), own), ["https://api.example.com/v1/"]);
        assert_eq!(urls(&table(&[]), own), ["https://gw.example.com/team-a/v1/"]);
    }

    #[test]
    fn a_missing_fn_is_named_and_the_table_still_serves() {
        let table = table(&[]);
        assert_eq!(unresolved(&table, |_| true), None);
        let refusal = unresolved(&table, |name| name == "page").unwrap();
        assert!(refusal.message.contains("Fn `next`") && !refusal.message.contains("Fn `page`"));
        let facts = Facts { refusal: Some(refusal), table: Some(Arc::new(table)), conflicts: vec![] };
        let status = next_status(&site(), &facts, "http://gw", now());
        assert!(is_true(&status.conditions, ConditionType::Accepted));
        assert!(!is_true(&status.conditions, ConditionType::ResolvedRefs));
        assert_eq!((status.operations, status.urls.len()), (Some(1), 1));
    }

    #[test]
    fn the_owner_of_a_claim_is_named_to_its_neighbours_only() {
        let conflict_with = |namespace: &str| Conflict {
            claim: Claim { host: Some("api.example.com".into()), path: "/v1".into() },
            owner: RouteKey { namespace: namespace.into(), name: "older".into() },
        };
        let key = Name::new("team-a", "site");
        assert!(conflict(&key, &[conflict_with("team-a")]).message.contains("`older`"));
        let stranger = conflict(&key, &[conflict_with("team-b")]).message;
        assert!(!stranger.contains("older`") && !stranger.contains("team-b"));
    }

    #[test]
    fn a_refused_route_has_no_urls_and_says_why() {
        let refusal = Some(Refusal::app_not_found("team-a", "shop"));
        let facts = Facts { refusal, table: None, conflicts: vec![] };
        let status = next_status(&site(), &facts, "http://gw", now());
        let ready = find_condition(&status.conditions, ConditionType::Ready).unwrap();
        assert_eq!(ready.reason, "AppNotFound");
        assert!(status.urls.is_empty());
    }
}
