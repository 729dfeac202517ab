//! Validates what the manifest requests from BitBake's tools: targets, and commands of bitbake-layers.

use std::path::{Path, PathBuf};

use super::problem::Diagnostic;

type Result<T> = std::result::Result<T, Diagnostic>;

/// The tasks that delete files that other builds use.
const CLEANING: [&str; 3] = ["clean", "cleansstate", "cleanall"];

const WHY_NO_CLEANING: &str = "on a shared cache it deletes files that other running builds use, and these fail; \
     every job starts with an empty build directory anyway, so nothing needs cleaning";

/// Validates a target of BitBake: `core-image-minimal`, `virtual/kernel:do_deploy`, `mc:board:image`.
pub fn target(text: &str) -> Result<()> {
    let task = text.rsplit_once(':').map(|(_, task)| task.strip_prefix("do_").unwrap_or(task));
    let cleans = text.split_whitespace().any(|word| CLEANING[1..].contains(&word.trim_start_matches("-c")));
    if cleans || task.is_some_and(|task| CLEANING.contains(&task)) {
        return Err(Diagnostic::new(format!("`{text}` is a clean task, which the agent never runs"))
            .hint(WHY_NO_CLEANING));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-/:".contains(c);
    if text.is_empty() {
        Err(Diagnostic::new("is empty"))
    } else if text.starts_with('-') {
        Err(Diagnostic::new(format!("`{text}` is an option of bitbake, not a target"))
            .hint("name a recipe or image; write a task as recipe:do_task"))
    } else if text.contains(char::is_whitespace) {
        Err(Diagnostic::new(format!("`{text}` is more than one word"))
            .hint("write one list element for each target, without `bitbake` and without options"))
    } else if !text.chars().all(good) || text.starts_with([':', '/']) || text.ends_with([':', '/']) {
        Err(Diagnostic::new(format!("`{text}` is not a target of BitBake")))
    } else {
        Ok(())
    }
}

/// Validates a task without `do_`.
pub fn task(text: &str) -> Result<String> {
    let text = text.strip_prefix("do_").unwrap_or(text);
    target(&format!("recipe:do_{text}"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not a task"))),
    }
}

/// The targets, each with the task if it names none itself. `build` is BitBake's own default.
pub fn with_task(targets: Vec<String>, task: Option<&str>) -> Vec<String> {
    let Some(task) = task.filter(|task| *task != "build") else { return targets };
    let add = |target: String| if target.contains(":do_") { target } else { format!("{target}:do_{task}") };
    targets.into_iter().map(add).collect()
}

/// The multiconfigs that the targets name: `mc:NAME:TARGET`. `mc::TARGET` is the default configuration.
pub fn multiconfigs(targets: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for target in targets {
        let rest = target.strip_prefix("mc:").or_else(|| target.strip_prefix("multiconfig:"));
        let name =
            rest.and_then(|rest| rest.split(':').next()).filter(|name| !name.is_empty() && *name != "*");
        names.extend(name.filter(|name| !names.iter().any(|known| known == name)).map(str::to_owned));
    }
    names
}

/// The commands of bitbake-layers that change the configuration or write layers.
const CHANGING: [&str; 7] = [
    "add-layer",
    "remove-layer",
    "flatten",
    "layerindex-fetch",
    "create-layer",
    "create-layers-setup",
    "save-build-conf",
];

const LOOKING: [&str; 7] = [
    "show-layers",
    "show-overlayed",
    "show-recipes",
    "show-appends",
    "show-cross-depends",
    "show-machines",
    "layerindex-show-depends",
];

/// Splits a command of bitbake-layers into words, and validates it.
pub fn bitbake_layers(text: &str) -> Result<Vec<String>> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let Some(command) = words.first().map(String::as_str) else {
        return Err(Diagnostic::new("is empty").hint(format!("write one of {}", LOOKING.join(", "))));
    };
    if let Some(quote) = text.chars().find(|c| "\"'`\\".contains(*c)) {
        return Err(Diagnostic::new(format!("`{text}` contains a {quote}"))
            .hint("no shell parses it: words are split only at spaces"));
    }
    let odd = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    if CHANGING.contains(&command) {
        Err(Diagnostic::new(format!(
            "`{command}` changes the build's configuration, but a check must be read-only"
        ))
        .hint(format!(
            "layers come from [repos] and [layer]; the read-only commands are {}",
            LOOKING.join(", ")
        )))
    } else if (command.starts_with("show-") && !command.contains(odd)) || LOOKING.contains(&command) {
        Ok(words)
    } else {
        let mistake = Diagnostic::new(format!("`{command}` is not a read-only command of bitbake-layers"));
        Err(match super::structure::nearest(command, LOOKING.into_iter()) {
            Some(nearest) => mistake.hint(format!("did you mean `{nearest}`?")),
            None => mistake.hint(format!("write one of {}", LOOKING.join(", "))),
        })
    }
}

/// Validates the path of a database, which is written to a configuration file of BitBake.
pub fn database(text: &str) -> Result<PathBuf> {
    let path = super::values::normal(Path::new(text));
    if !path.is_absolute() {
        return Err(Diagnostic::new(format!("`{text}` is not an absolute path")).hint(
            "the database is prepared outside of the checkout: write the path at which this machine has it",
        ));
    }
    match text.chars().find(|c| c.is_control() || c.is_whitespace() || "\"'`$\\".contains(*c)) {
        Some(c) => Err(Diagnostic::new(format!("`{text}` contains {c:?}, which BitBake does not read"))),
        None => Ok(path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::values::tests::accepts;

    #[test]
    fn validates_targets() {
        let good = ["core-image-minimal", "virtual/kernel:do_deploy", "mc:board:image", "world", "gtk+3"];
        let bad = ["", "-c", "a b", "bitbake x", "a;b", "$(x)", ":do_x", "x:", "/x"];
        accepts(target, &good, &bad);
        for text in [
            "x:do_cleansstate",
            "x:cleanall",
            "x:do_clean",
            "-c cleansstate x",
            "-ccleansstate",
            "x -c cleanall",
        ] {
            let mistake = target(text).unwrap_err();
            assert!(mistake.hint.unwrap().contains("other running builds"), "{text}");
        }
    }

    #[test]
    fn a_database_is_outside_of_the_checkout() {
        accepts(
            database,
            &["/efs/cve/nvdcve_2-2.db", "/var/lib/cve"],
            &["", "cve.db", "../x", "/a b", "/a\"b", "/${HOME}/x"],
        );
        assert_eq!(database("/a/../b//c").unwrap(), Path::new("/b/c"));
    }

    #[test]
    fn accepts_only_read_only_layer_commands() {
        assert_eq!(bitbake_layers("show-recipes  -f zlib").unwrap(), ["show-recipes", "-f", "zlib"]);
        accepts(
            bitbake_layers,
            &["show-layers"],
            &["", "-h", "show-recipes 'a b'", "sh", "show_layers", "show-layers;"],
        );
        assert!(bitbake_layers("add-layer ../x").unwrap_err().message.contains("read-only"));
        assert_eq!(bitbake_layers("show_layers").unwrap_err().hint.unwrap(), "did you mean `show-layers`?");
    }
}
