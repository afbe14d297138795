//! From a Route resource to what `compile` takes. Looks nothing up: the document and the App's hostnames are brought.

use std::collections::BTreeMap;

use funcatron_crds::{
    DurationParseError, HttpMethod, OperationRule, PathMatchType as ResourcePathMatchType, RouteRule,
    RouteSpec, Timeout,
};
use thiserror::Error;

use crate::{
    Backend, CallPolicy, ExplicitRule, HeaderMatch, OperationOverride, PathMatch, PathMatchType, RouteMatch,
    RouteSource, Rules,
};

/// A Route's spec in this crate's words; `source` lends it to `compile`.
pub struct RouteParts {
    hostnames: Vec<String>,
    base_path: Option<String>,
    fn_default: Option<String>,
    operations: BTreeMap<String, OperationOverride>,
    rules: Vec<ExplicitRule>,
    document: Option<Vec<u8>>,
}

/// Who a Route is, and since when: what decides conflicts.
#[derive(Debug, Clone, Copy)]
pub struct RouteIdentity<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// When it was made, in milliseconds since the epoch; the older owns a claim.
    pub created_ms: i64,
}

/// Why a spec cannot be read. Each names its field.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RouteSpecError {
    /// Neither or both of `openapi` and `rules`.
    #[error("spec: set exactly one of `openapi` and `rules`")]
    OpenApiOrRules,
    /// A timeout that is none.
    #[error("spec.{field}: {error}")]
    Timeout {
        /// Its field, below `spec`.
        field: String,
        /// What is wrong with it.
        error: DurationParseError,
    },
}

impl RouteParts {
    /// Reads a spec. `hostnames_default` are its App's; `document` is what `spec.openapi` stands for.
    pub fn of(
        spec: &RouteSpec,
        hostnames_default: &[String],
        document: Option<Vec<u8>>,
    ) -> Result<Self, RouteSpecError> {
        // Whole, so that a new field cannot be forgotten.
        let RouteSpec { app: _, hostnames, base_path, openapi, fn_name, operations, rules } = spec;
        if openapi.is_some() != rules.is_empty() || openapi.is_some() != document.is_some() {
            return Err(RouteSpecError::OpenApiOrRules);
        }
        let hostnames = if hostnames.is_empty() { hostnames_default } else { hostnames };
        let mut overrides = BTreeMap::new();
        for (id, rule) in operations {
            let OperationRule { fn_name, timeout, idempotent, direct, is_async } = rule;
            let timeout_ms = timeout_ms(timeout.as_ref(), || format!("operations.{id}.timeout"))?;
            let (idempotent, direct, is_async) = (*idempotent, *direct, is_async.unwrap_or(false));
            let call = CallPolicy { timeout_ms, idempotent, direct, is_async };
            overrides.insert(id.clone(), OperationOverride { fn_name: fn_name.clone(), call });
        }
        let mut explicit = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let RouteRule { matches, backends, timeout, idempotent, direct, is_async } = rule;
            let timeout_ms = timeout_ms(timeout.as_ref(), || format!("rules[{index}].timeout"))?;
            let (idempotent, direct, is_async) = (*idempotent, *direct, is_async.unwrap_or(false));
            let call = CallPolicy { timeout_ms, idempotent, direct, is_async };
            let matches = matches.iter().map(route_match).collect();
            let backends = backends.iter().map(backend).collect();
            explicit.push(ExplicitRule { matches, backends, call });
        }
        Ok(Self {
            hostnames: hostnames.to_vec(),
            base_path: base_path.clone(),
            fn_default: fn_name.clone(),
            operations: overrides,
            rules: explicit,
            document,
        })
    }

    /// What `compile` takes.
    pub fn source<'a>(&'a self, app: &'a str, identity: RouteIdentity<'a>) -> RouteSource<'a> {
        let RouteIdentity { namespace, name, uid, created_ms } = identity;
        let rules = match &self.document {
            Some(document) => Rules::OpenApi {
                document,
                fn_default: self.fn_default.as_deref(),
                operations: &self.operations,
            },
            None => Rules::Explicit(&self.rules),
        };
        let (hostnames, base_path) = (self.hostnames.as_slice(), self.base_path.as_deref());
        RouteSource { namespace, name, app, hostnames, base_path, created_ms, uid, rules }
    }
}

fn timeout_ms(
    timeout: Option<&Timeout>,
    field: impl FnOnce() -> String,
) -> Result<Option<u64>, RouteSpecError> {
    let Some(timeout) = timeout else { return Ok(None) };
    match timeout.to_duration() {
        Ok(length) => Ok(Some(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))),
        Err(error) => Err(RouteSpecError::Timeout { field: field(), error }),
    }
}

fn route_match(given: &funcatron_crds::RouteMatch) -> RouteMatch {
    let funcatron_crds::RouteMatch { path, method, headers } = given;
    RouteMatch {
        path: path
            .as_ref()
            .map(|path| PathMatch { kind: path_match_type(path.kind), value: path.value.clone() }),
        method: method.map(|method| method_name(method).to_owned()),
        headers: headers
            .iter()
            .map(|header| HeaderMatch { name: header.name.clone(), value: header.value.clone() })
            .collect(),
    }
}

fn path_match_type(kind: ResourcePathMatchType) -> PathMatchType {
    match kind {
        ResourcePathMatchType::Exact => PathMatchType::Exact,
        ResourcePathMatchType::PathPrefix => PathMatchType::PathPrefix,
    }
}

fn method_name(method: HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "GET",
        HttpMethod::Head => "HEAD",
        HttpMethod::Post => "POST",
        HttpMethod::Put => "PUT",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Connect => "CONNECT",
        HttpMethod::Options => "OPTIONS",
        HttpMethod::Trace => "TRACE",
        HttpMethod::Patch => "PATCH",
    }
}

fn backend(given: &funcatron_crds::Backend) -> Backend {
    let weight = given.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0));
    Backend { fn_name: given.fn_name.clone(), weight }
}
