//! A Route → its table, or everything that is wrong with it.
//! Never asks whether the Fns exist or who else claims the paths: callers know all Routes, this knows one.

mod explicit;
mod kebab;
mod openapi;

pub use kebab::kebab_case;

use crate::error::{CompileError, Problems, quoted};
use crate::names::{BasePath, Hostname};
use crate::rule::Rule;
use crate::source::{RouteSource, Rules};
use crate::table::RouteTable;

/// As many as Gateway API allows.
const HOSTNAMES_MAX: usize = 16;
/// First segments that the gateway serves itself on its own hostname.
const RESERVED_NAMESPACES: [&str; 3] = ["t", "invoke", "calls"];

/// Compiles one Route.
///
/// # Errors
/// Every problem that was found, each with its place and what to do.
pub fn compile(source: &RouteSource<'_>) -> Result<RouteTable, CompileError> {
    let mut problems = Problems::default();
    check_namespace(source, &mut problems);
    let hostnames = hostnames(source.hostnames, &mut problems);
    let parts = match source.rules {
        Rules::OpenApi { document, fn_default, operations } => {
            let request = openapi::Request { document, fn_default, overrides: operations };
            openapi::compile(source, hostnames, &request, &mut problems)
        }
        Rules::Explicit(rules) => explicit::compile(source, hostnames, rules, &mut problems),
    };
    let Parts { hostnames, base_path, claims, rules } = parts;
    problems.into_result(RouteTable {
        version: RouteTable::VERSION,
        namespace: source.namespace.to_owned(),
        route: source.name.to_owned(),
        app: source.app.to_owned(),
        uid: source.uid.to_owned(),
        created_ms: source.created_ms,
        hostnames,
        base_path,
        claims,
        rules,
    })
}

/// What differs between the two kinds of Route.
#[derive(Default)]
struct Parts {
    hostnames: Vec<Hostname>,
    base_path: BasePath,
    claims: Vec<String>,
    rules: Vec<Rule>,
}

fn check_namespace(source: &RouteSource<'_>, problems: &mut Problems) {
    if source.hostnames.is_empty() && RESERVED_NAMESPACES.contains(&source.namespace) {
        let what = format!("namespace `{}` is the gateway's own word on its own hostname", source.namespace);
        problems.add("spec.hostnames", what, "give the Route or its App a hostname");
    }
}

fn hostnames(names: &[String], problems: &mut Problems) -> Vec<Hostname> {
    if names.len() > HOSTNAMES_MAX {
        let what = format!("more than {HOSTNAMES_MAX} hostnames");
        problems.add("spec.hostnames", what, "use a wildcard, or several Routes");
        return Vec::new();
    }
    let mut hostnames = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match Hostname::try_from(name.clone()) {
            Ok(hostname) if hostnames.contains(&hostname) => {}
            Ok(hostname) => hostnames.push(hostname),
            Err(error) => {
                let what = format!("{}: {error}", quoted(name));
                problems.add(format!("spec.hostnames[{index}]"), what, "write a name as `shop.example.com`");
            }
        }
    }
    hostnames
}

fn base_path(at: &str, text: &str, problems: &mut Problems) -> BasePath {
    BasePath::try_from(text.to_owned()).unwrap_or_else(|error| {
        let what = format!("{}: {error}", quoted(text));
        problems.add(at, what, "write a path as `/v1`");
        BasePath::default()
    })
}
