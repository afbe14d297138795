//! Path items → operations, with references inside the document resolved.
//! Never follows a reference elsewhere: it is refused by name.

use std::collections::BTreeMap;

use http::Method;

use super::model::{OPERATIONS_MAX, Parameter, PathItem, RawOperation};
use super::{Operation, pointer_token};
use crate::error::{Problems, quoted};

/// A path item that stands for another, which stands for another, …: nobody writes more.
const REFERENCES_MAX: usize = 8;

/// What the versions of the format differ in.
pub(super) struct Dialect {
    pub(super) version: &'static str,
    /// Where shared parameters stand.
    pub(super) parameters_at: &'static str,
    /// Where shared path items stand, beside `#/paths/`; empty where the version has none.
    pub(super) path_items_at: &'static str,
    pub(super) has_trace: bool,
}

/// The parts of a document that references may lead to.
pub(super) struct Parts {
    pub(super) paths: BTreeMap<String, PathItem>,
    pub(super) path_items: BTreeMap<String, PathItem>,
    pub(super) parameters: BTreeMap<String, Parameter>,
}

/// All operations, by path, then by method.
pub(super) fn collect(parts: &Parts, dialect: &Dialect, problems: &mut Problems) -> Vec<Operation> {
    if parts.paths.is_empty() {
        problems.add("document#/paths", "no paths", "write the operations that the Route is to serve");
    }
    let mut operations = Vec::new();
    for (path, item) in &parts.paths {
        let at = format!("document#/paths/{}", pointer_token(path));
        if !path.starts_with('/') {
            problems.add(at, "a path begins with `/`", "put a `/` in front");
            continue;
        }
        let mut reader = Reader { parts, dialect, problems, operations: &mut operations, path };
        reader.read_chain(at, item);
        if operations.len() > OPERATIONS_MAX {
            let what = format!("more than {OPERATIONS_MAX} operations");
            problems.add("document#/paths", what, "split it into several Routes");
            break;
        }
    }
    operations
}

/// Reads what one path leads to.
struct Reader<'a> {
    parts: &'a Parts,
    dialect: &'a Dialect,
    problems: &'a mut Problems,
    operations: &'a mut Vec<Operation>,
    path: &'a str,
}

impl<'a> Reader<'a> {
    /// The item, and those that its `$ref` leads to. A method may stand in one of them only.
    fn read_chain(&mut self, at: String, item: &'a PathItem) {
        let first = self.operations.len();
        let (mut at, mut item) = (at, item);
        for _ in 0..REFERENCES_MAX {
            self.read_item(first, &at, item);
            let Some(reference) = &item.reference else { return };
            match self.path_item(reference) {
                Ok(next) => (at, item) = (format!("document{reference}"), next),
                Err((what, fix)) => return self.problems.add(format!("{at}/$ref"), what, fix),
            }
        }
        let what = format!("more than {REFERENCES_MAX} references in a row, or a circle");
        self.problems.add(format!("{at}/$ref"), what, "write the path item where it is used");
    }

    fn read_item(&mut self, first: usize, at: &str, item: &'a PathItem) {
        for key in &item.unknown {
            let what = format!("{} is no member of a path item", quoted(key));
            self.problems.add(at, what, "correct its spelling, or remove it");
        }
        let shared = self.path_params(at, &item.parameters);
        for (name, operation) in &item.operations {
            let at = format!("{at}/{name}");
            let Some(method) = self.method(&at, name) else { continue };
            if let Some(other) = self.operations[first..].iter().find(|other| other.method == method) {
                let what = format!("the path has this method at {} already", other.at);
                self.problems.add(at, what, "remove one of them");
                continue;
            }
            self.read_operation(at, method, item, operation, &shared);
        }
    }

    fn read_operation(
        &mut self,
        at: String,
        method: Method,
        item: &PathItem,
        operation: &'a RawOperation,
        shared: &[String],
    ) {
        let mut path_params = self.path_params(&at, operation.parameters.as_deref().unwrap_or_default());
        path_params.extend_from_slice(shared);
        self.operations.push(Operation {
            at,
            path: self.path.to_owned(),
            method,
            operation_id: operation.operation_id.clone(),
            fn_name: operation.fn_name.clone().or_else(|| item.fn_name.clone()),
            direct: operation.direct.clone(),
            path_params,
        });
    }

    fn method(&mut self, at: &str, name: &str) -> Option<Method> {
        if name == "trace" && !self.dialect.has_trace {
            let what = format!("{} has no `trace`", self.dialect.version);
            self.problems.add(at, what, "remove it, or write OpenAPI 3");
            return None;
        }
        Method::from_bytes(name.to_ascii_uppercase().as_bytes()).ok()
    }

    /// Names of the parameters `in: path`.
    fn path_params(&mut self, at: &str, parameters: &'a [Parameter]) -> Vec<String> {
        let mut names = Vec::new();
        for (index, parameter) in parameters.iter().enumerate() {
            let at = || format!("{at}/parameters/{index}");
            match self.parameter(parameter) {
                Ok((name, "path")) => names.push(name.to_owned()),
                Ok(_) => {}
                Err((what, fix)) => self.problems.add(at(), what, fix),
            }
        }
        names
    }

    /// A parameter's name and place, behind at most one reference.
    fn parameter(&self, parameter: &'a Parameter) -> Result<(&'a str, &'a str), (String, String)> {
        let target = match &parameter.reference {
            None => parameter,
            Some(reference) => {
                let key = local_key(reference, self.dialect.parameters_at)?;
                self.parts.parameters.get(&key).ok_or_else(|| dangling(reference))?
            }
        };
        match (&target.name, &target.location) {
            (Some(name), Some(location)) => Ok((name, location)),
            _ => Err(("a parameter has `name` and `in`".into(), "write both".into())),
        }
    }

    fn path_item(&self, reference: &str) -> Result<&'a PathItem, (String, String)> {
        let (items, at) = if reference.starts_with("#/paths/") || self.dialect.path_items_at.is_empty() {
            (&self.parts.paths, "#/paths/")
        } else {
            (&self.parts.path_items, self.dialect.path_items_at)
        };
        let key = local_key(reference, at)?;
        items.get(&key).ok_or_else(|| dangling(reference))
    }
}

/// The key behind `at` of a reference inside the document.
fn local_key(reference: &str, at: &str) -> Result<String, (String, String)> {
    if !reference.starts_with('#') {
        let what = format!("{} leads out of the document, where nobody goes", quoted(reference));
        return Err((what, format!("put what it names into the document, below {at}")));
    }
    let token = reference.strip_prefix(at).filter(|token| !token.contains('/')).ok_or_else(|| {
        let what = format!("{} is not a reference that can stand here", quoted(reference));
        (what, format!("refer to something below {at}"))
    })?;
    // RFC 6901: a pointer in a URI fragment is percent-encoded, and its tokens are escaped.
    let decoded = crate::pattern::decode(token).ok_or_else(|| dangling(reference))?;
    Ok(decoded.replace("~1", "/").replace("~0", "~"))
}

fn dangling(reference: &str) -> (String, String) {
    (format!("{} leads to nothing", quoted(reference)), "correct it, or write what it names".into())
}
