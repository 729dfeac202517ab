//! The JSON Schema of the manifest.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::UnvalidatedManifest;

/// The JSON Schema of the manifest, for editors and for `build-agent schema`.
pub fn schema() -> Value {
    let mut schema = schema_of::<UnvalidatedManifest>();
    // An included file may have the required keys, and a matrix the release.
    if let Some(required) = schema.as_object_mut().and_then(|schema| schema.remove("required")) {
        let of_matrix: Vec<Value> = required
            .as_array()
            .into_iter()
            .flatten()
            .map(|key| if key == "release" { json!("matrix") } else { key.clone() })
            .collect();
        schema["anyOf"] =
            json!([{ "required": ["include"] }, { "required": of_matrix }, { "required": required }]);
    }
    schema
}

/// The JSON Schema of one of the files that the agent reads.
pub(in crate::config) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(Tidy));
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// TOML has no null, so an optional key is either valid or absent.
#[derive(Clone, Debug)]
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| *choice != json!({ "type": "null" }));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
        if object.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
            object.remove("default");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn schema_supports_editors() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], "build-agent.toml");
        let required = json!({ "required": ["version", "name", "release", "repos"] });
        assert_eq!(
            schema["anyOf"],
            json!([
                { "required": ["include"] },
                { "required": ["version", "name", "matrix", "repos"] },
                required
            ])
        );
        assert_eq!(schema["additionalProperties"], false);
        let releases = schema["properties"]["release"]["enum"].as_array().unwrap();
        assert!(releases.contains(&json!("scarthgap")) && releases.contains(&json!("master")));
        let text = schema.to_string();
        assert!(!text.contains("null"), "TOML has none: {text}");
        assert!(!text.contains("Unvalidated"), "a name of the code, not of the manifest: {text}");
    }

    #[test]
    fn every_key_has_a_description() {
        fn check(name: &str, schema: &Value) {
            for (key, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].is_string(), "{name} {key} has no description");
            }
        }
        let schema = schema();
        check("manifest", &schema);
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            check(name, definition);
        }
    }

    #[test]
    fn every_key_is_in_the_docs() {
        let page = include_str!("../../../../docs/manifest.md");
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap().values();
        for table in definitions.chain([&schema]) {
            for (key, property) in table["properties"].as_object().into_iter().flatten() {
                let is_table = property["$ref"].is_string() || property["type"] == "object";
                let wanted = if is_table { format!("[{key}") } else { format!("| `{key}` |") };
                // An enum of words is a reference as well, and has a row.
                let row = format!("| `{key}` |");
                assert!(page.contains(&wanted) || page.contains(&row), "docs/manifest.md has no {wanted}");
            }
        }
    }
}
