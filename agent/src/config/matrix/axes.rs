//! Reads the axes of a matrix, `exclude` and `include`.

use std::time::Duration;

use super::super::problem::{Diagnostic, Place, Problems};
use super::super::tree::{Node, Value};
use super::super::values;
use super::Setting;
use super::combine::Axis;
use super::overlay::{self, EXCLUDE, INCLUDE, LIMIT, SHORT, name};

/// A matrix as it is written.
#[derive(Debug, Default)]
pub struct Axes {
    pub axes: Vec<Axis>,
    pub exclude: Vec<Vec<Setting>>,
    pub include: Vec<Vec<Setting>>,
    pub limit: Option<Duration>,
}

/// Reads it. Reports invalid parts and skips them.
pub fn read(matrix: &Node, problems: &mut Problems) -> Axes {
    let mut axes = Axes::default();
    if !matches!(matrix.value, Value::Table(_)) {
        let mistake = Diagnostic::new(format!("must be a table, not {}", matrix.kind()));
        problems.add(matrix.place.clone(), Some(super::KEY.into()), mistake);
        return axes;
    }
    let mut reader = Reader { problems };
    for entry in matrix.entries() {
        match entry.key.as_str() {
            EXCLUDE => axes.exclude = reader.tables(EXCLUDE, &entry.node),
            INCLUDE => axes.include = reader.tables(INCLUDE, &entry.node),
            LIMIT => axes.limit = reader.limit(&entry.node),
            key => axes.axes.extend(reader.axis(key, &entry.place, &entry.node)),
        }
    }
    for setting in axes.exclude.iter().flatten() {
        reader.exists(setting, &axes.axes);
    }
    axes
}

struct Reader<'p> {
    problems: &'p mut Problems,
}

impl Reader<'_> {
    fn problem(&mut self, place: &Place, key: &str, mistake: Diagnostic) {
        self.problems.add(place.clone(), Some(name(key)), mistake);
    }

    /// The time limit of all cells.
    fn limit(&mut self, node: &Node) -> Option<Duration> {
        let read = match &node.value {
            Value::String(text) => values::duration(text),
            _ => Err(Diagnostic::new(format!("must be a duration in quotes, not {}", node.kind()))
                .hint("write a number with a unit, such as \"8h\"")),
        };
        read.map_err(|mistake| self.problem(&node.place, LIMIT, mistake)).ok()
    }

    fn axis(&mut self, key: &str, place: &Place, node: &Node) -> Option<Axis> {
        if let Err(mistake) = overlay::path(key) {
            self.problem(place, key, mistake);
            return None;
        }
        let Value::Array(items) = &node.value else {
            let mistake = Diagnostic::new(format!("must be a list of values, not {}", node.kind()));
            let hint = match node.value {
                Value::Table(_) => format!("write a key below it in quotes: \"{key}.KEY\" = [\"VALUE\"]"),
                _ => format!("put it in brackets: [{}]", node.text),
            };
            self.problem(&node.place, key, mistake.hint(hint));
            return None;
        };
        if items.is_empty() {
            self.problem(
                &node.place,
                key,
                Diagnostic::new("is empty").hint("name a value, or remove the axis"),
            );
        }
        let mut values: Vec<Setting> = Vec::new();
        for item in items {
            let Some(setting) = self.setting(key, item) else { continue };
            if values.iter().any(|known| known.is_same(&setting)) {
                let text = super::super::render::inline(item);
                self.problem(&item.place, key, Diagnostic::new(format!("{text} is listed twice")));
                continue;
            }
            values.push(setting);
        }
        Some(Axis { key: key.to_owned(), values: values.into_iter().map(|setting| setting.node).collect() })
    }

    /// A value, if it is of a kind that a key of the manifest can have.
    fn setting(&mut self, key: &str, node: &Node) -> Option<Setting> {
        let is_short = SHORT.iter().any(|(name, ..)| *name == key);
        let fits = match &node.value {
            Value::String(text) => !is_short || !text.is_empty(),
            Value::Integer(_) | Value::Boolean(_) => !is_short || node.place.is_flag(),
            Value::Array(items) => {
                !is_short && items.iter().all(|item| matches!(item.value, Value::String(_)))
            }
            _ => false,
        };
        if !fits {
            let wanted =
                if is_short { "a string" } else { "a string, an integer, true, false or a list of strings" };
            let kind = if node.value == Value::String(String::new()) { "an empty one" } else { node.kind() };
            self.problem(&node.place, key, Diagnostic::new(format!("a value must be {wanted}, not {kind}")));
            return None;
        }
        Some(Setting { key: key.to_owned(), node: node.clone() })
    }

    /// The elements of `exclude` or `include`.
    fn tables(&mut self, list: &str, node: &Node) -> Vec<Vec<Setting>> {
        let Value::Array(items) = &node.value else {
            let mistake = Diagnostic::new(format!("must be a list of tables, not {}", node.kind()));
            self.problem(
                &node.place,
                list,
                mistake.hint(format!("{list} = [{{ machine = \"qemuarm64\" }}]")),
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            if !matches!(item.value, Value::Table(_)) {
                let mistake = Diagnostic::new(format!("an element must be a table, not {}", item.kind()));
                self.problem(&item.place, list, mistake);
                continue;
            }
            if item.entries().is_empty() {
                self.problem(&item.place, list, Diagnostic::new("an element is empty"));
                continue;
            }
            let mut settings = Vec::new();
            for entry in item.entries() {
                match overlay::path(&entry.key) {
                    Ok(_) => settings.extend(self.setting(&entry.key, &entry.node)),
                    Err(mistake) => self.problem(&entry.place, list, mistake),
                }
            }
            tables.push(settings);
        }
        tables
    }

    /// Excluded values must exist: a misspelt one would exclude nothing.
    fn exists(&mut self, setting: &Setting, axes: &[Axis]) {
        let Some(axis) = axes.iter().find(|axis| axis.key == setting.key) else {
            let names: Vec<&str> = axes.iter().map(|axis| axis.key.as_str()).collect();
            let mistake = Diagnostic::new(format!("`{}` is not an axis of this matrix", setting.key));
            let hint = format!("the axes are: {}", names.join(", "));
            return self.problem(&setting.node.place, EXCLUDE, mistake.hint(hint));
        };
        let shown = super::super::render::inline;
        let value = shown(&setting.node);
        if axis.values.iter().any(|node| shown(node) == value) {
            return;
        }
        let values: Vec<String> = axis.values.iter().map(shown).collect();
        let mistake = Diagnostic::new(format!("`{}` has no value {value}", setting.key));
        let nearest = super::super::structure::nearest(&value, values.iter().map(String::as_str));
        let hint = match nearest {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("its values are: {}", values.join(", ")),
        };
        self.problem(&setting.node.place, EXCLUDE, mistake.hint(hint));
    }
}
