//! What `dev` shows people: where things answer, what is wrong, and the lines their functions write.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "`dev` talks to a person at a terminal")]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use funcatron_routing::app_table::HttpTriggerEntry;
use serde_json::Value;

use super::control::Word;
use super::fleet::Notice;
use super::manifests::{Key, Problem};
use super::plan::{BindingPlan, Plan, SchedulePlan};
use super::schedules::Fired;

/// Where things are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Routes and HTTP triggers.
    pub(crate) public: SocketAddr,
    /// Fns by name.
    pub(crate) internal: SocketAddr,
}

/// What a person has seen, so that only news is shown.
pub(crate) struct Screen {
    addresses: Addresses,
    told: BTreeSet<String>,
    listed: String,
}

impl Screen {
    pub(crate) fn new(addresses: Addresses) -> Self {
        Self { addresses, told: BTreeSet::new(), listed: String::new() }
    }

    /// Problems and what answers, where either has changed.
    pub(crate) fn show(&mut self, plan: &Plan) {
        let now: BTreeSet<String> = plan.problems.iter().map(Problem::to_string).collect();
        for problem in now.difference(&self.told) {
            println!("error: {problem}");
        }
        if now.is_empty() && !self.told.is_empty() {
            println!("all manifests are fine again");
        }
        self.told = now;
        let list = list(plan, self.addresses);
        if list != self.listed {
            println!("{list}");
            self.listed = list;
        }
    }

    /// What happened.
    pub(crate) fn show_word(&self, word: &Word) {
        match word {
            Word::Notice(notice) => show_notice(notice),
            Word::Fired(Fired { trigger, tick }) => println!("fired {} of {tick}", trigger.name),
            Word::Problem(message) => println!("error: {message}"),
            Word::Settled => {
                println!(
                    "ready: http://{}   (Ctrl-C ends it, after the calls in flight)",
                    self.addresses.public
                );
            }
        }
    }
}

/// Why `dev` ended.
pub(crate) fn show_end(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Everything that answers, with its URL.
fn list(plan: &Plan, addresses: Addresses) -> String {
    let Addresses { public, internal } = addresses;
    let mut lines = vec![String::new(), "Routes".to_owned()];
    for table in plan.routes.values() {
        let base = table.base_path().trim_end_matches('/');
        lines.push(format!(
            "  {:<24} http://{public}{base}/   {} operations",
            table.route(),
            table.operations()
        ));
        for rule in table.rules() {
            let fns: Vec<&str> = rule.backends().iter().map(|backend| backend.fn_name.as_str()).collect();
            let method = rule.method().map_or("ANY", |method| method.as_str());
            lines.push(format!("    {method:<7} {base}{:<30} → {}", rule.path().text(), fns.join(", ")));
        }
    }
    lines.push("Functions".to_owned());
    for (Key { namespace, name: app_name }, app) in &plan.apps {
        let fns = app.fns.keys();
        lines.extend(fns.map(|name| format!("  {name:<24} http://{internal}/invoke/{namespace}/{name}")));
        for HttpTriggerEntry { name, source, fn_name, is_async } in &app.triggers {
            let url = format!("http://{public}/t/{namespace}/{app_name}{source}");
            let rest = if *is_async { ", which runs later" } else { "" };
            lines.push(format!("  {name:<24} {url}   Trigger → {fn_name}{rest}"));
        }
        for BindingPlan { fn_name, exchange, key } in &app.bindings {
            lines.push(format!("  {fn_name:<24} exchange {exchange}, key {key}   Trigger"));
        }
        for (name, SchedulePlan { fn_name, spec, suspended, table: _ }) in &app.schedules {
            let zone = spec.time_zone.as_deref().unwrap_or("UTC");
            let rest = if *suspended { ", suspended" } else { "" };
            lines.push(format!("  {name:<24} {} in {zone}{rest}   Trigger → {fn_name}", spec.cron));
        }
    }
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines.push(String::new());
    lines.join("\n")
}

fn show_notice(notice: &Notice) {
    match notice {
        Notice::Serving { fn_key, revision } => println!("serving {} ({revision})", fn_key.name),
        Notice::Failed { fn_key, reason, log, serving } => {
            let then = match serving {
                Some(revision) => format!("{revision} serves on"),
                None => "it does not serve".to_owned(),
            };
            println!("error: Fn {} cannot be loaded: {reason}; {then}", fn_key.name);
            for line in log.lines() {
                println!("  | {line}");
            }
        }
    }
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
