//! OpenAPI 3.0: base path out of `servers`, shared parameters below `components`.
//! Never takes a hostname from a server's URL, and never reads servers of a path or an operation: both say
//! where other programs find the API, while the Route says where we serve it.

use super::model::{RawDocument, Server};
use super::operations::{Dialect, Parts, collect};
use super::{BasePathText, Description};
use crate::error::{Problems, quoted};

const OPENAPI_30: Dialect = Dialect {
    version: "OpenAPI 3.0",
    parameters_at: "#/components/parameters/",
    path_items_at: "",
    has_trace: true,
};

pub(super) fn describe(raw: RawDocument, base_path_wanted: bool, problems: &mut Problems) -> Description {
    describe_as(&OPENAPI_30, raw, base_path_wanted, problems)
}

pub(super) fn describe_as(
    dialect: &Dialect,
    raw: RawDocument,
    base_path_wanted: bool,
    problems: &mut Problems,
) -> Description {
    let servers = raw.servers.unwrap_or_default();
    let components = raw.components.unwrap_or_default();
    let parts = Parts {
        paths: raw.paths.unwrap_or_default().0,
        path_items: components.path_items.unwrap_or_default().0,
        parameters: components.parameters.unwrap_or_default().0,
    };
    Description {
        host: None,
        base_path: if base_path_wanted { base_path(&servers, problems) } else { None }
            .map(|text| BasePathText { at: "document#/servers", text }),
        fn_name: raw.fn_name,
        operations: collect(&parts, dialect, problems),
    }
}

/// The path that all servers agree on. Peers take the first server's; where another's path differs, a request
/// meant for that one would then get 404, so the author is asked instead.
fn base_path(servers: &[Server], problems: &mut Problems) -> Option<String> {
    const FIX: &str = "set spec.basePath";
    let mut agreed: Option<String> = None;
    for (index, server) in servers.iter().enumerate() {
        let at = format!("document#/servers/{index}/url");
        let Some(url) = with_defaults(server) else {
            problems.add(at, format!("a variable of {} has no default", quoted(&server.url)), FIX);
            return None;
        };
        let path = path_of(&url);
        match &agreed {
            Some(other) if other.trim_end_matches('/') != path.trim_end_matches('/') => {
                problems.add(at, format!("its path is not {} as that of another", quoted(other)), FIX);
                return None;
            }
            _ => agreed = Some(path),
        }
    }
    agreed
}

/// The URL with each `{variable}` replaced by its default.
fn with_defaults(server: &Server) -> Option<String> {
    let mut url = String::new();
    let mut rest = server.url.as_str();
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}')?;
        let default = server.variables.as_ref()?.0.get(name)?.default.as_ref()?;
        url.push_str(before);
        url.push_str(&default.0);
        rest = after;
    }
    url.push_str(rest);
    Some(url)
}

/// The path of an absolute URL, of one without scheme, or of one relative to wherever the document is.
fn path_of(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let authority = url.split_once("://").map(|(_, rest)| rest).or_else(|| url.strip_prefix("//"));
    let path = match authority {
        Some(rest) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => url.strip_prefix('.').unwrap_or(url),
    };
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_path_is_found_in_every_form_of_url() {
        for (url, path) in [
            ("https://api.example.com/v1", "/v1"),
            ("https://api.example.com", "/"),
            ("//api.example.com/v1/", "/v1/"),
            ("/v1", "/v1"),
            ("/", "/"),
            ("", "/"),
            ("v1", "/v1"),
            ("./v1?x=1", "/v1"),
        ] {
            assert_eq!(path_of(url), path, "{url}");
        }
    }
}
