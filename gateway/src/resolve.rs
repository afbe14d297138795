//! From a request's head to the Fn that it calls, by the tables of the moment. Pure but for the tables it reads; draws
//! no random number.

use std::borrow::Cow;
use std::str::FromStr;

use funcatron_broker::message::Intent;
use funcatron_routing::{CallPolicy, Found, Match};
use http::uri::Authority;
use http::{Method, Version, header, request};

use crate::apps::TriggerPart;
use crate::headers;
use crate::problem::Problem;
use crate::submission::Destination;
use crate::tables::TableStore;

/// Below it are HTTP triggers.
const TRIGGERS: &str = "/t/";
/// Below it are Fns by name.
const INVOKE: &str = "/invoke/";
/// Below it are bundles.
pub(crate) const BUNDLES: &str = "/bundles/";

/// Whom a request is addressed to: with its port, and without.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// As it stands in the URL that the client sees.
    pub(crate) authority: String,
    /// Lower case, without port and root dot.
    pub(crate) name: String,
}

/// Reads the host: the URL's own where it has one, else the one `Host` header (RFC 9112, 3.2).
pub(crate) fn host(head: &request::Parts) -> Result<Host, Problem> {
    let mut given = head.headers.get_all(header::HOST).iter();
    let (first, second) = (given.next(), given.next());
    if second.is_some() {
        return Err(Problem::BadRequest("the request has more than one Host header"));
    }
    let authority = match (head.uri.authority(), first) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) if !host.is_empty() => {
            let text = host.to_str().ok().and_then(|text| Authority::from_str(text).ok());
            text.ok_or(Problem::BadRequest("the Host header is no host"))?
        }
        (None, None) if head.version >= Version::HTTP_11 => {
            return Err(Problem::BadRequest("the request has no Host header"));
        }
        (None, _) => return Ok(Host { authority: String::new(), name: String::new() }),
    };
    if authority.as_str().contains('@') {
        return Err(Problem::BadRequest("the host names a user"));
    }
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    Ok(Host { authority: authority.as_str().to_owned(), name })
}

/// A request on the public listener: a trigger on the gateway's own hostname, else a Route.
pub(crate) fn public(
    tables: &TableStore,
    head: &request::Parts,
    host: &Host,
    random: u32,
) -> Result<Destination, Problem> {
    let path = head.uri.path();
    if let Some(rest) = path.strip_prefix(TRIGGERS)
        && tables.is_own(&host.name)
    {
        return trigger(tables, rest);
    }
    let routes = tables.routes();
    match routes.tables().find(&host.name, &head.method, path, &head.headers) {
        Found::NotFound => Err(Problem::NoRoute),
        Found::MethodNotAllowed { allow } => Err(Problem::MethodNotAllowed(allow.to_string())),
        Found::Match(found) => routed(tables, &found, random),
    }
}

fn routed(tables: &TableStore, found: &Match<'_>, random: u32) -> Result<Destination, Problem> {
    let app = tables.app(found.namespace, found.app).ok_or(Problem::NoApp)?;
    let fn_name = &found.pick(random).fn_name;
    let function = app.function(fn_name).cloned().ok_or(Problem::NoRevision)?;
    Ok(Destination {
        app,
        function,
        intent: Intent::HttpRequest,
        policy: found.call,
        operation: found.operation_id.map(str::to_owned),
        template: Some(found.template.to_owned()),
        params: found.params.iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect(),
    })
}

/// `<namespace>/<app>/<source…>`.
fn trigger(tables: &TableStore, rest: &str) -> Result<Destination, Problem> {
    let (namespace, below) = rest.split_once('/').ok_or(Problem::NoRoute)?;
    let (app, source) = below.split_at(below.find('/').unwrap_or(below.len()));
    if source.split('/').any(is_dot_segment) {
        return Err(Problem::NoRoute);
    }
    let app = tables.app(namespace, app).ok_or(Problem::NoRoute)?;
    let TriggerPart { source, target, is_async } = app.trigger(source).ok_or(Problem::NoRoute)?;
    let (template, function) = (Some(source.to_string()), target.clone());
    let policy = CallPolicy { is_async: *is_async, ..CallPolicy::default() };
    let (intent, operation, params) = (Intent::HttpRequest, None, Vec::new());
    Ok(Destination { app, function, intent, policy, operation, template, params })
}

/// Programs disagree on what such a path means, so it means nothing here.
fn is_dot_segment(raw: &str) -> bool {
    let plain: Cow<'_, str> =
        if raw.contains('%') { raw.to_ascii_lowercase().replace("%2e", ".").into() } else { raw.into() };
    plain == "." || plain == ".."
}

/// A request on the internal listener: `/invoke/<namespace>/<fn>`, posted but where it asks for a WebSocket.
pub(crate) fn internal(tables: &TableStore, head: &request::Parts) -> Result<Destination, Problem> {
    let rest = head.uri.path().strip_prefix(INVOKE).ok_or(Problem::NoRoute)?;
    let (namespace, fn_name) = rest.split_once('/').ok_or(Problem::NoRoute)?;
    let app = tables.owner(namespace, fn_name).ok_or(Problem::NoRoute)?;
    let function = app.function(fn_name).cloned().ok_or(Problem::NoRoute)?;
    if head.method != Method::POST && !headers::asks_for_websocket(head) {
        return Err(Problem::MethodNotAllowed(Method::POST.to_string()));
    }
    let (intent, policy, params) = (Intent::Invoke, CallPolicy::default(), Vec::new());
    Ok(Destination { app, function, intent, policy, operation: None, template: None, params })
}

/// What a bundle's address says: `/bundles/<namespace>/<app>/<digest>?expires=…&signature=…`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SignedAddress<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) app: &'a str,
    pub(crate) name: &'a str,
    pub(crate) expires_s: u64,
    pub(crate) signature: &'a str,
}

impl<'a> SignedAddress<'a> {
    /// Reads an address below a path; `None` where it is not of that form.
    pub(crate) fn parse(below: &str, path: &'a str, query: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix(below)?.split('/');
        let (namespace, app, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let value = |wanted: &str| {
            query
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == wanted))
                .map(|(_, value)| value)
        };
        let expires_s = value("expires")?.parse().ok()?;
        Some(Self { namespace, app, name, expires_s, signature: value("signature")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, hosts: &[&str], version: Version) -> request::Parts {
        let mut builder = http::Request::builder().uri(uri).version(version);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_host_loses_case_port_and_root_dot() {
        let host = host(&head("/", &["Shop.Example.COM.:8080"], Version::HTTP_11)).unwrap();
        assert_eq!(
            (host.name.as_str(), host.authority.as_str()),
            ("shop.example.com", "Shop.Example.COM.:8080")
        );
    }

    #[test]
    fn an_absolute_url_overrides_the_header() {
        let host = host(&head("http://a.example/x", &["b.example"], Version::HTTP_11)).unwrap();
        assert_eq!(host.name, "a.example");
    }

    #[test]
    fn two_hosts_or_none_or_nonsense_are_refused() {
        for hosts in [&["a", "b"][..], &[], &["a b"], &["a/b"], &["user@a"]] {
            let result = host(&head("/", hosts, Version::HTTP_11));
            assert!(matches!(result, Err(Problem::BadRequest(_))), "{hosts:?}");
        }
        assert!(host(&head("/", &[], Version::HTTP_10)).is_ok());
    }

    #[test]
    fn dot_segments_are_seen_through_their_encoding() {
        for raw in [".", "..", "%2e", "%2E%2e", ".%2E"] {
            assert!(is_dot_segment(raw), "{raw}");
        }
        assert!(!is_dot_segment("...") && !is_dot_segment("a.b") && !is_dot_segment(""));
    }

    #[test]
    fn a_bundles_address_is_read_whole_or_not_at_all() {
        let address =
            SignedAddress::parse(BUNDLES, "/bundles/team-a/shop/sha256:ab", "expires=12&signature=cd")
                .unwrap();
        assert_eq!((address.namespace, address.app, address.name), ("team-a", "shop", "sha256:ab"));
        assert_eq!((address.expires_s, address.signature), (12, "cd"));
        for (path, query) in [
            ("/bundles/team-a/shop", "expires=12&signature=cd"),
            ("/bundles/team-a/shop/d/x", "expires=12&signature=cd"),
            ("/bundles/team-a/shop/d", "expires=x&signature=cd"),
            ("/bundles/team-a/shop/d", "expires=12"),
        ] {
            assert_eq!(SignedAddress::parse(BUNDLES, path, query), None, "{path}?{query}");
        }
    }
}
