//! The CustomResourceDefinitions, as the API server takes them. Never performs I/O.

use std::collections::BTreeMap;

use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{App, Function, Route, Trigger};

/// One kind's definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The kind.
    pub kind: &'static str,
    /// Its plural, which names its files.
    pub plural: &'static str,
    /// The CustomResourceDefinition.
    pub value: Value,
}

impl Definition {
    /// The schema of the one version.
    pub fn schema(&self) -> &Value {
        &self.value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }
}

/// All kinds.
pub fn definitions() -> Vec<Definition> {
    [
        ("App", "apps", App::crd()),
        ("Fn", "fns", Function::crd()),
        ("Route", "routes", Route::crd()),
        ("Trigger", "triggers", Trigger::crd()),
    ]
    .into_iter()
    .map(|(kind, plural, crd)| {
        let mut value = serde_json::to_value(crd).expect("a definition is JSON by its own type");
        tidy(&mut value);
        Definition { kind, plural, value }
    })
    .collect()
}

/// Takes away what the derive adds and we do not mean: `nullable`, by which `field: null` would count as set in the
/// rules (without it, the API server drops the field), and its word in enums; the Rust type's name as `title`; fractions of whole limits.
/// Puts back what it lost: the two types of an amount. Sorts, since a map of serde_json may keep any order.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("nullable");
            if object.get("title").is_some_and(Value::is_string) {
                object.remove("title");
            }
            if object.contains_key("x-kubernetes-int-or-string") {
                object.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
            }
            if let Some(Value::Array(words)) = object.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            let sorted: BTreeMap<_, _> = std::mem::take(object).into_iter().collect();
            object.extend(sorted);
            object.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < WHOLE_MAX) {
                *value = Value::from(whole as i64);
            }
        }
        _ => {}
    }
}

/// Up to here a float holds each whole number.
const WHOLE_MAX: f64 = 9e15;

#[cfg(test)]
#[path = "definitions_tests.rs"]
mod tests;
