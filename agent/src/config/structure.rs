//! Finds unknown keys, values of the wrong type and missing keys: walks the tree of a text along the JSON
//! Schema of its type.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::manifest::schema_of;
use super::problem::{Diagnostic, KeyPath, Problems, Step};
use super::tree::{Node, Value};

/// Reads `T` from the tree. Errors are reported and skipped, so that the rest can still be validated. The
/// second value are the probable meanings of misspelt keys.
pub fn read<T>(tree: &Node, problems: &mut Problems) -> (T, Vec<KeyPath>)
where
    T: DeserializeOwned + Default + schemars::JsonSchema,
{
    let schema = schema_of::<T>();
    let mut walk = Walk { root: &schema, tree, problems, meant: Vec::new() };
    let json = walk.value(tree, &schema, &KeyPath::root());
    let meant = walk.meant;
    // The walk accepts only what the types accept; report a disagreement.
    let value = serde_json::from_value(json.unwrap_or_default()).unwrap_or_else(|error| {
        problems.add(tree.place.clone(), None, Diagnostic::new(format!("cannot be parsed: {error}")));
        T::default()
    });
    (value, meant)
}

struct Walk<'a> {
    root: &'a Json,
    tree: &'a Node,
    problems: &'a mut Problems,
    meant: Vec<KeyPath>,
}

impl<'a> Walk<'a> {
    /// The value as JSON; `None`, if it was wrong and is skipped.
    fn value(&mut self, node: &Node, schema: &'a Json, path: &KeyPath) -> Option<Json> {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema["anyOf"].as_array()
            && alternatives.iter().any(|one| kind(self.resolve(one)) == "array")
        {
            // A string or a list.
            let is_list = matches!(node.value, Value::Array(_));
            let fits = |one: &&'a Json| (kind(self.resolve(one)) == "array") == is_list;
            let fitting = alternatives.iter().find(fits).or(alternatives.first());
            return fitting.and_then(|one| self.value(node, one, path));
        }
        if let Some(alternatives) = string_or_table(schema) {
            let is_table = matches!(node.value, Value::Table(_));
            let fits = |one: &&'a Json| (kind(self.resolve(one)) == "object") == is_table;
            return alternatives.iter().find(fits).and_then(|one| self.value(node, one, path));
        }
        match (kind(schema), &node.value) {
            ("object", Value::Table(_)) => Some(self.table(node, schema, path)),
            ("array", Value::Array(items)) => {
                let schema = &schema["items"];
                let walk = |(index, item)| self.value(item, schema, &path.index(index));
                Some(Json::Array(items.iter().enumerate().filter_map(walk).collect()))
            }
            ("boolean", Value::Boolean(boolean)) => Some(Json::Bool(*boolean)),
            (STRING_OR_INTEGER, Value::String(string)) => {
                let word = schema["anyOf"].as_array()?.iter().find(|choice| kind(choice) == "string")?;
                self.choice(string, word, path)
            }
            (STRING_OR_INTEGER, Value::Integer(integer)) => Some(Json::from(*integer)),
            ("integer", Value::Integer(integer)) => self.constant(Json::from(*integer), schema, path),
            ("number", Value::Integer(integer)) => Some(Json::from(*integer)),
            // What is not finite is no number in JSON.
            ("number", Value::Float(float)) if float.is_finite() => Some(Json::from(*float)),
            ("string", Value::String(string)) => self.choice(string, schema, path),
            // `--set repos.bitbake.branch=2.8`: shell users often omit quotes.
            ("string", Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime)
                if node.place.is_flag() =>
            {
                self.choice(&node.text, schema, path)
            }
            _ => self.wrong_type(node, schema, path),
        }
    }

    fn table(&mut self, node: &Node, schema: &'a Json, path: &KeyPath) -> Json {
        let mut object = Map::new();
        for entry in node.entries() {
            let table = path;
            let path = path.key(&entry.key);
            let schema = match schema["properties"].get(&entry.key) {
                Some(property) => property,
                None if schema["additionalProperties"].is_object() => &schema["additionalProperties"],
                None => {
                    let mistake = self.unknown_key(&entry.key, table, schema);
                    self.problems.add(entry.place.clone(), Some(entry.node.called(&path)), mistake);
                    continue;
                }
            };
            if let Some(value) = self.value(&entry.node, schema, &path) {
                object.insert(entry.key.clone(), value);
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            let written = node.entries().iter().any(|entry| entry.key == key);
            if !written && !self.meant.contains(&path.key(key)) {
                let description = schema["properties"][key]["description"].as_str().unwrap_or_default();
                let mistake = Diagnostic::new("is missing").hint(first_sentence(description));
                self.problems.add(node.place.clone(), Some(path.key(key).to_string()), mistake);
            }
        }
        Json::Object(object)
    }

    fn unknown_key(&mut self, key: &str, table: &KeyPath, schema: &Json) -> Diagnostic {
        let known: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(known, _)| known.as_str()).collect();
        let mistake = Diagnostic::new("unknown key");
        if let Some(nearest) = nearest(key, known.iter().copied()) {
            self.meant.push(table.key(nearest));
            return mistake.hint(format!("did you mean `{nearest}`?"));
        }
        match self.table_that_knows(key) {
            Some(table) => mistake.hint(format!("`{key}` belongs to [{table}]")),
            None => mistake.hint(format!("known keys here: {}", known.join(", "))),
        }
    }

    /// The top-level table that has such a key.
    fn table_that_knows(&self, key: &str) -> Option<&'a str> {
        let tables = self.root["properties"].as_object()?;
        let has = |schema: &'a Json| self.resolve(schema)["properties"].get(key).is_some();
        tables.iter().find(|(_, schema)| has(schema)).map(|(table, _)| table.as_str())
    }

    fn constant(&mut self, value: Json, schema: &Json, path: &KeyPath) -> Option<Json> {
        let wanted = &schema["const"];
        if wanted.is_null() || *wanted == value {
            return Some(value);
        }
        let mistake = Diagnostic::new(format!("is {value}, but this agent supports only {wanted}"));
        self.report(path, mistake)
    }

    fn choice(&mut self, text: &str, schema: &Json, path: &KeyPath) -> Option<Json> {
        let choices = choices(schema);
        if choices.is_empty() || choices.contains(&text) {
            return Some(Json::from(text));
        }
        let mut mistake = Diagnostic::new(format!("`{text}` is not one of {}", choices.join(", ")));
        if let Some(nearest) = nearest(text, choices.iter().copied()) {
            mistake = mistake.hint(format!("did you mean `{nearest}`?"));
        }
        self.report(path, mistake)
    }

    fn wrong_type(&mut self, node: &Node, schema: &'a Json, path: &KeyPath) -> Option<Json> {
        let mut mistake = Diagnostic::new(format!("must be {}, not {}", self.name(schema), node.kind()));
        if kind(schema) == "string" && !node.text.is_empty() {
            mistake = mistake.hint(format!("put it in quotes: \"{}\"", node.text));
        } else if kind(schema) == "array"
            && let Value::String(text) = &node.value
            && text.starts_with('[')
        {
            // The shell removed the quotes of a flag.
            mistake =
                mistake.hint("it is not a list in TOML; quote it for the shell: --set 'KEY=[\"a\", \"b\"]'");
        } else if kind(schema) == "array" && !node.text.is_empty() {
            mistake = mistake.hint(format!("put it in brackets: [{}]", node.text));
        } else if let ("object", [Step::Key(table), Step::Key(_)]) = (kind(schema), path.steps())
            && self.resolve(&self.root["properties"][table.as_str()])["additionalProperties"].is_object()
        {
            // For example `url` directly below [repos].
            mistake = mistake.hint(format!("each table here has a name of its own: [{table}.NAME]"));
        }
        self.report(path, mistake)
    }

    fn report(&mut self, path: &KeyPath, mistake: Diagnostic) -> Option<Json> {
        self.problems.add(self.tree.place(path), Some(self.tree.name(path)), mistake);
        None
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }

    /// The name of the schema's type for people.
    fn name(&self, schema: &'a Json) -> Cow<'static, str> {
        match kind(schema) {
            "string" => "a string".into(),
            "boolean" => "true or false".into(),
            "integer" => "an integer".into(),
            STRING_OR_INTEGER => "a string or an integer".into(),
            "number" => "a number".into(),
            "array" => match kind(self.resolve(&schema["items"])) {
                _ if string_or_table(&schema["items"]).is_some() => "a list of strings or tables".into(),
                "object" => "a list of tables".into(),
                kind => format!("a list of {kind}s").into(),
            },
            _ => "a table".into(),
        }
    }
}

/// What a key means; `None`, if there is no such key.
pub fn description(root: &Json, path: &KeyPath) -> Option<String> {
    let resolve = |schema: &Json| {
        let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema).clone()
    };
    let mut schema = root.clone();
    let mut description = schema["description"].clone();
    for step in path.steps() {
        let next = match step {
            Step::Key(key) => {
                let known = schema["properties"].get(key);
                let any = Some(&schema["additionalProperties"]).filter(|any| any.is_object());
                known.or(any)?.clone()
            }
            Step::Index(_) => schema["items"].clone(),
        };
        schema = resolve(&next);
        // That of the key says more than that of its type.
        let nearest = [&next["description"], &schema["description"]].into_iter().find(|one| one.is_string());
        description = nearest.cloned().unwrap_or(description);
    }
    description.as_str().map(str::to_owned)
}

/// The alternatives of a value that may be a string or a table.
fn string_or_table(schema: &Json) -> Option<&Vec<Json>> {
    let alternatives = schema["anyOf"].as_array()?;
    let has = |key: &str, value: &str| alternatives.iter().any(|one| one[key] == value);
    let has_table = alternatives.iter().any(|one| one["$ref"].is_string());
    (has("type", "string") && has_table).then_some(alternatives)
}

/// The type of a value that may be a string or an integer.
const STRING_OR_INTEGER: &str = "word or number";

/// The schema's type. Enums with a description for each choice have none.
fn kind(schema: &Json) -> &str {
    if schema["anyOf"].as_array().is_some_and(|types| types.iter().any(|one| one["type"] == "integer")) {
        return STRING_OR_INTEGER;
    }
    schema["type"].as_str().unwrap_or(if schema["oneOf"].is_array() { "string" } else { "object" })
}

/// The allowed words of a string; empty, if any is allowed.
fn choices(schema: &Json) -> Vec<&str> {
    let plain = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
    let described = schema["oneOf"].as_array().into_iter().flatten().flat_map(|choice| {
        let several = choice["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
        choice["const"].as_str().into_iter().chain(several)
    });
    plain.chain(described).collect()
}

/// The known word that a misspelt one probably means.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(&word.to_lowercase(), known);
    // A third of the letters may be wrong; a more distant word is another one.
    let near = |known: &&str| distance(known) <= word.chars().count().max(known.chars().count()).div_ceil(3);
    known.filter(near).min_by_key(distance)
}

fn first_sentence(text: &str) -> String {
    let end = text.find(['.', ';', ':']).unwrap_or(text.len());
    text[..end].replace('\n', " ")
}
