//! Which answers may be stored for later jobs: those that no code but that of the query's own layers could forge.
//!
//! Layer code runs as the build user while BitBake parses. It can write the build directory, ask the cache server,
//! and leave processes behind. An answer is found by its inputs, and a later job believes it. So code may only have a
//! hand in answers of which it is an input itself: everything whose code can have run since the check began must be
//! among the layers of the query, with the content that it had when the job began. The rest of the inputs must be what
//! the agent gave to yocto-check-layer, and what that tool is known to add.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_process::MARKER;

use super::digest::Digest;
use super::key::{Inputs, readable};
use super::{CacheResult, Invocation, NotCacheable, layers, query_plan};
use agent_fs::read;

/// How `add_layers` in `checklayer/__init__.py` of all releases adds a layer to `conf/bblayers.conf`.
const ADDS: &str = r#"f.write("\nBBLAYERS += \"%s\"\n" % path)"#;

/// The queries of `get_signatures` there, by which the first one is known. All releases have one of them.
const ASKS: [&str; 2] = ["-S lockedsigs world", "-S none world"];

/// Variables that hold the list of variables which BitBake takes from its environment.
const LISTS: [&str; 2] = ["BB_ENV_PASSTHROUGH_ADDITIONS", "BB_ENV_EXTRAWHITE"];

/// No configuration file is larger.
const LONGEST_CONF: u64 = 4 << 20;

/// The configuration as the agent wrote it into the check's build directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenConf {
    pub bblayers: String,
    pub local: String,
}

/// What the agent knows of one run of yocto-check-layer, before any layer code can tell it otherwise.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// The layer under test; as all paths here a real one.
    pub layer: PathBuf,
    pub conf: WrittenConf,
    /// Layers that the tool may add, the one under test among them.
    pub may_add: BTreeSet<PathBuf>,
    /// What the tool gets, with the PATH as it is without the shim.
    pub environment: BTreeMap<OsString, OsString>,
    /// Holds `scripts/`.
    pub oe_core: PathBuf,
    pub machines: Vec<String>,
    /// Layers whose `conf/layer.conf` runs code in the tool itself before its first query, and why.
    pub runs_early: Vec<(PathBuf, String)>,
    /// Why something of an earlier step may still run beside the tool.
    pub not_alone: Option<String>,
    /// The trees of the layers under test by the names of their parts, as they were before any layer code ran in this
    /// job.
    pub trees: BTreeMap<String, Digest>,
}

impl Admission {
    /// Whether an answer of a BitBake that found the directory `at` in the place of the build directory may be stored.
    /// `is_first`: nothing was asked before in this run of the tool.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        is_first: bool,
        at: &Path,
        invocation: &Invocation,
        inputs: &Inputs,
    ) -> CacheResult<()> {
        if let Some(why) = &self.not_alone {
            return Err(NotCacheable(format!("when the check began {why}")));
        }
        self.check_environment(invocation)?;
        let layers = self.check_conf(at, inputs)?;
        if let Some((layer, why)) = self.runs_early.iter().find(|(layer, _)| !layers.contains(layer)) {
            let layer = layer.display();
            return Err(NotCacheable(format!(
                "{layer}/conf/layer.conf runs code before the first query ({why})"
            )));
        }
        let comes_before_layer = is_first && self.knows_tool();
        if !layers.contains(&self.layer) && !comes_before_layer {
            return Err(NotCacheable(
                "the layer under test is not part of the query, and its code may run".into(),
            ));
        }
        self.check_trees(inputs)
    }

    /// Whether the first query is recognised, so that the layer under test is added after it and not before.
    fn knows_tool(&self) -> bool {
        let says = |words: &str| query_plan::tool_says(&self.oe_core, "__init__.py", words);
        says(ADDS) && ASKS.iter().any(|words| says(words))
    }

    fn check_environment(&self, invocation: &Invocation) -> CacheResult<()> {
        for (name, value) in &invocation.environment {
            let is_known = self.environment.get(name) == Some(value) || name == MARKER;
            if !is_known && !self.tool_sets(invocation, name, value) {
                let name = readable(name);
                return Err(NotCacheable(format!("the variable {name} is not as yocto-check-layer sets it")));
            }
        }
        match self.environment.keys().find(|name| !invocation.environment.iter().any(|(set, _)| set == *name))
        {
            Some(name) => Err(NotCacheable(format!("the variable {} is missing", readable(name)))),
            None => Ok(()),
        }
    }

    /// Whether the tool, or the shell between it and BitBake, gives the variable this value.
    fn tool_sets(&self, invocation: &Invocation, name: &OsStr, value: &OsStr) -> bool {
        let (Some(name), Some(text)) = (name.to_str(), value.to_str()) else { return false };
        match name {
            "BB_SIGNATURE_HANDLER" => text == "OEBasicHash",
            "INHERIT" => text == "yocto-check-layer",
            "MACHINE" => self.machines.iter().any(|machine| machine == text),
            "PWD" | "OLDPWD" => invocation.cwd.as_os_str() == value,
            "SHLVL" => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
            "_" => text.ends_with("/bin/bitbake"),
            _ if LISTS.contains(&name) => {
                let given = self.environment.get(OsStr::new(name)).and_then(|given| given.to_str());
                let more = text.strip_prefix(given.unwrap_or_default());
                more.is_some_and(|more| {
                    more.split_whitespace().all(|word| ["BB_SIGNATURE_HANDLER", "INHERIT"].contains(&word))
                })
            }
            _ => false,
        }
    }

    /// The real paths of the query's layers.
    fn check_conf(&self, at: &Path, inputs: &Inputs) -> CacheResult<BTreeSet<PathBuf>> {
        let changed =
            |file: &str| NotCacheable(format!("{file} is not as the agent and yocto-check-layer write it"));
        let text = read::whole(&at.join("conf/bblayers.conf"), LONGEST_CONF)?;
        let text = String::from_utf8(text).map_err(|_| changed("conf/bblayers.conf"))?;
        for (name, digest) in inputs.parts().iter().filter(|(name, _)| name.starts_with("conf/")) {
            let expected = match name.as_str() {
                "conf/bblayers.conf" => Digest::of(text.as_bytes()),
                // The tool's copy, from before it adds anything.
                "conf/bblayers.conf.backup" => Digest::of(self.conf.bblayers.as_bytes()),
                "conf/local.conf" => Digest::of(self.conf.local.as_bytes()),
                _ => return Err(changed(name)),
            };
            if *digest != expected {
                return Err(changed(name));
            }
        }
        let mut rest = text.strip_prefix(&self.conf.bblayers).ok_or_else(|| changed("conf/bblayers.conf"))?;
        while !rest.is_empty() {
            let added = rest.strip_prefix("\nBBLAYERS += \"").and_then(|rest| rest.split_once("\"\n"));
            let (path, next) = added.ok_or_else(|| changed("conf/bblayers.conf"))?;
            if !self.may_add.contains(Path::new(path)) {
                return Err(changed("conf/bblayers.conf"));
            }
            rest = next;
        }
        let real = |layer: PathBuf| Ok(fs_err::canonicalize(layer)?);
        layers::of_bblayers(&text)?.into_iter().map(real).collect()
    }

    /// Code of a layer that may write its own checkout could ask in the name of another version.
    fn check_trees(&self, inputs: &Inputs) -> CacheResult<()> {
        for (name, digest) in inputs.parts() {
            if self.trees.get(name).is_some_and(|before| before != digest) {
                return Err(NotCacheable(format!("{name} changed since the job began")));
            }
        }
        Ok(())
    }
}

/// Whether yocto-check-layer runs code of a layer when it reads this `conf/layer.conf`, and where.
///
/// The tool parses the file in its own process and expands `BBFILE_COLLECTIONS`, `LAYERDEPENDS_…` and the like, but
/// not `BBFILES`. So Python may stand in the value of `BBFILES`, if nothing refers to that. Everything that is not
/// understood counts as code.
pub fn runs_code(layer_conf: &str) -> Option<String> {
    let lines = match logical_lines(layer_conf) {
        Ok(lines) => lines,
        Err(number) => return Some(format!("line {number}")),
    };
    let mut has_python = None;
    let mut is_odd = None;
    for (number, line) in lines {
        let told = format!("line {number}");
        let Some((variable, operator, value)) = assignment(&line) else { return Some(told) };
        let is_files = ["BBFILES", "BBFILES_DYNAMIC"].contains(&variable) && operator != ":=";
        if is_files {
            has_python = has_python.or(value.contains('@').then_some(told));
        } else if value.contains('@') || variable.contains('@') {
            return Some(told);
        } else if !plain_references(value) || !plain_references(variable) {
            is_odd = is_odd.or(Some(told));
        }
    }
    // Without Python anywhere an odd reference leads to no code.
    has_python.and(is_odd)
}

/// Lines without comments and empty ones, each with those that continue it; an error where a comment and a
/// continuation meet, which the releases read in different ways.
fn logical_lines(text: &str) -> Result<Vec<(usize, String)>, usize> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let is_comment = line.trim_start().starts_with('#');
        if is_comment && (continues || line.ends_with('\\')) {
            return Err(index + 1);
        }
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| continues) {
            Some((_, whole)) => *whole += part,
            None if is_comment || line.trim().is_empty() => {}
            None => lines.push((index + 1, part.to_owned())),
        }
        continues = goes_on && !is_comment;
    }
    Ok(lines)
}

/// Variable, operator and value, when the line is an assignment and nothing else.
fn assignment(line: &str) -> Option<(&str, &str, &str)> {
    let line = line.strip_prefix("export ").unwrap_or(line);
    let quote = line.find(['"', '\''])?;
    let (head, value) = line.split_at(quote);
    let mark = value.chars().next()?;
    let value = value.trim_end().strip_prefix(mark)?.strip_suffix(mark)?;
    let operators = ["??=", "?=", ":=", "+=", "=+", ".=", "=.", "="];
    let head = head.trim_end();
    let operator = operators.into_iter().find(|operator| head.ends_with(operator))?;
    let name = head.strip_suffix(operator)?.trim_end();
    // Only what a variable's name may hold (ConfHandler): no other statement looks like that.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_+.${}/:~@[]".contains(c);
    if name.is_empty() || !name.chars().all(is_name) || value.contains(mark) && mark == '\'' {
        return None;
    }
    Some((name, operator, value))
}

/// Whether each `$` begins a reference to a variable other than `BBFILES`, and there is no brace but those.
fn plain_references(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(['$', '{', '}']) {
        let Some(inside) = rest[at..].strip_prefix("${") else { return false };
        let Some((name, next)) = inside.split_once('}') else { return false };
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+.:/".contains(&byte));
        if !is_plain || name.starts_with("BBFILES") {
            return false;
        }
        rest = next;
    }
    true
}

/// Before the path in the name of a tree's part.
const FILES_OF: &str = "files of ";

/// Names that no two paths share.
pub fn part_of_tree(root: &Path) -> String {
    format!("{FILES_OF}{}", root.as_os_str().as_bytes().escape_ascii())
}

/// The other way round; the path is still escaped.
pub fn root_of_part(name: &str) -> Option<&str> {
    name.strip_prefix(FILES_OF)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "admission_tests.rs"]
mod tests;
