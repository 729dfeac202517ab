//! Recognizes errors of BitBake that the machine causes, and no layer.

use agent_types::error::Error;

/// BitBake's messages and their fixes. Sources: `lib/bb/utils.py`, `lib/bb/__init__.py`, `bin/bitbake-worker`
/// of BitBake; `sanity.bbclass` and `base.bbclass` of OE-Core.
const SIGNS: [(&str, &str); 7] = [
    (
        "Please make sure locale 'en_US.UTF-8' is available",
        "install it: localedef -i en_US -f UTF-8 en_US.UTF-8 (Debian's package `locales`)",
    ),
    ("Please use a locale setting which supports UTF-8", "install the locale en_US.UTF-8"),
    ("Do not use Bitbake as root", "name another user with --build-user"),
    // lib/bb/monitordisk.py
    (
        "since the disk space monitor action is",
        "free disk space, or move the work with --work-dir; the lines before it name the file system",
    ),
    ("No space left on device", "free disk space, or move the work with --work-dir"),
    ("User namespaces are not usable by BitBake", "`build-agent doctor` names the host's setting"),
    ("Sorry, python 3.", "use a host or container with a newer Python"),
];

/// The error of the machine that the output shows. If there is one, nothing is concluded about a layer.
pub fn trouble(output: &str) -> Option<Error> {
    let sign = SIGNS.iter().find_map(|(sign, hint)| {
        let line = output.lines().find(|line| line.contains(sign))?;
        Some((line.trim().trim_start_matches("ERROR: "), *hint))
    });
    if let Some(error) = missing_tools(output) {
        return Some(error);
    }
    let (line, hint) = sign.or_else(|| python_trouble(output)).or_else(|| shared_memory(output))?;
    Some(Error::machine(format!("BitBake cannot work on this machine: {line}")).hint(hint))
}

/// Missing programs: OE-Core lists those of `HOSTTOOLS` on the next line (`base.bbclass`), and others on the
/// same line (`sanity.bbclass`).
fn missing_tools(output: &str) -> Option<Error> {
    const HOSTTOOLS: &str = "appear to be unavailable in PATH, please install them in order to proceed:";
    const UTILITIES: &str = "Please install the following missing utilities: ";
    let mut lines = output.lines();
    let names: Vec<&str> = lines.find_map(|line| {
        if let Some((_, names)) = line.split_once(UTILITIES) {
            return Some(names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect());
        }
        let (_, same_line) = line.split_once(HOSTTOOLS)?;
        Some(same_line.split_whitespace().collect())
    })?;
    let names = if names.is_empty() { lines.next()?.split_whitespace().collect() } else { names };
    let names = names.join(", ");
    let message = format!("BitBake cannot work on this machine: these programs are missing: {names}");
    Some(Error::machine(message).hint(format!("install {names}; `build-agent doctor` names the packages")))
}

/// Python's locks need `/dev/shm`.
fn shared_memory(output: &str) -> Option<(&str, &'static str)> {
    output.lines().find(|line| line.contains("_multiprocessing.SemLock("))?;
    let is_cause = |line: &&str| {
        line.starts_with("OSError: [")
            || line.ends_with("Error: [Errno 2] No such file or directory")
            || line.starts_with("PermissionError: [")
            || line.starts_with("FileNotFoundError: [")
    };
    let line = output.lines().rev().find(is_cause)?;
    Some((line, "Python's locks are in /dev/shm: mount a tmpfs there that the build user can write to"))
}

/// BitBake's own modules cannot be imported: its release is too old or too new for this machine's Python. If
/// code of a layer cannot be imported, BitBake prints an `ERROR:` line instead and continues.
fn python_trouble(output: &str) -> Option<(&str, &'static str)> {
    let loads_bitbake = |line: &str| {
        let line = line.trim();
        line.starts_with("import bb") || line.starts_with("from bb")
    };
    output.lines().find(|line| loads_bitbake(line))?;
    let broken = ["ImportError: ", "ModuleNotFoundError: ", "SyntaxError: ", "AttributeError: module "];
    let line = output.lines().find(|line| broken.iter().any(|start| line.starts_with(start)))?;
    Some((line, "use a host or container with a Python that this release supports"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_types::error::Class;

    #[test]
    fn recognizes_errors_of_the_machine() {
        let old_python = "Traceback (most recent call last):\n    import bb.tinfoil\n    import bb.compat\n\
            ImportError: cannot import name 'MutableMapping' from 'collections'\n";
        for (output, wanted) in [
            (old_python, "cannot import name"),
            ("Please make sure locale 'en_US.UTF-8' is available on your system\n", "en_US.UTF-8"),
            ("ERROR:  OE-core's sanity checker\n    Do not use Bitbake as root.\n", "as root"),
            (
                "ERROR: The following required tools (as specified by HOSTTOOLS) appear to be unavailable in PATH, \
                 please install them in order to proceed:\n  chrpath diffstat\n\nSummary: 1 ERROR\n",
                "these programs are missing: chrpath, diffstat",
            ),
            ("    Please install the following missing utilities: chrpath,diffstat\n", "chrpath, diffstat"),
            (
                "    sl = self._semlock = _multiprocessing.SemLock(\nFileNotFoundError: [Errno 2] No such file or directory\n",
                "No such file",
            ),
            (
                "    sl = self._semlock = _multiprocessing.SemLock(\n         ^^^\nOSError: [Errno 30] Read-only file system\n",
                "Read-only file system",
            ),
            (
                "WARNING: The free space of /w/tmp (/dev/sda1) is running low (0.900GB left)\n\
                 ERROR: No new tasks can be executed since the disk space monitor action is \"STOPTASKS\"!\n",
                "No new tasks can be executed",
            ),
            (
                "ERROR: Immediately abort since the disk space monitor action is \"ABORT\"!\n",
                "disk space monitor",
            ),
            ("x\nOSError: [Errno 28] No space left on device: '/w'\n", "No space left"),
        ] {
            let error = trouble(output);
            assert!(
                error.as_ref().is_some_and(|error| {
                    error.class == Class::Machine && error.message.contains(wanted) && error.hint.is_some()
                }),
                "{output}: {error:?}"
            );
        }
    }

    #[test]
    fn ignores_errors_of_layers() {
        for output in [
            "",
            "ERROR: ParseError at /m/x_1.bb:3: unparsed line",
            "ERROR: Error executing a python function: ModuleNotFoundError: No module named 'foo'",
            "ModuleNotFoundError: No module named 'foo'",
        ] {
            assert_eq!(trouble(output), None, "{output}");
        }
    }
}
