//! What BitBake did for single recipes, by the lines of its console and by its events.
//!
//! Layer code can print such lines. So the verdict does not depend on them, but on the exit status.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// How many tasks and recipes are kept, and how much of each text.
const KEPT: usize = 20_000;
const TEXT_BYTES: usize = 1000;

/// The tasks that are recorded when BitBake reaches them.
const FOLLOWED: [&str; 2] = ["do_build", "do_fetch"];

static FAILED: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^ERROR: Task (?:\d+ )?\((.+\.bb:do_\w+)\) failed with exit code '?(-?\d+)'?"));
static NO_PROVIDER: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"^ERROR: Nothing R?PROVIDES '([^']+)'(?: \(but (.+) R?DEPENDS on or otherwise requires it\))?")
});
static NO_TASK: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^ERROR: Task (do_\w+) does not exist for target (\S+) \("));

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// A recipe that a build was started for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipe {
    /// `PN`, with the name of its multiconfig in front (`mc:x:zlib`).
    pub name: String,
    /// The end of the path of its file, where it is known.
    pub file: Option<PathBuf>,
}

/// Something that nothing provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoProvider {
    /// A recipe, or a package for `RDEPENDS`.
    pub item: String,
    /// The files of the recipes that need it; none, if it is a target of the build.
    pub needed_by: Vec<String>,
    /// `foo was skipped: incompatible with machine …`
    pub reasons: Vec<String>,
}

impl NoProvider {
    /// For people.
    pub fn describe(&self) -> String {
        match self.reasons.first() {
            Some(reason) => reason.clone(),
            None => format!("nothing provides `{}`", self.item),
        }
    }

    /// Whether recipes exist that provide it, but not with this configuration.
    pub fn is_skipped(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// What one run of BitBake did for recipes.
#[derive(Debug, Default)]
pub struct RecipeLog {
    /// `[mc:NAME:]FILE:TASK` of tasks that ran, or did not need to.
    reached: BTreeSet<String>,
    /// With the exit code.
    failed: BTreeMap<String, i64>,
    /// `[mc:NAME:]FILE` and the recipe's name.
    names: BTreeMap<String, String>,
    no_providers: Vec<NoProvider>,
    /// Targets without the requested task.
    no_such_task: BTreeSet<String>,
    /// The next lines may be reasons of the last [`NoProvider`].
    has_open_provider: bool,
}

impl RecipeLog {
    /// Reads a line of the console.
    pub fn line(&mut self, line: &str) {
        let is_error = line.starts_with("ERROR: ");
        if !is_error && !line.starts_with("NOTE: ") {
            if std::mem::take(&mut self.has_open_provider) && line.contains(" was skipped: ") {
                self.has_open_provider = true;
                let open = self.no_providers.last_mut().filter(|open| open.reasons.len() < 20);
                open.into_iter().for_each(|open| open.reasons.push(cut(line)));
            }
            return;
        }
        self.has_open_provider = false;
        if !is_error {
            running_task(line).into_iter().for_each(|id| self.reached(id));
        } else if let Some(found) = FAILED.captures(line) {
            if self.failed.len() < KEPT {
                self.failed.insert(cut(&found[1]), found[2].parse().unwrap_or(1));
            }
        } else if let Some(found) = NO_PROVIDER.captures(line) {
            let needed_by = found.get(2).map_or("", |files| files.as_str()).split(", ");
            let needed_by = needed_by.filter(|file| !file.is_empty()).map(cut).collect();
            if self.no_providers.len() < KEPT {
                self.no_providers.push(NoProvider { item: cut(&found[1]), needed_by, reasons: Vec::new() });
                self.has_open_provider = true;
            }
        } else if let Some(found) = NO_TASK.captures(line)
            && self.no_such_task.len() < KEPT
        {
            self.no_such_task.insert(cut(&found[2]));
        }
    }

    /// Records the identity of a task that ran, or did not need to.
    pub fn reached(&mut self, id: &str) {
        let is_followed = id.rsplit_once(':').is_some_and(|(_, task)| FOLLOWED.contains(&task));
        if is_followed && self.reached.len() < KEPT {
            self.reached.insert(cut(id));
        }
    }

    /// Records the name of the recipe of a task.
    pub fn named(&mut self, id: &str, recipe: &str) {
        if let Some((file, _)) = id.rsplit_once(':')
            && self.names.len() < KEPT
            && !self.names.contains_key(file)
        {
            self.names.insert(cut(file), cut(recipe));
        }
    }

    /// Whether BitBake ran this task of the recipe, or did not need to.
    pub fn has_reached(&self, recipe: &Recipe, task: &str) -> bool {
        self.reached
            .iter()
            .filter_map(|id| id.rsplit_once(':'))
            .any(|(file, reached)| reached == task && self.is_of(file, recipe))
    }

    /// The failed tasks of the recipe: identity, exit code.
    pub fn failures(&self, recipe: &Recipe) -> Vec<(&str, i64)> {
        let failed = self.failed.iter().map(|(id, exit)| (id.as_str(), *exit));
        failed
            .filter(|(id, _)| id.rsplit_once(':').is_some_and(|(file, _)| self.is_of(file, recipe)))
            .collect()
    }

    /// All failed tasks: identity, exit code.
    pub fn all_failures(&self) -> impl Iterator<Item = (&str, i64)> {
        self.failed.iter().map(|(id, exit)| (id.as_str(), *exit))
    }

    pub fn no_providers(&self) -> &[NoProvider] {
        &self.no_providers
    }

    /// Why the recipe cannot be built, if BitBake printed it.
    pub fn why_unbuildable(&self, recipe: &Recipe) -> Option<&NoProvider> {
        let (_, name) = split_context(&recipe.name);
        let own =
            self.no_providers.iter().find(|missing| missing.item == name && missing.needed_by.is_empty());
        own.or_else(|| {
            let needs = |missing: &&NoProvider| missing.needed_by.iter().any(|file| self.is_of(file, recipe));
            self.no_providers.iter().find(needs)
        })
    }

    /// Whether the recipe does not have the requested task.
    pub fn lacks_task(&self, recipe: &Recipe) -> bool {
        self.no_such_task.contains(split_context(&recipe.name).1)
    }

    /// The name of the recipe of this task, or of its file.
    pub fn name_of(&self, id: &str) -> String {
        let file = id.rsplit_once(':').map_or(id, |(file, _)| file);
        self.names.get(file).cloned().unwrap_or_else(|| stem(split_context(file).1).to_owned())
    }

    /// Whether the file, as BitBake names it, is the recipe's.
    fn is_of(&self, file: &str, recipe: &Recipe) -> bool {
        let (context, path) = split_context(file);
        let (wanted_context, name) = split_context(&recipe.name);
        if context != wanted_context {
            return false;
        }
        if let Some(known) = self.names.get(file) {
            return known == name;
        }
        let (variant, path) = match path.strip_prefix("virtual:").map(|virtual_| virtual_.rsplit_once(':')) {
            Some(Some((variant, path))) => (Some(variant), path),
            _ => (None, path),
        };
        let stem = stem(path);
        if recipe.file.as_ref().is_some_and(|file| !Path::new(path).ends_with(file)) {
            return false;
        }
        let is_known_file = recipe.file.is_some();
        match variant {
            Some("native") => name == format!("{stem}-native") || is_known_file && name.ends_with("-native"),
            Some("nativesdk") => {
                name == format!("nativesdk-{stem}") || is_known_file && name.starts_with("nativesdk-")
            }
            Some(other) => {
                let (kind, value) = other.split_once(':').unwrap_or((other, ""));
                match kind {
                    "multilib" => {
                        name == format!("{value}-{stem}")
                            || is_known_file && name.starts_with(&format!("{value}-"))
                    }
                    _ => {
                        name == format!("{stem}-{value}")
                            || is_known_file && name.ends_with(&format!("-{value}"))
                    }
                }
            }
            // PN may differ from the name of the file, but it is not the name of a variant.
            None => {
                let is_variant = name.starts_with(&format!("{stem}-")) || name.ends_with(&format!("-{stem}"));
                name == stem || is_known_file && !is_variant
            }
        }
    }
}

/// The identity of the task in `NOTE: Running task 3 of 9 (ID)`, also of a `noexec` one. No regular expression, because
/// builds print very many of these lines.
fn running_task(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("NOTE: Running ")?;
    let rest = rest.strip_prefix("noexec ").unwrap_or(rest).strip_prefix("task ")?;
    rest.split_once(" (")?.1.strip_suffix(')')
}

/// `mc:NAME:REST` as NAME and REST.
fn split_context(text: &str) -> (&str, &str) {
    text.strip_prefix("mc:").and_then(|rest| rest.split_once(':')).unwrap_or(("", text))
}

/// `zlib` of `/m/zlib_1.3.bb`
fn stem(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    let file = file.strip_suffix(".bb").unwrap_or(file);
    file.split('_').next().unwrap_or(file)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES)].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log(text: &str) -> RecipeLog {
        let mut log = RecipeLog::default();
        text.lines().for_each(|line| log.line(line));
        log
    }

    fn recipe(name: &str, file: &str) -> Recipe {
        Recipe { name: name.into(), file: (!file.is_empty()).then(|| file.into()) }
    }

    #[test]
    fn tasks_are_those_of_the_recipe_and_of_no_variant() {
        const FILE: &str = "recipes/zlib/zlib_1.3.bb";
        let ids = [
            "/w/recipes/zlib/zlib_1.3.bb",
            "virtual:native:/w/recipes/zlib/zlib_1.3.bb",
            "virtual:nativesdk:/w/recipes/zlib/zlib_1.3.bb",
            "virtual:multilib:lib32:/w/recipes/zlib/zlib_1.3.bb",
            "virtual:mcextend:fast:/w/recipes/zlib/zlib_1.3.bb",
            "mc:musl:/w/recipes/zlib/zlib_1.3.bb",
            "mc:musl:virtual:native:/w/recipes/zlib/zlib_1.3.bb",
        ];
        let names = [
            "zlib",
            "zlib-native",
            "nativesdk-zlib",
            "lib32-zlib",
            "zlib-fast",
            "mc:musl:zlib",
            "mc:musl:zlib-native",
        ];
        for (index, id) in ids.iter().enumerate() {
            for file in [FILE, ""] {
                let log = log(&format!("NOTE: Running noexec task 3 of 3 ({id}:do_build)"));
                let found: Vec<&str> = names
                    .into_iter()
                    .filter(|name| log.has_reached(&recipe(name, file), "do_build"))
                    .collect();
                assert_eq!(found, [names[index]], "{id} {file}");
            }
        }
        // The file counts more than its name, and the name from an event more than both.
        let own = log("NOTE: Running task 1 of 3 (/w/recipes/zlib/zlib_1.3.bb:do_fetch)");
        assert!(own.has_reached(&recipe("libz", FILE), "do_fetch"));
        assert!(!own.has_reached(&recipe("libz", ""), "do_fetch"));
        assert!(!own.has_reached(&recipe("zlib", "other/zlib_1.3.bb"), "do_fetch"));
        assert!(!own.has_reached(&recipe("zlib", FILE), "do_build"));
        let mut named = log("NOTE: Running task 1 of 3 (/w/recipes/zlib/zlib_1.3.bb:do_fetch)");
        named.named("/w/recipes/zlib/zlib_1.3.bb:do_unpack", "zlib-ng");
        assert!(named.has_reached(&recipe("zlib-ng", ""), "do_fetch"));
        assert!(!named.has_reached(&recipe("zlib", FILE), "do_fetch"));
    }

    #[test]
    fn tasks_that_did_not_need_to_run_are_reached() {
        let mut log = RecipeLog::default();
        log.reached("/m/a_1.bb:do_build");
        log.reached("/m/a_1.bb:do_compile");
        assert!(log.has_reached(&recipe("a", ""), "do_build"));
        assert!(!log.has_reached(&recipe("a", ""), "do_compile"), "only what is followed");
    }

    #[test]
    fn failed_tasks_have_their_exit_code() {
        let log = log("ERROR: Task (/m/a_1.bb:do_compile) failed with exit code '137'\n\
            ERROR: Task (virtual:native:/m/a_1.bb:do_fetch) failed with exit code '1'\n\
            ERROR: Task 12 (/m/b.bb:do_x) failed with exit code '-9'\n\
            ERROR: x: Task (/m/c.bb:do_x) failed with exit code '1'\n");
        assert_eq!(log.failures(&recipe("a", "")), [("/m/a_1.bb:do_compile", 137)]);
        assert_eq!(log.failures(&recipe("a-native", "")), [("virtual:native:/m/a_1.bb:do_fetch", 1)]);
        assert_eq!(log.failures(&recipe("b", "")), [("/m/b.bb:do_x", -9)]);
        assert_eq!(log.all_failures().count(), 3);
        assert_eq!(log.name_of("virtual:native:/m/a_1.bb:do_fetch"), "a");
    }

    /// As the console prints `NoProvider` of `lib/bb/event.py`.
    #[test]
    fn missing_providers_are_recorded_with_their_reasons() {
        let log = log("ERROR: Nothing PROVIDES 'a'\n\
            a was skipped: incompatible with machine qemux86-64 (not in COMPATIBLE_MACHINE)\n\
            NOTE: other\n\
            b was skipped: not a reason\n\
            ERROR: Nothing PROVIDES 'gone' (but /m/c_1.bb, virtual:native:/m/d_1.bb DEPENDS on or otherwise requires it)\n\
            ERROR: Nothing RPROVIDES 'e-bin' (but /m/f.bb RDEPENDS on or otherwise requires it)\n\
            e RPROVIDES e-bin but was skipped: missing required distro feature 'x' (not in DISTRO_FEATURES)\n\
            ERROR: Nothing PROVIDES 'typo'. Close matches:\n\
            \x20 typos\n\
            Summary: There were 4 ERROR messages, returning a non-zero exit code.\n");
        let why =
            |name: &str| log.why_unbuildable(&recipe(name, "")).map(|why| (why.describe(), why.is_skipped()));
        let wanted = "a was skipped: incompatible with machine qemux86-64 (not in COMPATIBLE_MACHINE)";
        assert_eq!(why("a"), Some((wanted.into(), true)));
        assert_eq!(why("c"), Some(("nothing provides `gone`".into(), false)));
        assert_eq!(why("d-native"), Some(("nothing provides `gone`".into(), false)));
        assert_eq!(why("d"), None);
        let wanted =
            "e RPROVIDES e-bin but was skipped: missing required distro feature 'x' (not in DISTRO_FEATURES)";
        assert_eq!(why("f"), Some((wanted.into(), true)));
        assert_eq!(why("typo"), Some(("nothing provides `typo`".into(), false)));
        assert_eq!(log.no_providers().len(), 4);
    }

    #[test]
    fn a_recipe_without_the_task_is_recorded() {
        let log = log(
            "ERROR: Task do_fetch does not exist for target packagegroup-x (/m/packagegroup-x.bb:do_fetch). Close matches:\n",
        );
        assert!(log.lacks_task(&recipe("packagegroup-x", "")) && !log.lacks_task(&recipe("x", "")));
        assert!(log.lacks_task(&recipe("mc:a:packagegroup-x", "")));
    }

    #[test]
    fn recorded_data_is_bounded() {
        let mut flooded = RecipeLog::default();
        let long = "x".repeat(2 * TEXT_BYTES);
        for number in 0..KEPT + 10 {
            flooded.line(&format!("NOTE: Running noexec task 1 of 1 (/m/{number}{long}.bb:do_build)"));
            flooded.line(&format!("NOTE: Running noexec task 1 of 1 (/m/{number}.bb:do_build)"));
            flooded.line(&format!("ERROR: Nothing PROVIDES '{number}'"));
            flooded.line(&format!("{number} was skipped: x"));
            flooded.named(&format!("/m/{number}.bb:do_x"), "x");
        }
        assert_eq!(
            (flooded.reached.len(), flooded.no_providers.len(), flooded.names.len()),
            (KEPT, KEPT, KEPT)
        );
        assert!(flooded.reached.iter().all(|id| id.len() <= TEXT_BYTES));
    }
}
