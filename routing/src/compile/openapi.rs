//! Rules of a Route that brings an OpenAPI or Swagger document.
//! Never parses bytes: `document` does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use funcatron_crds::Direct;

use super::{Parts, base_path, kebab_case};
use crate::document::{self, Description, Operation};
use crate::error::{Problems, quoted};
use crate::names::{BasePath, Hostname, check_fn_name};
use crate::pattern::{Pattern, PatternKind};
use crate::rule::{Backends, Rule};
use crate::source::{CallPolicy, OperationOverride, RouteSource};

/// It travels with each call as a header and may become a metric's label.
const OPERATION_ID_BYTES_MAX: usize = 256;

/// What `Rules::OpenApi` holds.
pub(super) struct Request<'a> {
    pub(super) document: &'a [u8],
    pub(super) fn_default: Option<&'a str>,
    pub(super) overrides: &'a BTreeMap<String, OperationOverride>,
}

pub(super) fn compile(
    source: &RouteSource<'_>,
    hostnames: Vec<Hostname>,
    request: &Request<'_>,
    problems: &mut Problems,
) -> Parts {
    if let Some(name) = request.fn_default {
        check_fn("spec.fn", name, problems);
    }
    let own_base_path = source.base_path.map(|text| base_path("spec.basePath", text, problems));
    let Some(description) = document::read(request.document, own_base_path.is_none(), problems) else {
        return Parts::default();
    };
    let base_path = own_base_path.unwrap_or_else(|| document_base_path(&description, problems));
    let hostnames = narrowed(hostnames, description.host.as_deref(), problems);
    check_operation_ids(&description.operations, request.overrides, problems);
    let rules = rules(&description, request, problems);
    Parts { hostnames, claims: vec![base_path.as_str().to_owned()], base_path, rules }
}

fn document_base_path(description: &Description, problems: &mut Problems) -> BasePath {
    match &description.base_path {
        Some(own) if !own.text.is_empty() => base_path(own.at, &own.text, problems),
        _ => BasePath::default(),
    }
}

/// The hostnames that Swagger's `host` leaves. A document can pick one of those that the Route or its App has;
/// it cannot bring its own, since documents come from elsewhere. Where neither has any, the Route answers on
/// the gateway's own hostname and `host` plays no part, as OpenAPI 3's servers never do.
fn narrowed(hostnames: Vec<Hostname>, host: Option<&str>, problems: &mut Problems) -> Vec<Hostname> {
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase());
    let Some(host) = host.filter(|host| !host.is_empty() && host != "*") else { return hostnames };
    if hostnames.is_empty() || !problems.is_empty() {
        return hostnames;
    }
    let covered = hostnames.iter().any(|hostname| hostname.covers(&host) || hostname.to_string() == host);
    match Hostname::try_from(host.clone()) {
        Ok(hostname) if covered => vec![hostname],
        _ => {
            let what = format!("{} is none of the hostnames of the Route or its App", quoted(&host));
            problems.add("document#/host", what, "remove it, or add it to spec.hostnames");
            hostnames
        }
    }
}

fn check_operation_ids(
    operations: &[Operation],
    overrides: &BTreeMap<String, OperationOverride>,
    problems: &mut Problems,
) {
    let mut first: HashMap<&str, &str> = HashMap::new();
    for Operation { at, operation_id, .. } in operations {
        let Some(id) = operation_id else { continue };
        if id.is_empty() || id.len() > OPERATION_ID_BYTES_MAX || id.chars().any(char::is_control) {
            let what = format!("{} cannot be an operationId", quoted(id));
            problems.add(at, what, format!("write 1 to {OPERATION_ID_BYTES_MAX} printable characters"));
        }
        if let Some(other) = first.insert(id, at) {
            let what = format!("operationId {} stands at {other} too", quoted(id));
            problems.add(format!("{at}/operationId"), what, "give each operation its own");
        }
    }
    for id in overrides.keys().filter(|id| !first.contains_key(id.as_str())) {
        let at = format!("spec.operations[{}]", quoted(id));
        problems.add(at, "the document has no such operationId", "correct or remove it");
    }
}

fn rules(description: &Description, request: &Request<'_>, problems: &mut Problems) -> Vec<Rule> {
    let mut shapes: HashMap<(String, &http::Method), &str> = HashMap::new();
    let mut rules = Vec::with_capacity(description.operations.len());
    for operation in &description.operations {
        let fn_name = fn_name(operation, description, request, problems);
        let Some(path) = pattern(operation, problems) else { continue };
        if let Some(other) = shapes.insert((path.shape(), &operation.method), &operation.at) {
            let what = format!("its path differs from that of {other} in parameters' names only");
            problems.add(&operation.at, what, "remove one of them");
        }
        rules.push(Rule {
            path,
            method: Some(operation.method.clone()),
            headers: Vec::new(),
            call: call(operation, request, problems),
            operation_id: operation.operation_id.clone(),
            backends: Backends::one(fn_name.unwrap_or_default()),
        });
    }
    rules
}

/// How an operation's calls are made: as spec.operations says, else the document.
fn call(operation: &Operation, request: &Request<'_>, problems: &mut Problems) -> CallPolicy {
    let mut call = overridden(operation, request).map(|own| own.call).unwrap_or_default();
    let Some(said) = &operation.direct else { return call };
    let known = [("Always", Direct::Always), ("Auto", Direct::Auto), ("Never", Direct::Never)];
    match known.into_iter().find(|(word, _)| word == said) {
        Some((_, direct)) => call.direct = call.direct.or(Some(direct)),
        None => {
            let at = format!("{}/x-funcatron-direct", operation.at);
            problems.add(at, format!("{} is unknown", quoted(said)), "write Always, Auto or Never");
        }
    }
    call
}

fn pattern(operation: &Operation, problems: &mut Problems) -> Option<Pattern> {
    let pattern = match Pattern::parse(PatternKind::Template, &operation.path) {
        Ok(pattern) => pattern,
        Err(error) => {
            let what = format!("path {}: {error}", quoted(&operation.path));
            problems.add(&operation.at, what, "correct the path");
            return None;
        }
    };
    let params: BTreeSet<&str> = pattern.params().collect();
    for name in operation.path_params.iter().filter(|name| !params.contains(name.as_str())) {
        let what = format!("parameter {} (in: path) does not stand in the path", quoted(name));
        problems.add(&operation.at, what, "put it into the path, or correct its name");
    }
    Some(pattern)
}

/// Who answers: spec.operations, the document, spec.fn, the operationId, in this order.
fn fn_name(
    operation: &Operation,
    description: &Description,
    request: &Request<'_>,
    problems: &mut Problems,
) -> Option<String> {
    let at = &operation.at;
    let own = overridden(operation, request).and_then(|own| own.fn_name.as_deref());
    if let Some(name) = own {
        let id = operation.operation_id.as_deref().unwrap_or_default();
        return check_fn(&format!("spec.operations[{}].fn", quoted(id)), name, problems);
    }
    if let Some(name) = operation.fn_name.as_deref().or(description.fn_name.as_deref()) {
        return check_fn(&format!("{at}/x-funcatron-fn"), name, problems);
    }
    if let Some(name) = request.fn_default {
        return Some(name.to_owned());
    }
    let Some(id) = &operation.operation_id else {
        let what = format!("{} {} has no operationId", operation.method, quoted(&operation.path));
        problems.add(at, what, "write one, or set spec.fn");
        return None;
    };
    let name = kebab_case(id);
    if check_fn_name(&name).is_err() {
        let what = format!("operationId {} makes no name for a Fn", quoted(id));
        problems.add(at, what, "name a Fn in spec.operations, by x-funcatron-fn or by spec.fn");
        return None;
    }
    Some(name)
}

fn overridden<'a>(operation: &Operation, request: &Request<'a>) -> Option<&'a OperationOverride> {
    operation.operation_id.as_ref().and_then(|id| request.overrides.get(id))
}

fn check_fn(at: &str, name: &str, problems: &mut Problems) -> Option<String> {
    match check_fn_name(name) {
        Ok(()) => Some(name.to_owned()),
        Err(error) => {
            problems.add(at, format!("{}: {error}", quoted(name)), "name a Fn of the Route's own namespace");
            None
        }
    }
}
