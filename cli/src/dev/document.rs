//! YAML with line numbers: turns one file's text into documents whose every field knows its line.
//! Never reads files and knows no kind.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml::Spanned;

/// One YAML document as JSON, and the line of each of its fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) value: Value,
    lines: BTreeMap<String, usize>,
}

impl Document {
    /// The line (from 1) of the field at a JSON pointer, or of its nearest ancestor that stands in the file.
    pub(crate) fn line_of(&self, pointer: &str) -> usize {
        let mut at = pointer;
        loop {
            if let Some(line) = self.lines.get(at) {
                return *line;
            }
            let Some((parent, _)) = at.rsplit_once('/') else { return 1 };
            at = parent;
        }
    }
}

/// Why a text is not YAML.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ParseError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// Splits a text into its documents; empty ones are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    let nodes: Vec<Spanned<Node>> = serde_yaml::from_multiple(text).map_err(|error| ParseError {
        line: error.location().map_or(1, |location| location.line() as usize),
        message: error.without_snippet().to_string(),
    })?;
    Ok(nodes.into_iter().filter(|node| node.value != Node::Scalar(Value::Null)).map(flatten).collect())
}

fn flatten(root: Spanned<Node>) -> Document {
    let mut lines = BTreeMap::new();
    let line = root.referenced.line() as usize;
    let value = collect(root.value, line, &mut String::new(), &mut lines);
    Document { value, lines }
}

/// Moves a node's lines into `lines`, under its JSON pointer, and returns its plain value.
fn collect(node: Node, line: usize, pointer: &mut String, lines: &mut BTreeMap<String, usize>) -> Value {
    lines.insert(pointer.clone(), line);
    let depth = pointer.len();
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                list.push(collect(item.value, item.referenced.line() as usize, pointer, lines));
                pointer.truncate(depth);
            }
            Value::Array(list)
        }
        Node::Map(entries) => {
            let mut map = Map::new();
            for (key, item) in entries {
                pointer.push('/');
                pointer.push_str(&key.value.replace('~', "~0").replace('/', "~1"));
                let value = collect(item, key.referenced.line() as usize, pointer, lines);
                map.insert(key.value, value);
                pointer.truncate(depth);
            }
            Value::Object(map)
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_knows_its_line() {
        let documents =
            parse("kind: App\nspec:\n  env:\n  - name: A\n    value: '1'\n---\nkind: Fn\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            documents[0].value,
            json!({"kind": "App", "spec": {"env": [{"name": "A", "value": "1"}]}})
        );
        assert_eq!(documents[0].line_of("/spec/env/0/value"), 5);
        assert_eq!(documents[1].line_of("/kind"), 7);
    }

    #[test]
    fn a_missing_field_is_placed_at_its_nearest_ancestor() {
        let documents = parse("kind: App\nspec:\n  a: 1\n").unwrap();
        assert_eq!(documents[0].line_of("/spec/app"), 2);
        assert_eq!(documents[0].line_of("/status/x"), 1);
    }

    #[test]
    fn broken_yaml_names_its_line() {
        let error = parse("kind: App\nspec: {a: [1, 2\nb: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
    }

    #[test]
    fn words_that_look_like_other_types_keep_kubernetes_meaning() {
        let documents = parse("a: no\nb: 007\nc: 1e3\nd: ~\ne: \"true\"\n").unwrap();
        // `kubectl` reads YAML 1.1, whose `no` is false.
        assert_eq!(documents[0].value["a"], json!(false));
        assert_eq!(documents[0].value["e"], json!("true"));
        assert_eq!(documents[0].value["d"], json!(null));
    }

    #[test]
    fn empty_documents_are_left_out() {
        assert_eq!(parse("# nothing\n---\n---\nkind: App\n").unwrap().len(), 1);
    }
}
