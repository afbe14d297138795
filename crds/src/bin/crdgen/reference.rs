//! The reference of all fields, for users, in Markdown. Never writes files.

use std::fmt::Write as _;

use funcatron_crds::Definition;
use serde_json::Value;

/// The whole document.
pub(crate) fn document(definitions: &[Definition]) -> String {
    let mut text = format!(
        "# The resources, field by field\n\n\
         All kinds belong to `{}/{}`, are namespaced, and show up in `kubectl get {}`.\n\
         Names are DNS labels of at most 40 characters.\n\
         The API server refuses what breaks a limit or a rule below, and says which.\n\
         An empty default means that the field may be absent, as its description says.\n\n\
         <!-- Made by `{}`: change the API types instead. -->\n",
        funcatron_crds::GROUP,
        funcatron_crds::VERSION,
        definitions.iter().map(|d| d.plural).collect::<Vec<_>>().join(","),
        super::COMMAND,
    );
    for definition in definitions {
        text += &kind(definition);
    }
    text
}

fn kind(definition: &Definition) -> String {
    let names = &definition.value["spec"]["names"];
    let short = names["shortNames"][0].as_str().unwrap_or_default();
    let schema = definition.schema();
    let mut text = format!("\n## {}\n\n{}\n", definition.kind, description(schema));
    text += &format!("In kubectl: `{}`, or `{short}`.\n", definition.plural);
    let mut rules = Vec::new();
    for part in ["spec", "status"] {
        let mut rows = Vec::new();
        fields(&schema["properties"][part], part, &mut rows, &mut rules);
        text += "\n| Field | Type | Default | Limits | Description |\n|---|---|---|---|---|\n";
        text += &rows.concat();
    }
    if !rules.is_empty() {
        text += "\nRules:\n\n";
        text += &rules.concat();
    }
    text
}

/// A row for each field below `schema`, in the order of their names, and a line for each rule.
fn fields(schema: &Value, path: &str, rows: &mut Vec<String>, rules: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_default();
        rules.push(format!("- `{path}`: {message}.\n"));
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        rows.push(row(&path, field, required.contains(&name.as_str())));
        fields(field, &path, rows, rules);
    }
    for (key, tail) in [("items", "[]"), ("additionalProperties", ".<key>")] {
        if let Some(inner) = schema.get(key) {
            fields(inner, &format!("{path}{tail}"), rows, rules);
        }
    }
}

fn row(path: &str, field: &Value, required: bool) -> String {
    let text = description(field);
    let default = if required { "required".to_owned() } else { default(text).unwrap_or_default() };
    let cells = [format!("`{path}`"), type_of(field), default, limits(field), text.to_owned()];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|").replace('\n', " ")).join(" | "))
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

fn type_of(field: &Value) -> String {
    match field["type"].as_str() {
        Some("array") => format!("list of {}s", type_of(&field["items"])),
        Some("object") if field.get("additionalProperties").is_some() => {
            format!("map of {}s", type_of(&field["additionalProperties"]))
        }
        Some(word) => word.to_owned(),
        None => "quantity".to_owned(),
    }
}

/// What follows the word `default` in a description, up to the end of its clause.
fn default(description: &str) -> Option<String> {
    let (_, rest) = description.split_once("default ")?;
    let end = rest.find(", ").or_else(|| rest.find(';')).unwrap_or(rest.len());
    let word = rest[..end].trim_end_matches('.').trim_matches('`');
    Some(format!("`{word}`"))
}

fn limits(field: &Value) -> String {
    let mut all = bounds(field);
    let items = &field["items"];
    all.extend(bounds(items).into_iter().map(|bound| format!("each {bound}")));
    all.join("; ")
}

fn bounds(schema: &Value) -> Vec<String> {
    let mut all = Vec::new();
    for (low, high, unit) in [
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
        ("minimum", "maximum", ""),
    ] {
        let word = match (schema[low].as_i64(), schema[high].as_i64()) {
            (Some(low), Some(high)) => format!("{low} to {high}{unit}"),
            (Some(low), None) => format!("at least {low}{unit}"),
            (None, Some(high)) => format!("at most {high}{unit}"),
            (None, None) => continue,
        };
        all.push(word);
    }
    let words: Vec<_> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() {
        all.push(format!("`{}`", words.join("`, `")));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let mut code = String::new();
        let ticks = if pattern.contains('`') { "``" } else { "`" };
        let _ = write!(code, "{ticks}{pattern}{ticks}");
        all.push(code);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_tells_type_default_limits_and_meaning() {
        let field = json!({
            "type": "integer", "minimum": 1, "maximum": 1000,
            "description": "Calls at once; default 1, a|b.",
        });
        assert_eq!(
            row("spec.concurrency", &field, false),
            "| `spec.concurrency` | integer | `1` | 1 to 1000 | Calls at once; default 1, a\\|b. |\n"
        );
        assert!(row("spec.app", &json!({"type": "string"}), true).contains("| string | required |"));
    }

    #[test]
    fn a_default_is_read_from_its_description() {
        assert_eq!(default("Longest; default 30s, 1ms to 1h.").unwrap(), "`30s`");
        assert_eq!(default("The form; default `handler`.").unwrap(), "`handler`");
        assert_eq!(default("Largest; default 6 MiB, at most 15 MiB.").unwrap(), "`6 MiB`");
        assert_eq!(default("None."), None);
    }

    #[test]
    fn every_field_has_its_row_and_every_rule_its_line() {
        let text = document(&funcatron_crds::definitions());
        for field in [
            "| `spec.app` | string | required |",
            "| `spec.timeout` | string | `30s` |",
            "| `spec.rules[].matches[].path.type` | string | `PathPrefix` | `Exact`, `PathPrefix` |",
            "| `spec.operations.<key>.fn` | string |",
            "| `spec.limits.bodyBytes` | integer | `6291456` | 1 to 1099511627776 |",
            "| `status.conditions[].reason` |",
        ] {
            assert!(text.contains(field), "{field}");
        }
        assert!(text.contains("- `spec`: spec: set exactly one of `queue`, `http` and `schedule`.\n"));
    }
}
