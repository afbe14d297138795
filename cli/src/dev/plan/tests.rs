use std::path::Path;

use super::*;
use crate::dev::manifests::{self, Schemas};

fn plan_text(text: &str) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.yaml"), text).unwrap();
    plan_folder(folder.path())
}

fn plan_folder(folder: &Path) -> Plan {
    let manifests = manifests::read(folder, &Schemas::compile().unwrap()).unwrap();
    compile(&Installation::parse("dev").unwrap(), &manifests, &BTreeMap::new())
}

fn shop() -> Key {
    Key::new("default", "shop")
}

const APP: &str = "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n---\n";

fn function(name: &str, more: &str) -> String {
    format!(
        "apiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  \
         runtime: python\n  source: {{inline: 'def handler(ctx, data): pass'}}\n{more}---\n"
    )
}

fn only_problem(plan: &Plan) -> String {
    assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
    plan.problems[0].to_string()
}

#[test]
fn the_shop_runs_whole_but_for_its_image() {
    let plan = plan_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop"));
    assert_eq!(plan.problems, vec![]);
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    assert!(
        plan.notes[0].contains("invoice") && plan.notes[0].contains("needs a cluster"),
        "{:?}",
        plan.notes
    );
    let app = &plan.apps[&shop()];
    let fns: Vec<&str> = app.fns.keys().map(String::as_str).collect();
    assert_eq!(fns, ["get-order", "list-orders", "on-paid", "page", "page-next"]);
    assert_eq!(app.bounds.body_bytes_max, 1_048_576);
    assert_eq!(app.bindings.len(), 1);
    assert!(app.fns["on-paid"].revision.durable);
    assert_eq!(plan.routes.len(), 2);
}

#[test]
fn a_missing_key_of_a_secret_is_named() {
    let more = "  env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: db, key: url}}}]\n";
    let problem = only_problem(&plan_text(&format!("{APP}{}", function("a", more))));
    for word in ["a.yaml:13", "spec.env", "TOKEN", "url", "Secret db"] {
        assert!(problem.contains(word), "{word} in {problem}");
    }
}

#[test]
fn a_fn_has_exactly_one_source() {
    let both = function("a", "").replace("source: {inline", "source: {path: code, inline");
    let problem = only_problem(&plan_text(&format!("{APP}{both}")));
    assert!(problem.contains("spec.source: set exactly one of `inline`, `files` and `path`"), "{problem}");
}

#[test]
fn an_optional_key_may_be_missing() {
    let more = "  env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: db, key: url, optional: true}}}]\n";
    let plan = plan_text(&format!("{APP}{}", function("a", more)));
    assert_eq!(plan.problems, vec![]);
    assert!(plan.apps[&shop()].fns.contains_key("a"));
}

#[test]
fn an_unknown_app_is_named_and_the_other_fns_serve() {
    let stray = function("b", "").replace("app: shop", "app: shpo");
    let plan = plan_text(&format!("{APP}{}{stray}", function("a", "")));
    assert!(only_problem(&plan).contains("App shpo"));
    assert!(plan.apps[&shop()].fns.contains_key("a"));
    assert!(plan.broken.contains(&Broken::Fn(Key::new("default", "b"))));
}

#[test]
fn an_unknown_runtime_is_told_which_there_are() {
    let text = function("a", "").replace("runtime: python", "runtime: cobol");
    let problem = only_problem(&plan_text(&format!("{APP}{text}")));
    assert!(problem.contains("cobol") && problem.contains("node, python"), "{problem}");
}

#[test]
fn the_first_route_of_a_claim_serves_and_the_second_is_told_of_it() {
    let route = |name: &str| {
        format!(
            "apiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  app: shop\n  \
             hostnames: [a.example.com]\n  basePath: /v1\n  fn: a\n  openapi:\n    inline: |\n      openapi: 3.0.3\n      \
             info: {{title: t, version: '1'}}\n      paths: {{/x: {{get: {{operationId: x, responses: {{'200': \
             {{description: d}}}}}}}}}}\n---\n"
        )
    };
    let plan = plan_text(&format!("{APP}{}{}{}", function("a", ""), route("zz"), route("aa")));
    let problem = only_problem(&plan);
    assert!(problem.contains("belongs to Route default/zz"), "{problem}");
    assert!(plan.routes.contains_key(&Key::new("default", "zz")));
    assert_eq!(plan.routes.len(), 1);
}

#[test]
fn a_route_to_a_fn_that_is_not_there_is_a_problem_and_still_serves_the_rest() {
    let text = "apiVersion: funcatron.dev/v1alpha1\nkind: Route\nmetadata: {name: r}\nspec:\n  app: shop\n  rules:\n  \
                - matches: [{path: {value: /a}}]\n    backends: [{fn: a}]\n  - matches: [{path: {value: /b}}]\n    \
                backends: [{fn: b}]\n";
    let plan = plan_text(&format!("{APP}{}{text}", function("a", "")));
    assert!(only_problem(&plan).contains("Fn b"));
    assert_eq!(plan.routes.len(), 1);
}

#[test]
fn a_trigger_runs_later_where_it_says_so() {
    let trigger = |name: &str, more: &str| {
        format!(
            "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {{name: {name}}}\nspec: {{app: shop, fn: a, \
             http: {{source: /{name}}}{more}}}\n---\n"
        )
    };
    let triggers = [trigger("later", ", async: true"), trigger("now", "")].concat();
    let plan = plan_text(&format!("{APP}{}{triggers}", function("a", "")));
    assert_eq!(plan.problems, vec![]);
    let planned: Vec<_> =
        plan.apps[&shop()].triggers.iter().map(|trigger| (trigger.name.as_str(), trigger.is_async)).collect();
    assert_eq!(planned, [("later", true), ("now", false)]);
}

#[test]
fn a_trigger_of_another_apps_fn_is_refused() {
    let other = "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {name: other}\nspec: {}\n---\n\
                 apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: t}\nspec: {app: other, fn: a, \
                 http: {source: /hook}}\n";
    let problem = only_problem(&plan_text(&format!("{APP}{}{other}", function("a", ""))));
    assert!(problem.contains("belongs to App shop"), "{problem}");
}

#[test]
fn a_queue_on_another_broker_is_left_out_and_said_so() {
    let trigger = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: on-order}\nspec:\n  app: shop\n  \
                   fn: a\n  queue:\n    broker: {secretKeyRef: {name: rabbit, key: url}}\n    name: orders\n";
    let plan = plan_text(&format!("{APP}{}{trigger}", function("a", "")));
    assert_eq!(plan.problems, vec![]);
    assert!(plan.apps[&shop()].bindings.is_empty());
    let note = plan.notes.iter().find(|note| note.contains("Trigger on-order")).unwrap();
    assert!(note.contains("needs a cluster"), "{note}");
}

#[test]
fn the_exchange_of_replies_is_taken_by_no_trigger() {
    let trigger = "apiVersion: funcatron.dev/v1alpha1\nkind: Trigger\nmetadata: {name: t}\nspec: {app: shop, fn: a, queue: \
                   {exchange: replies}}\n";
    let problem = only_problem(&plan_text(&format!("{APP}{}{trigger}", function("a", ""))));
    assert!(problem.contains("choose another name"), "{problem}");
}
