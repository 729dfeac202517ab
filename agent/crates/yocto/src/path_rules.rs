//! Rules for the paths that BitBake and OE-Core support.
//!
//! A layer's path is in `BBLAYERS` (words end at blanks), `BBPATH` (parts end at `:`) and `BBFILES` (globs).
//! OE-Core checks only `COREBASE` and `TMPDIR`: `sanity.bbclass` (on master `meta/lib/oe/sanity.py`) rejects
//! `+`, `@`, `%` and blanks there, in all releases from dunfell on. The other rules for `TMPDIR` come from the
//! shells, makefiles and lists that contain it.

use std::path::{Path, PathBuf};

use regex::Regex;

use agent_types::error::{Error, Result};

use super::layer_conf::LayerConf;

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// A layer, in `BBLAYERS`.
    Layer,
    /// The directory of OE-Core: `COREBASE`.
    OeCore,
    /// Directories that builds write: `TMPDIR`, `DL_DIR`, `SSTATE_DIR`.
    Build,
}

/// Maximum length of the work directory in bytes. OE-Core allows 400 for `TMPDIR` (410 up to styhead), which
/// is `check/<layer>/tmp` below it.
pub const LONGEST_WORK: usize = 250;

/// Maximum length of `TMPDIR` in bytes, in all releases.
pub const LONGEST_TMPDIR: usize = 400;

/// What is wrong with the path, as the end of a sentence: `has ':', which separates the parts of BBPATH`.
pub fn fault(path: &Path, purpose: PathUse) -> Option<String> {
    let Some(text) = path.to_str() else { return Some("is not valid UTF-8".into()) };
    text.chars().find_map(|c| Some(format!("has {c:?}, which {}", refused(c, purpose)?)))
}

/// Rejects a directory of OE-Core that OE-Core's own checks would reject.
///
/// # Errors
/// Usage, with the character.
pub fn usable_core(directory: &Path) -> Result<()> {
    let Some(fault) = fault(directory, PathUse::OeCore) else { return Ok(()) };
    Err(Error::usage(format!("the path of OE-Core, {:?}, {fault}", directory.display().to_string()))
        .hint("check it out to another directory"))
}

/// Why the character is not supported, or `None` if it is.
fn refused(c: char, purpose: PathUse) -> Option<&'static str> {
    let everywhere = match c {
        ':' => "separates the parts of BBPATH",
        '*' | '?' | '[' => "is a wildcard in BBFILES",
        '"' | '\'' | '$' | '\\' => "has a special meaning in BitBake's configuration",
        _ if c.is_whitespace() => "separates the words of BBLAYERS",
        _ if c.is_control() => "cannot be written into BitBake's configuration",
        _ => "",
    };
    if !everywhere.is_empty() {
        return Some(everywhere);
    }
    match purpose {
        PathUse::Layer => None,
        PathUse::OeCore => "+@%".contains(c).then_some("OE-Core rejects in COREBASE"),
        PathUse::Build if "+@%".contains(c) => Some("OE-Core rejects in TMPDIR"),
        PathUse::Build if c == ',' => Some("separates the fields of BB_DISKMON_DIRS"),
        PathUse::Build if !c.is_ascii() || "~;&#|<>(){}]!`".contains(c) => {
            Some("shells and makefiles of a build interpret")
        }
        PathUse::Build => None,
    }
}

/// The path with its existing part resolved, because BitBake asks the kernel for its directory.
pub fn resolved(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs_err::canonicalize(above), path.strip_prefix(above)) {
            // `join` with an empty path would leave a slash at the end.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

/// The effect of a `BBFILE_PATTERN` that uses its own path as a regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternFault {
    /// BitBake cannot parse the expression and rejects the configuration.
    NoExpression(String),
    /// No recipe matches the pattern, so the recipes belong to no layer and have no priority.
    MatchesNothing(String),
}

/// Checks the patterns of a layer at this path. `${LAYERDIR_RE}` is the escaped path, `${LAYERDIR}` the path
/// itself.
pub fn pattern_fault(layer: &Path, conf: &LayerConf) -> Option<PatternFault> {
    let path = layer.to_str()?;
    conf.collections.iter().find_map(|collection| {
        if !collection.pattern.as_ref()?.text.contains("${LAYERDIR}") {
            return None;
        }
        // The path alone is judged: the rest of the pattern is as good anywhere. Python takes braces that hold no
        // numbers as they are.
        let expression = path.replace('{', r"\{").replace('}', r"\}");
        let variable = format!("BBFILE_PATTERN_{}", collection.name);
        match Regex::new(&format!("^(?:{expression})/")) {
            Err(_) => Some(PatternFault::NoExpression(variable)),
            Ok(expression) if expression.is_match(&format!("{path}/")) => None,
            Ok(_) => Some(PatternFault::MatchesNothing(variable)),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    /// Tested with BitBake of scarthgap: bitbake-layers, inherited classes, files next to recipes.
    #[test]
    fn rejects_characters_by_purpose() {
        let (layer, core, build) = (PathUse::Layer, PathUse::OeCore, PathUse::Build);
        let table: [(&str, &[PathUse]); 19] = [
            ("/src/meta-x_1.0", &[]),
            ("/jobs/a=b/meta", &[]),
            ("/jobs/job@2/meta", &[core, build]),
            ("/src/c++/meta", &[core, build]),
            ("/src/a%20b/meta", &[core, build]),
            ("/home/~user/meta", &[build]),
            ("/src/a,b", &[build]),
            ("/src/a;b&c", &[build]),
            ("/src/(a)|b", &[build]),
            ("/src/{a}#`", &[build]),
            ("/src/ümlaut", &[build]),
            ("/src/a:b", &[layer, core, build]),
            ("/src/a b", &[layer, core, build]),
            ("/src/a\nb", &[layer, core, build]),
            ("/src/a\u{1b}b", &[layer, core, build]),
            ("/src/a\"b", &[layer, core, build]),
            ("/src/${X}", &[layer, core, build]),
            ("/src/a[b]", &[layer, core, build]),
            ("/src/a*b?", &[layer, core, build]),
        ];
        for (path, refusing) in table {
            for purpose in [layer, core, build] {
                let found = fault(Path::new(path), purpose);
                assert_eq!(found.is_some(), refusing.contains(&purpose), "{path:?} {purpose:?}: {found:?}");
            }
        }
        let bytes = Path::new(OsStr::from_bytes(b"/src/\xff"));
        for purpose in [layer, core, build] {
            assert_eq!(fault(bytes, purpose).unwrap(), "is not valid UTF-8");
        }
        assert_eq!(fault(Path::new("/a@b"), build).unwrap(), "has '@', which OE-Core rejects in TMPDIR");
    }

    #[test]
    fn resolves_the_existing_part_of_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        fs_err::create_dir(top.join("job@2")).unwrap();
        std::os::unix::fs::symlink(top.join("job@2"), top.join("plain")).unwrap();
        assert_eq!(resolved(&top.join("plain/a/b")), top.join("job@2/a/b"));
        assert_eq!(resolved(&top.join("plain")).as_os_str(), top.join("job@2").as_os_str());
        assert_eq!(resolved(&top.join("c/d")), top.join("c/d"));
    }

    #[test]
    fn plain_path_in_a_pattern_is_a_regular_expression() {
        let conf = |pattern: &str| {
            LayerConf::parse(&format!("BBFILE_COLLECTIONS += \"x\"\nBBFILE_PATTERN_x = \"{pattern}\"\n"))
        };
        let (plain, safe) = (conf("^${LAYERDIR}/"), conf("^${LAYERDIR_RE}/"));
        let variable = || "BBFILE_PATTERN_x".to_owned();
        for (path, wanted) in [
            ("/src/job@2/meta-1.0", None),
            ("/src/c++/meta", Some(PatternFault::MatchesNothing(variable()))),
            ("/src/a+b/meta", Some(PatternFault::MatchesNothing(variable()))),
            ("/src/(a)/meta", Some(PatternFault::MatchesNothing(variable()))),
            ("/src/{a}/meta", None),
            ("/src/(a/meta", Some(PatternFault::NoExpression(variable()))),
        ] {
            assert_eq!(pattern_fault(Path::new(path), &plain), wanted, "{path}");
            assert_eq!(pattern_fault(Path::new(path), &safe), None, "{path}");
        }
        assert_eq!(pattern_fault(Path::new("/src/a+b"), &LayerConf::default()), None);
    }
}
