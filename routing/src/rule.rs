//! One rule of a table: what it matches and who answers.
//! Never compares rules with one another: `precedence` does.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pattern::Pattern;
use crate::source::{Backend, CallPolicy, HeaderMatch};

/// A compiled rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub(crate) path: Pattern,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "method_text")]
    pub(crate) method: Option<Method>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) headers: Vec<HeaderRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation_id: Option<String>,
    pub(crate) backends: Backends,
    #[serde(flatten)]
    pub(crate) call: CallPolicy,
}

impl Rule {
    /// The path below the Route's base path.
    pub fn path(&self) -> &Pattern {
        &self.path
    }

    /// The method; none = every one.
    pub fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// Headers that must all be there.
    pub fn headers(&self) -> &[HeaderRule] {
        &self.headers
    }

    /// The document's operationId.
    pub fn operation_id(&self) -> Option<&str> {
        self.operation_id.as_deref()
    }

    /// Who answers, by weight; at least one with a weight above zero.
    pub fn backends(&self) -> &[Backend] {
        &self.backends.0
    }

    /// How its calls are made.
    pub fn call(&self) -> CallPolicy {
        self.call
    }

    /// Whether the rule answers `method`. A `GET` rule answers `HEAD` as well (RFC 9110, 9.1: every
    /// general-purpose server must support both); nothing else is implied, `OPTIONS` least.
    pub fn takes_method(&self, method: &Method) -> bool {
        match &self.method {
            None => true,
            Some(own) => own == method || (*own == Method::GET && *method == Method::HEAD),
        }
    }

    /// Whether all the rule's headers are there.
    pub fn takes_headers(&self, headers: &HeaderMap) -> bool {
        self.headers.iter().all(|own| headers.get_all(&own.name).iter().any(|value| value == own.value))
    }
}

/// Backends of which at least one takes calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Backend>", into = "Vec<Backend>")]
pub(crate) struct Backends(Vec<Backend>);

/// Nobody would answer.
#[derive(Debug, Error)]
#[error("no backend with a weight above zero")]
pub(crate) struct NoBackend;

impl TryFrom<Vec<Backend>> for Backends {
    type Error = NoBackend;

    fn try_from(backends: Vec<Backend>) -> Result<Self, NoBackend> {
        match backends.iter().any(|backend| backend.weight > 0) {
            true => Ok(Self(backends)),
            false => Err(NoBackend),
        }
    }
}

impl From<Backends> for Vec<Backend> {
    fn from(Backends(backends): Backends) -> Self {
        backends
    }
}

impl Backends {
    pub(crate) fn one(fn_name: String) -> Self {
        Self(vec![Backend { fn_name, weight: 1 }])
    }
}

/// A header that must be there; where it comes several times, one equal value is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HeaderMatch", into = "HeaderMatch")]
pub struct HeaderRule {
    name: HeaderName,
    value: HeaderValue,
}

impl HeaderRule {
    /// The header's name, in lower case.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }
}

impl TryFrom<HeaderMatch> for HeaderRule {
    type Error = http::Error;

    fn try_from(HeaderMatch { name, value }: HeaderMatch) -> Result<Self, http::Error> {
        Ok(Self { name: HeaderName::try_from(name)?, value: HeaderValue::try_from(value)? })
    }
}

impl From<HeaderRule> for HeaderMatch {
    fn from(HeaderRule { name, value }: HeaderRule) -> Self {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self { name: name.as_str().to_owned(), value }
    }
}

/// Methods as their names.
mod method_text {
    use http::Method;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        method: &Option<Method>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match method {
            Some(method) => serializer.serialize_str(method.as_str()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Method>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| Method::from_bytes(text.as_bytes()).map_err(D::Error::custom)).transpose()
    }
}
