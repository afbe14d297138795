//! What `dev` shows people: where things answer, what is wrong, and the lines their functions write.
#![allow(clippy::print_stdout, reason = "`dev` talks to a person at a terminal")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::control::Word;
use super::fleet::Notice;
use super::manifests::{Key, Problem};
use super::plan::Plan;

/// Everything that answers, with its URL.
pub(crate) fn show_plan(plan: &Plan, public: SocketAddr, internal: SocketAddr) {
    println!("\nRoutes");
    for table in plan.routes.values() {
        let base = table.base_path().trim_end_matches('/');
        println!("  {:<24} http://{public}{base}/   {} operations", table.route(), table.operations());
        for rule in table.rules() {
            let fns: Vec<&str> = rule.backends().iter().map(|backend| backend.fn_name.as_str()).collect();
            let method = rule.method().map_or("ANY", |method| method.as_str());
            println!("    {method:<7} {base}{:<30} → {}", rule.path().text(), fns.join(", "));
        }
    }
    println!("Functions");
    for (key, app) in &plan.apps {
        for name in app.fns.keys() {
            println!("  {name:<24} http://{internal}/invoke/{}/{name}", key.namespace);
        }
        for trigger in &app.triggers {
            let path = format!("/t/{}/{}{}", key.namespace, key.name, trigger.source);
            println!("  {:<24} http://{public}{path}   Trigger → {}", trigger.name, trigger.fn_name);
        }
        for binding in &app.bindings {
            println!("  {:<24} exchange {}, key {}   Trigger", binding.fn_name, binding.exchange, binding.key);
        }
    }
    for note in &plan.notes {
        println!("note: {note}");
    }
    println!();
}

/// Problems, each with its place; those told before are not told again.
pub(crate) fn show_problems(problems: &[Problem], told: &mut BTreeMap<String, ()>) {
    let now: BTreeMap<String, ()> = problems.iter().map(|problem| (problem.to_string(), ())).collect();
    for problem in now.keys().filter(|problem| !told.contains_key(*problem)) {
        println!("error: {problem}");
    }
    if problems.is_empty() && !told.is_empty() {
        println!("all manifests are fine again");
    }
    *told = now;
}

/// What happened.
pub(crate) fn show_word(word: &Word, public: SocketAddr) {
    match word {
        Word::Notice(Notice::Serving { fn_key, revision }) => {
            println!("serving {} ({revision})", fn_name(fn_key));
        }
        Word::Notice(Notice::Failed { fn_key, reason, log, serving }) => {
            let then = match serving {
                Some(revision) => format!("{revision} serves on"),
                None => "it does not serve".to_owned(),
            };
            println!("error: Fn {} cannot be loaded: {reason}; {then}", fn_name(fn_key));
            for line in log.lines() {
                println!("  | {line}");
            }
        }
        Word::Problem(message) => println!("error: {message}"),
        Word::Settled => println!("ready: http://{public}   (Ctrl-C ends it, after the calls in flight)"),
    }
}

fn fn_name(key: &Key) -> &str {
    &key.name
}

/// A line of a host: one JSON object, or text where the host itself speaks.
pub(crate) fn show_host_line(line: &str) {
    let parsed: Option<Value> = serde_json::from_str(line).ok().filter(Value::is_object);
    let Some(record) = parsed else { return println!("host | {line}") };
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("fn") {
        "" => println!("host | {}", text("message")),
        fn_name => println!("{fn_name} | {}", text("message")),
    }
}
