//! A definition as a Helm template: installed if the values say so, kept when the release goes, and not a character of
//! it read as a template of Helm's. Never writes files.

use serde_json::Value;

/// The template's text.
pub(crate) fn template(definition: &Value) -> Result<String, serde_yaml::ser::Error> {
    let mut kept = definition.clone();
    // With the definition go all objects of its kind: whoever removes the chart keeps theirs.
    kept["metadata"]["annotations"]["helm.sh/resource-policy"] = "keep".into();
    let yaml = escaped(&serde_yaml::to_string(&kept)?);
    let (command, end) = (super::COMMAND, if yaml.ends_with('\n') { "" } else { "\n" });
    Ok(format!(
        "{{{{- /* Made by `{command}`: change the API types instead. */}}}}\n\
         {{{{- if .Values.crds.install }}}}\n{yaml}{end}{{{{- end }}}}\n"
    ))
}

/// Helm reads `{{` and `}}` alone; what is printed by an action is not read again.
fn escaped(yaml: &str) -> String {
    yaml.replace("{{", "{{ \"{{\" }}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The template with every action taken away, the guard's and the escaped ones.
    fn rendered(template: &str) -> String {
        let body: Vec<&str> = template.lines().filter(|line| !line.starts_with("{{-")).collect();
        body.join("\n").replace("{{ \"{{\" }}", "{{")
    }

    #[test]
    fn the_template_gives_the_definition_back() {
        for definition in funcatron_crds::definitions() {
            let text = rendered(&template(&definition.value).unwrap());
            let mut read: Value = serde_yaml::from_str(&text).unwrap();
            assert_eq!(read["metadata"]["annotations"], json!({"helm.sh/resource-policy": "keep"}));
            read["metadata"].as_object_mut().unwrap().remove("annotations");
            assert_eq!(read, definition.value, "{}", definition.kind);
        }
    }

    #[test]
    fn helm_reads_nothing_of_it() {
        let hostile = json!({"metadata": {}, "pattern": "^{{ .Values.secret }}{{{1,2}$"});
        let text = template(&hostile).unwrap();
        assert!(text.contains(r#"{{ "{{" }} .Values.secret }}"#), "{text}");
        let read: Value = serde_yaml::from_str(&rendered(&text)).unwrap();
        assert_eq!(read["pattern"], hostile["pattern"]);
    }

    #[test]
    fn it_is_guarded_and_kept() {
        let text = template(&json!({"metadata": {"name": "x"}})).unwrap();
        assert!(text.contains("\n{{- if .Values.crds.install }}\n"), "{text}");
        assert!(text.ends_with("\n{{- end }}\n"), "{text}");
        assert!(text.contains("helm.sh/resource-policy: keep"), "{text}");
    }
}
