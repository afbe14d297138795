//! Routes: compiled, and conflicts given to the first in file order.

use funcatron_crds::Route;
use funcatron_routing::{RouteIdentity, RouteParts, RouteTable, compile, conflicts};

use super::super::manifests::{Key, Located, Manifests};
use super::environment::config_map_data;
use super::{Broken, Plan, app_missing};

/// Plans every Route; a broken one is a problem, and what serves of it goes on.
pub(super) fn plan(plan: &mut Plan, manifests: &Manifests) {
    for (key, route) in &manifests.routes {
        match plan_route(manifests, key, route) {
            Ok(table) => {
                check_targets(plan, manifests, key, route, &table);
                plan.routes.insert(key.clone(), table);
            }
            Err(faults) => {
                let problems =
                    faults.into_iter().map(|(pointer, message)| route.origin.problem(&pointer, message));
                plan.problems.extend(problems);
                plan.broken.insert(Broken::Route(key.clone()));
            }
        }
    }
    refuse_conflicts(plan, manifests);
}

fn plan_route(
    manifests: &Manifests,
    key: &Key,
    route: &Located<Route>,
) -> Result<RouteTable, Vec<(String, String)>> {
    let spec = &route.object.spec;
    let one = |pointer: &str, message: String| vec![(pointer.to_owned(), message)];
    let app = manifests
        .apps
        .get(&Key::new(&key.namespace, &spec.app))
        .ok_or_else(|| one("/spec/app", app_missing(&spec.app)))?;
    let document = document(manifests, key, route).map_err(|message| one("/spec/openapi", message))?;
    let parts = RouteParts::of(spec, &app.object.spec.hostnames, document)
        .map_err(|error| one("/spec", error.to_string()))?;
    let created_ms = i64::try_from(route.origin.order).unwrap_or(i64::MAX);
    let identity = RouteIdentity { namespace: &key.namespace, name: &key.name, uid: "", created_ms };
    let pointer = if spec.openapi.is_some() { "/spec/openapi" } else { "/spec/rules" };
    compile(&parts.source(&spec.app, identity)).map_err(|error| {
        let problems = error.problems().iter();
        problems.map(|problem| (pointer.to_owned(), problem.to_string())).collect()
    })
}

fn document(manifests: &Manifests, key: &Key, route: &Located<Route>) -> Result<Option<Vec<u8>>, String> {
    let Some(openapi) = &route.object.spec.openapi else { return Ok(None) };
    if let Some(text) = &openapi.inline {
        return Ok(Some(text.clone().into_bytes()));
    }
    let Some(selector) = &openapi.config_map_key_ref else { return Ok(None) };
    let map = manifests
        .config_maps
        .get(&Key::new(&key.namespace, &selector.name))
        .ok_or_else(|| format!("ConfigMap {} is not in this folder; add its manifest", selector.name))?;
    let value = config_map_data(&map.object).remove(&selector.key);
    value.map(Some).ok_or_else(|| format!("ConfigMap {} has no key {}", selector.name, selector.key))
}

fn check_targets(
    plan: &mut Plan,
    manifests: &Manifests,
    key: &Key,
    route: &Located<Route>,
    table: &RouteTable,
) {
    for target in table.targets() {
        let function = manifests.fns.get(&Key::new(&key.namespace, target));
        let known = function.is_some_and(|function| function.object.spec.app == route.object.spec.app);
        if !known {
            let message = format!("sends requests to Fn {target}, which App {} does not have", table.app());
            plan.problems.push(route.origin.problem("/spec", message));
        }
    }
}

fn refuse_conflicts(plan: &mut Plan, manifests: &Manifests) {
    for (key, conflicts) in conflicts(plan.routes.values()) {
        let key = Key::new(&key.namespace, &key.name);
        let Some(route) = manifests.routes.get(&key) else { continue };
        for conflict in conflicts {
            let message =
                format!("{} belongs to Route {}, which comes first", conflict.claim, conflict.owner);
            plan.problems.push(route.origin.problem("/spec/hostnames", message));
        }
        plan.routes.remove(&key);
        plan.broken.insert(Broken::Route(key));
    }
}
