//! Queries BitBake for images and for recipes with ptests: the text of a recipe does not show what it needs.

use serde::{Deserialize, Serialize};

use super::conflicts::TestedRecipe;

/// Queries BitBake in the current build directory, with `bb` on Python's path; its arguments are those of a script in
/// Python.
pub const SCRIPT: &str = include_str!("query.py");

/// The script's file.
pub const FILE_NAME: &str = "query.py";

/// Before each answer; layer code may print, too.
const ANSWER: &str = "build-agent-answer ";

/// The images and recipes to query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TestQuery {
    pub images: Vec<String>,
    pub recipes: Vec<String>,
}

/// An image of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TestedImage {
    #[serde(rename = "image")]
    pub name: String,
    /// `IMAGE_BASENAME`, by which its results are found.
    #[serde(default)]
    pub basename: String,
    /// The path of its files without their endings: `….manifest`, `….testdata.json`.
    #[serde(default)]
    pub files: String,
    /// `TEST_LOG_DIR`, where the log of the console is.
    #[serde(default)]
    pub logs: Option<String>,
    /// `PKGDATA_DIR`: which package has which files.
    #[serde(default)]
    pub pkgdata: Option<String>,
    /// Whether its own `TEST_SUITES` have OE-Core's suite for ptests.
    #[serde(default)]
    pub ptests: bool,
    /// BitBake's reason why this machine does not build it.
    #[serde(default)]
    pub skipped: Option<String>,
    /// Why BitBake has no answer.
    #[serde(default)]
    pub error: Option<String>,
}

/// A recipe, or why BitBake has no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RecipeAnswer {
    #[serde(flatten)]
    pub recipe: TestedRecipe,
    /// It has ptests, and `DISTRO_FEATURES` does not have `ptest`.
    #[serde(default)]
    pub disabled: bool,
    #[serde(default)]
    pub error: Option<String>,
}

/// The answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub images: Vec<TestedImage>,
    pub recipes: Vec<RecipeAnswer>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Image(TestedImage),
    Recipe(RecipeAnswer),
}

impl Answers {
    /// Reads a line of the script's output. A line that is not an answer is ignored.
    pub fn line(&mut self, line: &str) {
        let Some(json) = line.strip_prefix(ANSWER) else { return };
        match serde_json::from_str(json) {
            Ok(Line::Image(image)) if !self.images.iter().any(|known| known.name == image.name) => {
                self.images.push(image);
            }
            Ok(Line::Recipe(answer)) => {
                let is_new = !self.recipes.iter().any(|known| known.recipe.name == answer.recipe.name);
                self.recipes.extend(is_new.then_some(answer));
            }
            _ => {}
        }
    }

    /// The images and recipes of the query without an answer.
    pub fn missing(&self, query: &TestQuery) -> Vec<String> {
        let images = query.images.iter().filter(|name| !self.images.iter().any(|image| image.name == **name));
        let recipes = query
            .recipes
            .iter()
            .filter(|name| !self.recipes.iter().any(|answer| answer.recipe.name == **name));
        images.chain(recipes).cloned().collect()
    }
}

/// The packages in the text of an image's manifest (`name arch version` each line) that have ptests.
pub fn ptest_packages(manifest: &str) -> Vec<String> {
    let names = manifest.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.ends_with("-ptest")).map(str::to_owned).collect()
}

/// The sections of a package, by the files that it has in the image: `/usr/lib/zlib/ptest/run-ptest` is `zlib`.
/// `pkgdata`: the text of its file in `PKGDATA_DIR/runtime`.
pub fn sections_of_files(pkgdata: &str) -> Vec<String> {
    let info = pkgdata.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        // `FILES_INFO: …` up to hardknott, `FILES_INFO:zlib-ptest: …` since.
        (name == "FILES_INFO" || name.starts_with("FILES_INFO:")).then_some(value)
    });
    let Some(info) = info else { return Vec::new() };
    let files: serde_json::Map<String, serde_json::Value> = serde_json::from_str(info).unwrap_or_default();
    let runs = files.keys().filter_map(|file| file.strip_suffix("/ptest/run-ptest"));
    runs.filter_map(|directory| directory.rsplit('/').next()).map(str::to_owned).collect()
}

/// The sections that a package may have by its name alone: `zlib-ptest` and `lib32-zlib-ptest` run `zlib`.
pub fn sections_of_name(package: &str) -> Vec<String> {
    let name = package.strip_suffix("-ptest").unwrap_or(package);
    let multilib = name.split_once('-').filter(|(first, rest)| {
        let number = first.strip_prefix("lib").filter(|number| !number.is_empty());
        let is_multilib = |number: &str| {
            number.ends_with(|char: char| char.is_ascii_digit())
                && number.chars().all(|char| char.is_ascii_digit() || char == 'x')
        };
        number.is_some_and(is_multilib) && !rest.is_empty()
    });
    [Some(name), multilib.map(|(_, rest)| rest)].into_iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_distinguished_from_output_of_layers() {
        let question = TestQuery {
            images: vec!["img".into(), "other".into()],
            recipes: vec!["zlib".into(), "gone".into(), "silent".into()],
        };
        let mut answers = Answers::default();
        for line in [
            "NOTE: build-agent-answer {}",
            r#"build-agent-answer {"image": "img", "basename": "img", "files": "/d/img", "pkgdata": "/p"}"#,
            r#"build-agent-answer {"image": "img", "files": "/elsewhere"}"#,
            r#"build-agent-answer {"image": "other", "skipped": "incompatible with machine qemuarm (not in COMPATIBLE_MACHINE)"}"#,
            r#"build-agent-answer {"recipe": "zlib", "ptests": ["zlib-ptest"], "path": "/usr/l"#,
            r#"build-agent-answer {"recipe": "zlib", "ptests": ["zlib-ptest"], "packages": [{"name": "zlib", "conflicts": ["zlib-ng"]}], "disabled": false}"#,
            r#"build-agent-answer {"recipe": "gone", "error": "NoProvider: gone"}"#,
            "build-agent-answer [1]",
            "build-agent-answer",
        ] {
            answers.line(line);
        }
        assert_eq!(answers.images.len(), 2);
        assert_eq!(answers.images[0].files, "/d/img", "the first answer counts");
        assert!(answers.images[1].skipped.as_deref().unwrap().contains("COMPATIBLE_MACHINE"));
        assert_eq!(answers.recipes.len(), 2);
        assert!(answers.recipes[0].recipe.packages[0].conflicts.contains("zlib-ng"));
        assert_eq!(answers.recipes[1].error.as_deref(), Some("NoProvider: gone"));
        assert_eq!(answers.missing(&question), ["silent"]);
    }

    #[test]
    fn packages_with_ptests_are_found_in_the_manifest() {
        let text = "zlib core2-64 1.3.1-r0\nzlib-ptest core2-64 1.3.1-r0\n\nptest-runner core2-64 2.4\n";
        assert_eq!(ptest_packages(text), ["zlib-ptest"]);
    }

    #[test]
    fn sections_are_known_by_files_or_by_name() {
        let pkgdata = "PN: python3-foo\nFILES_INFO:python3-foo-ptest: {\"/usr/lib/python3-foo/ptest/run-ptest\": 12, \
            \"/usr/lib/python3-foo/ptest/tests/x.py\": 3, \"/usr/lib/more/ptest/run-ptest\": 1}\n";
        assert_eq!(sections_of_files(pkgdata), ["more", "python3-foo"]);
        assert_eq!(sections_of_files("FILES_INFO: {\"/usr/lib/x/ptest/run-ptest\": 1}"), ["x"]);
        for broken in ["", "FILES_INFO:x: [", "FILES_INFO:x: []", "FILES_INFOX: {}"] {
            assert_eq!(sections_of_files(broken), Vec::<String>::new(), "{broken}");
        }
        for (package, wanted) in [
            ("zlib-ptest", vec!["zlib"]),
            ("lib32-zlib-ptest", vec!["lib32-zlib", "zlib"]),
            ("libx32-zlib-ptest", vec!["libx32-zlib", "zlib"]),
            ("lib-zlib-ptest", vec!["lib-zlib"]),
            ("libxml2-ptest", vec!["libxml2"]),
            ("libx-y-ptest", vec!["libx-y"]),
            ("glib-2.0-ptest", vec!["glib-2.0"]),
        ] {
            assert_eq!(sections_of_name(package), wanted, "{package}");
        }
    }
}
