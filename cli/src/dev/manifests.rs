//! Reads a folder of manifests: the very files that `kubectl apply -f` takes. Every problem names file, line and
//! field; a broken manifest never hides the others.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use funcatron_crds::{App, Function, Route, Trigger};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{self, Document};
use super::schema::{Schema, SchemaError};

/// Largest manifest file read; the API server takes no larger request.
const FILE_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Most manifest files of one folder: `dev` is for a project, not for a disk.
const FILES_MAX: usize = 1000;
/// The namespace of what names none, as kubectl has it.
const NAMESPACE_DEFAULT: &str = "default";

/// Names an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// What is wrong, and where to mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// The field's path with dots, or empty for the whole file.
    pub(crate) field: String,
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: ", self.file.display(), self.line)?;
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Where an object was read.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) file: PathBuf,
    /// Place among all documents: who comes first owns a claim.
    pub(crate) order: usize,
    document: Document,
}

impl Origin {
    /// A problem at the field with this JSON pointer.
    pub(crate) fn problem(&self, pointer: &str, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.document.line_of(pointer),
            field: dotted(pointer),
            message: message.into(),
        }
    }
}

/// `/spec/env/0/name` as people write it: `spec.env[0].name`.
fn dotted(pointer: &str) -> String {
    let mut field = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            field.push_str(&format!("[{part}]"));
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    field
}

/// An object and its place.
#[derive(Debug, Clone)]
pub(crate) struct Located<T> {
    pub(crate) object: T,
    pub(crate) origin: Origin,
}

/// All that a folder says.
#[derive(Default)]
pub(crate) struct Manifests {
    pub(crate) apps: BTreeMap<Key, Located<App>>,
    pub(crate) fns: BTreeMap<Key, Located<Function>>,
    pub(crate) routes: BTreeMap<Key, Located<Route>>,
    pub(crate) triggers: BTreeMap<Key, Located<Trigger>>,
    pub(crate) config_maps: BTreeMap<Key, Located<ConfigMap>>,
    pub(crate) secrets: BTreeMap<Key, Located<Secret>>,
    pub(crate) problems: Vec<Problem>,
    /// What the folder names and does not say; `last_good` fills it in.
    pub(super) lost: Vec<Lost>,
}

/// A kind that `dev` reads.
pub(super) trait Kind: DeserializeOwned + Clone {
    /// As manifests say it.
    const NAME: &'static str;
    fn all(manifests: &Manifests) -> &BTreeMap<Key, Located<Self>>;
    fn all_mut(manifests: &mut Manifests) -> &mut BTreeMap<Key, Located<Self>>;
}

macro_rules! kinds {
    ($($kind:ty, $name:literal, $field:ident;)*) => {
        $(impl Kind for $kind {
            const NAME: &'static str = $name;

            fn all(manifests: &Manifests) -> &BTreeMap<Key, Located<Self>> {
                &manifests.$field
            }

            fn all_mut(manifests: &mut Manifests) -> &mut BTreeMap<Key, Located<Self>> {
                &mut manifests.$field
            }
        })*
    };
}

kinds! {
    App, "App", apps;
    Function, "Fn", fns;
    Route, "Route", routes;
    Trigger, "Trigger", triggers;
    ConfigMap, "ConfigMap", config_maps;
    Secret, "Secret", secrets;
}

/// Something that stands in the folder and cannot be read as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// One object, known by its kind.
    Object(&'static str, Key),
    /// Nobody can tell which objects of this file.
    File(PathBuf),
}

/// Schemas of our kinds, compiled once.
pub(crate) struct Schemas {
    app: Schema,
    function: Schema,
    route: Schema,
    trigger: Schema,
}

impl Schemas {
    pub(crate) fn compile() -> Result<Self, SchemaError> {
        Ok(Self {
            app: Schema::of(&App::crd())?,
            function: Schema::of(&Function::crd())?,
            route: Schema::of(&Route::crd())?,
            trigger: Schema::of(&Trigger::crd())?,
        })
    }
}

/// Why nothing at all could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot read {0}: {1}")]
    Folder(PathBuf, std::io::Error),
    #[error("{0} holds no manifests (*.yaml, *.yml, *.json); try examples/shop")]
    Empty(PathBuf),
    #[error("{0} holds more than {FILES_MAX} manifest files")]
    TooMany(PathBuf),
}

/// Reads one file, or every manifest file directly in a folder, in the order of their names.
pub(crate) fn read(path: &Path, schemas: &Schemas) -> Result<Manifests, ReadError> {
    let mut manifests = Manifests::default();
    let mut order = 0;
    for file in manifest_files(path)? {
        match read_file(&file) {
            Ok(documents) => {
                for document in documents {
                    let origin = Origin { file: file.clone(), order, document };
                    order += 1;
                    manifests.take(origin, schemas);
                }
            }
            Err(problem) => {
                manifests.problems.push(problem);
                manifests.lost.push(Lost::File(file));
            }
        }
    }
    Ok(manifests)
}

fn manifest_files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let failed = |error| ReadError::Folder(path.to_owned(), error);
    if std::fs::metadata(path).map_err(failed)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let known =
            matches!(file.extension().and_then(|ending| ending.to_str()), Some("yaml" | "yml" | "json"));
        if known && file.is_file() {
            files.push(file);
        }
        if files.len() > FILES_MAX {
            return Err(ReadError::TooMany(path.to_owned()));
        }
    }
    files.sort();
    if files.is_empty() { Err(ReadError::Empty(path.to_owned())) } else { Ok(files) }
}

fn read_file(file: &Path) -> Result<Vec<Document>, Problem> {
    let problem =
        |line, message: String| Problem { file: file.to_owned(), line, field: String::new(), message };
    let size = std::fs::metadata(file).map_err(|error| problem(1, error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(problem(1, format!("{size} bytes are more than a manifest may have ({FILE_BYTES_MAX})")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| problem(1, error.to_string()))?;
    document::parse(&text).map_err(|error| problem(error.line, error.message))
}

impl Manifests {
    fn take(&mut self, origin: Origin, schemas: &Schemas) {
        let value = origin.document.value.clone();
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let ours = version.strip_prefix("funcatron.dev/");
        match (ours, kind.as_str()) {
            (Some("v1alpha1"), "App") => self.keep::<App>(origin, value, Some(&schemas.app)),
            (Some("v1alpha1"), "Fn") => self.keep::<Function>(origin, value, Some(&schemas.function)),
            (Some("v1alpha1"), "Route") => self.keep::<Route>(origin, value, Some(&schemas.route)),
            (Some("v1alpha1"), "Trigger") => self.keep::<Trigger>(origin, value, Some(&schemas.trigger)),
            (Some("v1alpha1"), _) => {
                self.refuse(&origin, "/kind", format!("{kind} is none of App, Fn, Route, Trigger"));
            }
            (Some(_), _) => {
                let message = format!("{version} is not served; write funcatron.dev/v1alpha1");
                self.refuse(&origin, "/apiVersion", message);
            }
            (None, "ConfigMap") => self.keep::<ConfigMap>(origin, value, None),
            (None, "Secret") => self.keep::<Secret>(origin, value, None),
            (None, "") => self.refuse(&origin, "", "a manifest needs apiVersion and kind".to_owned()),
            // What else the folder holds is the cluster's business.
            (None, _) => {}
        }
    }

    fn keep<T: Kind>(&mut self, origin: Origin, value: Value, schema: Option<&Schema>) {
        let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str) else {
            return self.refuse(&origin, "/metadata", "name is missing".to_owned());
        };
        let namespace =
            value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(NAMESPACE_DEFAULT);
        let key = Key::new(namespace, name);
        let findings = schema.map(|schema| schema.check(&value)).unwrap_or_default();
        if !findings.is_empty() {
            self.problems.extend(findings.iter().map(|found| origin.problem(&found.pointer, &found.message)));
            self.lost.push(Lost::Object(T::NAME, key));
            return;
        }
        let object = match serde_json::from_value(value) {
            Ok(object) => object,
            Err(error) => {
                self.problems.push(origin.problem("", error.to_string()));
                self.lost.push(Lost::Object(T::NAME, key));
                return;
            }
        };
        if let Some(Located { origin: earlier, .. }) = T::all(self).get(&key) {
            let (file, line) = (earlier.file.display(), earlier.document.line_of("/metadata/name"));
            let message = format!("{key} stands already in {file}:{line}");
            self.problems.push(origin.problem("/metadata/name", message));
            return;
        }
        T::all_mut(self).insert(key, Located { object, origin });
    }

    /// A document of which nobody can tell which object it is.
    fn refuse(&mut self, origin: &Origin, pointer: &str, message: String) {
        self.problems.push(origin.problem(pointer, message));
        self.lost.push(Lost::File(origin.file.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Manifests {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        read(folder.path(), &Schemas::compile().unwrap()).unwrap()
    }

    const APP: &str = "apiVersion: funcatron.dev/v1alpha1\nkind: App\nmetadata: {name: shop}\nspec: {}\n";

    #[test]
    fn a_broken_manifest_does_not_hide_the_others() {
        let text = format!(
            "{APP}---\napiVersion: funcatron.dev/v1alpha1\nkind: Fn\nmetadata: {{name: a}}\nspec:\n  app: shop\n  image: a/b:1\n  imge: x\n"
        );
        let manifests = read_text(&text);
        assert_eq!(manifests.apps.len(), 1);
        assert!(manifests.fns.is_empty());
        let problem = &manifests.problems[0];
        assert!(problem.to_string().contains("a.yaml:9: spec: "), "{problem}");
        assert!(problem.message.contains("imge"), "{problem}");
    }

    #[test]
    fn the_second_object_of_a_name_is_refused_and_the_first_named() {
        let manifests = read_text(&format!("{APP}---\n{APP}"));
        assert_eq!(manifests.apps.len(), 1);
        assert!(manifests.problems[0].message.contains("a.yaml:3"), "{:?}", manifests.problems);
    }

    #[test]
    fn other_kinds_are_the_clusters_business() {
        let manifests =
            read_text(&format!("{APP}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n"));
        assert_eq!(manifests.problems, vec![]);
    }

    #[test]
    fn an_unknown_kind_of_our_group_is_a_problem() {
        let manifests =
            read_text("apiVersion: funcatron.dev/v1alpha1\nkind: Function\nmetadata: {name: x}\n");
        assert_eq!(manifests.problems[0].field, "kind");
    }

    #[test]
    fn an_empty_folder_says_what_it_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), &Schemas::compile().unwrap()).err().unwrap();
        assert!(error.to_string().contains("*.yaml"), "{error}");
    }

    #[test]
    fn pointers_are_told_as_people_write_them() {
        assert_eq!(dotted("/spec/env/0/name"), "spec.env[0].name");
        assert_eq!(dotted("/spec/operations/a~1b/fn"), "spec.operations.a/b.fn");
    }
}
