//! OpenAPI and Swagger documents, read down to what routing needs: operations, their paths, and whose Fns answer.
//! Never follows a reference out of the document and never builds what it does not need,
//! so that a document's cost is bounded by its size.

mod model;
mod openapi30;
mod openapi31;
mod operations;
mod swagger2;
mod unpack;

use http::Method;

use crate::error::Problems;
use model::RawDocument;

/// What a document says to routing.
#[derive(Debug)]
pub(crate) struct Description {
    /// Swagger 2.0's `host`. OpenAPI 3's servers name no hostnames to us: the Route and its App do.
    pub(crate) host: Option<String>,
    pub(crate) base_path: Option<BasePathText>,
    /// `x-funcatron-fn` of the document itself.
    pub(crate) fn_name: Option<String>,
    /// By path, then by method.
    pub(crate) operations: Vec<Operation>,
}

/// A document's own base path, unchecked.
#[derive(Debug)]
pub(crate) struct BasePathText {
    pub(crate) at: &'static str,
    pub(crate) text: String,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Where it stands, as `document#/paths/~1orders/get`.
    pub(crate) at: String,
    pub(crate) path: String,
    pub(crate) method: Method,
    pub(crate) operation_id: Option<String>,
    /// `x-funcatron-fn` of the operation, else of its path item.
    pub(crate) fn_name: Option<String>,
    /// `x-funcatron-direct` of the operation, unread.
    pub(crate) direct: Option<String>,
    /// Names of its declared parameters `in: path`.
    pub(crate) path_params: Vec<String>,
}

/// Reads a document. `None` after adding at least one problem; problems may be added beside `Some` too.
/// `base_path_wanted` is false where the Route names its own, so that the document's need not be clear.
pub(crate) fn read(document: &[u8], base_path_wanted: bool, problems: &mut Problems) -> Option<Description> {
    let raw = unpack::parse(document)
        .map_err(|error| problems.add("document", error.to_string(), error.fix()))
        .ok()?;
    let describe = dialect(&raw, problems)?;
    Some(describe(raw, base_path_wanted, problems))
}

type Describe = fn(RawDocument, bool, &mut Problems) -> Description;

fn dialect(raw: &RawDocument, problems: &mut Problems) -> Option<Describe> {
    const FIX: &str = "write a document of Swagger 2.0, OpenAPI 3.0 or OpenAPI 3.1";
    let text = |version: &Option<model::Text>| version.as_ref().map(|text| text.0.clone());
    match (text(&raw.swagger), text(&raw.openapi)) {
        (Some(_), Some(_)) => problems.add("document#/swagger", "stands beside `openapi`", FIX),
        (None, None) => problems.add("document", "neither `openapi` nor `swagger` says its version", FIX),
        (Some(version), None) if version == "2.0" || version == "2" => return Some(swagger2::describe),
        (Some(version), None) => problems.add("document#/swagger", unsupported(&version), FIX),
        (None, Some(version)) => match minor(&version) {
            Some("3.0") => return Some(openapi30::describe),
            Some("3.1") => return Some(openapi31::describe),
            _ => problems.add("document#/openapi", unsupported(&version), FIX),
        },
    }
    None
}

/// `3.0` of `3.0.3`.
fn minor(version: &str) -> Option<&str> {
    let dot = version.find('.')?;
    let end = version[dot + 1..].find('.').map_or(version.len(), |at| dot + 1 + at);
    Some(&version[..end])
}

fn unsupported(version: &str) -> String {
    format!("version {} is not one that can be read", crate::error::quoted(version))
}

/// A JSON pointer's token (RFC 6901).
fn pointer_token(text: &str) -> String {
    text.replace('~', "~0").replace('/', "~1")
}
