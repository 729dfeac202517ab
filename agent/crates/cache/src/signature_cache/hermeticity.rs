//! Lines of metadata that reach for files which no key covers: absolute and upward paths in
//! `include`, `SRC_URI`, `EXTERNALSRC`. A text search, deliberately wide: a line that only looks like
//! one costs time, and changes no answer.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// Whether BitBake parses the file. Other `.conf` files (nginx.conf) are payload.
pub fn is_metadata(relative: &Path) -> bool {
    match relative.extension().and_then(OsStr::to_str) {
        Some("bb" | "bbappend" | "bbclass" | "inc") => true,
        Some("conf") => relative.components().any(|part| part.as_os_str() == "conf"),
        _ => false,
    }
}

/// Python that metadata calls, which the key covers as a file.
pub fn is_python(relative: &Path) -> bool {
    relative.extension() == Some(OsStr::new("py"))
}

/// Words by which metadata asks for the commit, the branch or the tags of a repository while it is
/// parsed. Shell functions of recipes say them as well, about other repositories; that costs time.
static GIT: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"metadata_git|layer_revisions|rev-parse|\bgit\s(?:\S+\s+)*?(?:describe|rev-list|log|show|status|branch)\b|['\x22]git['\x22]\s*,|\bimport git\b",
    )
});

/// Whether a line looks as if it did.
pub fn asks_git(content: &[u8]) -> bool {
    whole_lines(content).iter().any(|(_, line)| GIT.is_match(line))
}

/// BitBake knows these words at the beginning of a line only (ConfHandler, BBHandler).
static INCLUDE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"^(?:include|include_all|require|inherit|inherit_defer|addpylib)\s(?:.*[\s"'])?(?:[/~]|\$\{HOME\})"#,
    )
});

/// Variables with places where BitBake looks for files.
static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"^(?:BBFILES|BBFILES_DYNAMIC|BBPATH|FILESEXTRAPATHS|FILESPATH|FILESDIR|LICENSE_PATH|COMMON_LICENSE_DIR)[^A-Za-z0-9].*[\s"':=]/+[\w.$*~]"#,
    )
});

static EXTERNAL: LazyLock<Regex> =
    LazyLock::new(|| regex(r"file:///|^\s*EXTERNALSRC(?:[:_]pn-\S+)?\s*[?:+.]*="));

/// A variable with a directory, and how far upwards it goes from there.
static UPWARDS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\$\{(LAYERDIR|COREBASE|TOPDIR|THISDIR|FILE_DIRNAME)\}/+((?:\.\.(?:/+|\b|$))+)"));

/// Raised with every change of the rules in this file: what they said of a file is cached.
pub const RULES: &str = "rules 4";

/// Text of a shell function of OE-Core (populate_sdk_base.bbclass) that happens to begin a line. As an
/// include it would name files with quotes in their names.
const LINKER_TEXT: &str = "include /etc/ld.so.conf' > ${SDK_OUTPUT}/${SDKPATHNATIVE}${sysconfdir}/ld.so.conf";

/// OE-Core's own way to its top.
const COREBASE: &str = "COREBASE = '${@os.path.normpath(\"${LAYERDIR}/../\")}'";

/// The first such line, in words. `relative` is the file's path in its tree.
pub fn reaches_out(relative: &Path, content: &[u8]) -> Option<String> {
    for (number, line) in whole_lines(content).into_iter().filter(|(_, line)| line != LINKER_TEXT) {
        let found = [&INCLUDE, &PLACES, &EXTERNAL].iter().any(|pattern| pattern.is_match(&line));
        if found || leaves_tree(relative, &line) {
            let line: String = line.trim().chars().take(80).collect();
            return Some(format!("{}:{number}: {line}", relative.display()));
        }
    }
    None
}

/// Lines without comments, each with those that continue it and with the number of the first.
fn whole_lines(content: &[u8]) -> Vec<(usize, String)> {
    let text = String::from_utf8_lossy(content);
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| continues) {
            Some((_, whole)) => *whole += part,
            None => lines.push((index + 1, part.to_owned())),
        }
        continues = goes_on;
    }
    lines.retain(|(_, line)| !line.trim_start().starts_with('#'));
    lines
}

fn leaves_tree(relative: &Path, line: &str) -> bool {
    if line.trim_end() == COREBASE && relative.ends_with("meta/conf/layer.conf") {
        return false;
    }
    let depth = relative.parent().map_or(0, |parent| parent.components().count());
    UPWARDS.captures_iter(line).any(|found| {
        let depth = match &found[1] {
            "THISDIR" | "FILE_DIRNAME" => depth,
            // It has a value in conf/layer.conf only, one above.
            "LAYERDIR" if relative.ends_with("conf/layer.conf") => depth.saturating_sub(1),
            _ => 0,
        };
        found[2].matches("..").count() > depth
    })
}

static ABSOLUTE: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(?:^|[\s"'=,(\[]|:|file:/)(/+[^\s"':;,()\]\\]+)"#));

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// The absolute paths in a configuration text that exist on this machine.
pub fn absolute_paths(content: &[u8]) -> Vec<PathBuf> {
    let lines = whole_lines(content).into_iter().map(|(_, line)| line);
    let paths = lines.flat_map(|line| {
        ABSOLUTE.captures_iter(&line).map(|found| PathBuf::from(&found[1])).collect::<Vec<_>>()
    });
    paths.filter(|path| path.symlink_metadata().is_ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_ask_for_a_commit_are_found() {
        for (line, wanted) in [
            ("X = \"${@oe.buildcfg.get_metadata_git_revision(d)}\"", true),
            ("X := \"${@os.popen('git -C %s describe --tags' % d.getVar('LAYERDIR')).read()}\"", true),
            ("    out = subprocess.check_output([\"git\", \"log\", \"-1\"])", true),
            ("    rev, _ = bb.process.run('git rev-parse HEAD', cwd=path)", true),
            ("import git", true),
            ("# git describe", false),
            ("SRC_URI = \"${@'' if d.getVar('X') else 'git://example.org/x.git;branch=main'}\"", false),
            ("SRC_URI = \"git://example.org/gabime/spdlog;protocol=https\"", false),
            ("        if fetcher.ud[url].type == 'git':", false),
            ("S = \"${WORKDIR}/git\"", false),
        ] {
            assert_eq!(asks_git(line.as_bytes()), wanted, "{line}");
        }
    }

    #[test]
    fn lines_that_reach_out_are_found() {
        let recipe = "meta-x/recipes-y/z/z_1.0.bb";
        let layer = "meta-x/conf/layer.conf";
        let table = [
            (recipe, "require z.inc", false),
            (recipe, "require recipes-core/images/x.bb", false),
            (recipe, "require /elsewhere/z.inc", true),
            (recipe, "include ~/z.inc", true),
            (recipe, "include ${HOME}/z.inc", true),
            (recipe, "inherit ${@'/elsewhere/a.bbclass' if 1 else ''}", true),
            (recipe, "# require /elsewhere/z.inc", false),
            (recipe, "require \\\n  /elsewhere/z.inc", true),
            (recipe, "    echo 'include /etc/ld.so.conf' > x", false),
            (recipe, "    include /etc/ld.so.conf", false),
            (recipe, LINKER_TEXT, false),
            (recipe, "SRC_URI = \" \\\n  file:///elsewhere/z.patch \\\n\"", true),
            (recipe, "inherit ${@bb.utils.contains('DISTRO_FEATURES', 'x', 'y', '', d)}", false),
            (recipe, "SRC_URI = \"file://z.patch\"", false),
            (recipe, "SRC_URI = \"file:///elsewhere/z.patch\"", true),
            (recipe, "EXTERNALSRC = \"/elsewhere/z\"", true),
            (recipe, "EXTERNALSRC:pn-z ?= \"${TOP}\"", true),
            (recipe, "EXTERNALSRC_SYMLINKS ?= \"oe-workdir:${WORKDIR}\"", false),
            (recipe, "FILESEXTRAPATHS:prepend := \"${THISDIR}/../files:\"", false),
            (recipe, "FILESEXTRAPATHS:prepend := \"${THISDIR}/../../../../files:\"", true),
            (recipe, "X = \"${THISDIR}/../../..\"", false),
            (recipe, "X = \"${COREBASE}/../files\"", true),
            (recipe, "X = \"${COREBASE}/meta\"", false),
            (recipe, "X = \"${LAYERDIR}/../files\"", true),
            ("local.conf", "include ${TOPDIR}/../site.conf", true),
            (layer, "BBPATH .= \":${LAYERDIR}/../common\"", false),
            (layer, "BBPATH .= \":/elsewhere/common\"", true),
            (layer, "BBFILES += \"${LAYERDIR}/recipes-*/*/*.bb /elsewhere/recipes/*.bb\"", true),
            (layer, "BBFILES += \"${LAYERDIR}/recipes-*/*/*.bb \\\n  /elsewhere/recipes/*.bb\"", true),
            (layer, "BBFILES_DYNAMIC += \"x:${LAYERDIR}/dynamic/*.bb\"", false),
            (layer, "addpylib /elsewhere/lib oe", true),
            (layer, "addpylib ${LAYERDIR}/lib oe", false),
            (layer, "LICENSE_PATH += \"/elsewhere/licenses\"", true),
            (layer, "BBPATH .= \":${LAYERDIR}/../../common\"", true),
            ("meta/conf/layer.conf", COREBASE, false),
            ("conf/layer.conf", "BBPATH .= \":${LAYERDIR}/../common\"", true),
        ];
        for (path, line, wanted) in table {
            let found = reaches_out(Path::new(path), format!("A = \"1\"\n{line}\n").as_bytes());
            assert_eq!(found.is_some(), wanted, "{path}: {line}: {found:?}");
            if let Some(found) = found {
                assert!(found.starts_with(&format!("{path}:2: ")), "{found}");
            }
        }
    }

    #[test]
    fn payload_is_no_metadata() {
        for (path, wanted) in [
            ("recipes-httpd/nginx/files/nginx.conf", false),
            ("conf/machine/x.conf", true),
            ("recipes/x.bb", true),
            ("x.bbappend", true),
            ("classes/x.bbclass", true),
            ("x.inc", true),
            ("lib/x.py", false),
            ("README", false),
        ] {
            assert_eq!(is_metadata(Path::new(path)), wanted, "{path}");
        }
    }

    #[test]
    fn absolute_paths_are_found_where_they_lead_to_something() {
        for (line, wanted) in [
            ("DL_DIR ?= \"/etc/ssl/x\"", None),
            ("PREMIRRORS = \"git://.*/.* file:///etc/ssl/\"", Some("//etc/ssl/")),
            ("BBMASK = \"/meta/recipes- /meta-poky/recipes-\"", None),
            ("X = \"/etc/passwd\"", Some("/etc/passwd")),
            ("X = \"a:/etc/passwd;b\"", Some("/etc/passwd")),
            ("X = \"${@open('/etc/passwd').read()}\"", Some("/etc/passwd")),
            ("X = \"file:///etc/passwd\"", Some("//etc/passwd")),
            ("require /etc/passwd", Some("/etc/passwd")),
            ("X = \" \\\n /etc/passwd\"", Some("/etc/passwd")),
            ("X = \"/etc/ssl/../passwd\"", Some("/etc/ssl/../passwd")),
            ("# /etc/passwd", None),
            ("X = \"https://example.org/etc/passwd\"", None),
        ] {
            let wanted: Vec<PathBuf> = wanted.map(PathBuf::from).into_iter().collect();
            assert_eq!(absolute_paths(line.as_bytes()), wanted, "{line}");
        }
    }
}
