//! Matches paths with artifact rules: globs relative to the published directory.
//!
//! `*` and `?` match within a name, `**` matches across directories, and `[a-z]` and `{a,b}` work as in a
//! shell. Wildcards also match names that begin with a dot.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

use agent_types::artifact::ArtifactRule;
use agent_types::error::{Error, Result};

use super::artifact_pattern::artifact_pattern;

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    /// The pattern as written.
    pub include: String,
    pub required: bool,
    matcher: GlobMatcher,
    exclude: GlobSet,
    /// Directories that are excluded with everything below.
    closed: GlobSet,
    /// The directory that contains all possible matches.
    pub base: PathBuf,
    /// Number of components of a match; `None`: any number.
    depth: Option<usize>,
}

impl Rule {
    /// # Errors
    /// Usage, if a pattern is not a glob, is absolute, or leads out of the directory.
    pub fn new(rule: &ArtifactRule) -> Result<Rule> {
        let include = relative(&rule.include)?;
        let mut exclude = GlobSetBuilder::new();
        let mut closed = GlobSetBuilder::new();
        for pattern in &rule.exclude {
            let pattern = relative(pattern)?;
            exclude.add(glob(pattern)?);
            if let Some(directory) = pattern.strip_suffix("/**") {
                closed.add(glob(directory)?);
            }
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|source| bad(&rule.include, &source));
        let fixed: Vec<&str> = include.split('/').take_while(|part| !is_pattern(part)).collect();
        let all = include.split('/').count();
        Ok(Rule {
            include: rule.include.clone(),
            required: rule.required,
            matcher: glob(include)?.compile_matcher(),
            exclude: built(exclude)?,
            closed: built(closed)?,
            // The last part is a file name, even if it is not a pattern.
            base: fixed[..fixed.len().min(all - 1)].iter().collect(),
            // Alternatives in braces may contain slashes.
            depth: (!include.contains("**") && !include.contains('{')).then_some(all),
        })
    }

    pub fn matches(&self, path: &Path) -> bool {
        self.matcher.is_match(path) && !self.excludes(path)
    }

    pub fn excludes(&self, path: &Path) -> bool {
        self.exclude.is_match(path)
    }

    /// Whether the rule can match a file below this directory.
    pub fn enters(&self, directory: &Path) -> bool {
        let below = directory.starts_with(&self.base)
            && self.depth.is_none_or(|depth| directory.components().count() < depth);
        (below || self.base.starts_with(directory)) && !self.closed.is_match(directory)
    }
}

fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

fn glob(pattern: &str) -> Result<globset::Glob> {
    GlobBuilder::new(pattern).literal_separator(true).build().map_err(|source| bad(pattern, &source))
}

fn relative(pattern: &str) -> Result<&str> {
    artifact_pattern(pattern).map_err(|mistake| {
        let error = Error::usage(format!("the artifact rule `{pattern}`: {}", mistake.message));
        match mistake.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

fn bad(pattern: &str, source: &globset::Error) -> Error {
    Error::usage(format!("the artifact rule `{pattern}` is not a glob")).because(source)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(include: &str, exclude: &[&str]) -> Result<Rule> {
        let exclude = exclude.iter().map(|e| (*e).to_owned()).collect();
        Rule::new(&ArtifactRule { include: include.into(), exclude, required: true })
    }

    #[test]
    fn matches_globs() {
        let table: [(&str, &[&str], &str, bool); 17] = [
            ("tmp/deploy/images/**", &[], "tmp/deploy/images/qemu/a.wic", true),
            ("tmp/deploy/images/**", &[], "tmp/deploy/images/.hidden", true),
            ("tmp/deploy/images/**", &[], "tmp/deploy/images2/a", false),
            ("./tmp/*.log", &[], "tmp/a.log", true),
            ("tmp/*.log", &[], "tmp/sub/a.log", false),
            ("**/*.wic", &[], "a.wic", true),
            ("**", &[], "a/b/c", true),
            ("**", &[], "two\nlines/x", true),
            ("d/*", &[], "d/two\nlines", true),
            ("d/a+b:#1.0 (x).bin", &[], "d/a+b:#1.0 (x).bin", true),
            ("d/*.{wic,bmap}", &[], "d/x.bmap", true),
            ("d/[[]x[]]", &[], "d/[x]", true),
            ("D/*", &[], "d/x", false),
            ("d/**", &["**/*.json"], "d/e/x.json", false),
            ("d/**", &["**/*.json"], "d/e/x.jsonl", true),
            ("d/**", &["d/e/**"], "d/e/x", false),
            ("d/**", &["e/**"], "d/e/x", true),
        ];
        for (include, exclude, path, wanted) in table {
            assert_eq!(
                rule(include, exclude).unwrap().matches(Path::new(path)),
                wanted,
                "{include} {path:?}"
            );
        }
    }

    #[test]
    fn matches_names_that_are_not_utf8() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"d/bad\xff"));
        assert!(rule("d/*", &[]).unwrap().matches(path));
        assert!(rule("**", &[]).unwrap().matches(path));
    }

    #[test]
    fn enters_only_directories_with_possible_matches() {
        let table: [(&str, &[&str], &str, bool); 12] = [
            ("tmp/deploy/images/**", &[], "", true),
            ("tmp/deploy/images/**", &[], "tmp", true),
            ("tmp/deploy/images/**", &[], "tmp/work", false),
            ("tmp/deploy/images/**", &[], "tmp/deploy/images/a/b", true),
            ("conf/*.conf", &[], "conf", true),
            ("conf/*.conf", &[], "conf/sub", false),
            ("conf/local.conf", &[], "conf", true),
            ("local.conf", &[], "conf", false),
            ("*/x", &[], "a", true),
            ("*/x", &[], "a/b", false),
            ("**", &["tmp/work/**"], "tmp/work", false),
            ("**", &["tmp/work/**"], "tmp/work-shared", true),
        ];
        for (include, exclude, directory, wanted) in table {
            assert_eq!(
                rule(include, exclude).unwrap().enters(Path::new(directory)),
                wanted,
                "{include} {directory}"
            );
        }
    }

    #[test]
    fn rejects_patterns_that_cannot_match() {
        for (include, exclude) in [
            ("/etc/*", ""),
            ("../x", ""),
            ("a/../../x", ""),
            ("", ""),
            ("./", ""),
            ("a/", ""),
            ("a[", ""),
            ("a", "b{"),
            ("a", "/b"),
            ("a", "b/"),
        ] {
            let exclude: &[&str] = if exclude.is_empty() { &[] } else { &[exclude] };
            assert!(rule(include, exclude).is_err(), "{include} {exclude:?}");
        }
    }
}
