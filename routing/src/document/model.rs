//! The parts of a document that routing reads, as all its versions write them.
//! Never keeps schemas, responses or texts: serde skips them unread.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// More operations than a thousand times kube-apiserver's; a table beyond it would not fit a ConfigMap.
pub(super) const OPERATIONS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(super) struct RawDocument {
    pub(super) openapi: Option<Text>,
    pub(super) swagger: Option<Text>,
    pub(super) host: Option<String>,
    #[serde(rename = "basePath")]
    pub(super) base_path: Option<String>,
    pub(super) servers: Option<Vec<Server>>,
    pub(super) paths: Option<Unique<PathItem>>,
    pub(super) components: Option<Components>,
    /// Swagger 2.0's shared parameters.
    pub(super) parameters: Option<Unique<Parameter>>,
    #[serde(rename = "x-funcatron-fn")]
    pub(super) fn_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Components {
    pub(super) parameters: Option<Unique<Parameter>>,
    #[serde(rename = "pathItems")]
    pub(super) path_items: Option<Unique<PathItem>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Server {
    pub(super) url: String,
    pub(super) variables: Option<Unique<ServerVariable>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServerVariable {
    pub(super) default: Option<Text>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Parameter {
    #[serde(rename = "$ref")]
    pub(super) reference: Option<Box<str>>,
    pub(super) name: Option<Box<str>>,
    #[serde(rename = "in")]
    pub(super) location: Option<Box<str>>,
}

#[derive(Debug, Default)]
pub(super) struct PathItem {
    pub(super) reference: Option<String>,
    pub(super) fn_name: Option<String>,
    pub(super) parameters: Vec<Parameter>,
    /// By the method's name in lower case.
    pub(super) operations: BTreeMap<String, RawOperation>,
    /// Members that no version knows, as misspelt methods are.
    pub(super) unknown: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawOperation {
    #[serde(rename = "operationId")]
    pub(super) operation_id: Option<String>,
    pub(super) parameters: Option<Vec<Parameter>>,
    #[serde(rename = "x-funcatron-fn")]
    pub(super) fn_name: Option<String>,
    #[serde(rename = "x-funcatron-direct")]
    pub(super) direct: Option<String>,
}

/// A string, or a number that somebody forgot to quote (`swagger: 2.0`).
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Text, E> {
                // `2.0`, not `2`: Debug keeps the point.
                Ok(Text(format!("{number:?}")))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// An object whose keys must differ (a JSON reader would silently take the last) and which is bounded;
/// `x-` members are skipped.
#[derive(Debug)]
pub(super) struct Unique<T>(pub(super) BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<T>, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if key.starts_with("x-") {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if members.len() == OPERATIONS_MAX {
                return Err(A::Error::custom(format_args!("more than {OPERATIONS_MAX} members")));
            }
            if members.contains_key(&key) {
                let key = crate::error::quoted(&key);
                return Err(A::Error::custom(format_args!("{key} stands here twice")));
            }
            members.insert(key, map.next_value()?);
        }
        Ok(Unique(members))
    }
}

impl<'de> Deserialize<'de> for PathItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // YAML's `/path:` with nothing below it is an empty path item.
        deserializer.deserialize_option(PathItemVisitor)
    }
}

struct PathItemVisitor;

impl<'de> Visitor<'de> for PathItemVisitor {
    type Value = PathItem;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path item (an object)")
    }

    fn visit_none<E: Error>(self) -> Result<PathItem, E> {
        Ok(PathItem::default())
    }

    fn visit_unit<E: Error>(self) -> Result<PathItem, E> {
        Ok(PathItem::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<PathItem, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PathItem, A::Error> {
        let mut item = PathItem::default();
        while let Some(key) = map.next_key::<String>()? {
            item.read_member(key, &mut map)?;
        }
        Ok(item)
    }
}

impl PathItem {
    fn read_member<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "$ref" => self.reference = map.next_value()?,
            "x-funcatron-fn" => self.fn_name = map.next_value()?,
            "parameters" => self.parameters = map.next_value::<Option<_>>()?.unwrap_or_default(),
            "get" | "put" | "post" | "delete" | "options" | "head" | "patch" | "trace" => {
                if self.operations.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("`{key}` stands here twice")));
                }
                let operation = map.next_value::<Option<_>>()?.unwrap_or_default();
                self.operations.insert(key, operation);
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
                let known = matches!(key.as_str(), "summary" | "description" | "servers");
                if !known && !key.starts_with("x-") {
                    self.unknown.push(key);
                }
            }
        }
        Ok(())
    }
}
