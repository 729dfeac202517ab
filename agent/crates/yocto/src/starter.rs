//! The starter script, which starts the unmodified BitBake with additions that live only in its processes
//! (`bitbake_starter.py`).

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::bitbake_events;

/// The script. It is written for every Python that BitBake supports.
const SCRIPT: &str = include_str!("bitbake_starter.py");

const NAME: &str = "bitbake_starter.py";

/// Beside the script, which loads it.
const EVENTS: &str = "bitbake_events.py";

/// Between the starter's options and BitBake's script.
const END_OF_OPTIONS: &str = "--";

/// What the starter adds to BitBake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// Signature files stay empty. BitBake computes and compares all hashes, and creates every file.
    DiscardSignatureFiles,
    /// BitBake tells what it does on the socket that is its standard input
    /// ([`Command::listen_to_events`](agent_process::Command::listen_to_events)).
    Events,
    /// BitBake is not started. The exit status says whether it could be, and the output why not.
    Probe,
}

impl Addition {
    fn option(self) -> &'static str {
        match self {
            Addition::DiscardSignatureFiles => "--discard-signature-files",
            Addition::Events => "--events",
            Addition::Probe => "--probe",
        }
    }
}

/// The starter script on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter(PathBuf);

impl Starter {
    /// Writes the script into the directory, readable for everybody and writable for its owner alone.
    pub fn write(directory: &Path) -> std::io::Result<Starter> {
        for (name, program) in [(NAME, SCRIPT), (EVENTS, bitbake_events::PROGRAM)] {
            let path = directory.join(name);
            fs::write(&path, program)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        }
        Ok(Starter(directory.join(NAME)))
    }

    /// The program and the arguments that start `bitbake` (the path of its script) with these additions, as its
    /// first line does it: with the `python3` that is found on the PATH. BitBake's own arguments come after them.
    pub fn command(&self, bitbake: &Path, additions: &[Addition]) -> (PathBuf, Vec<OsString>) {
        let mut arguments: Vec<OsString> = vec!["python3".into(), self.0.clone().into()];
        arguments.extend(additions.iter().map(|addition| addition.option().into()));
        arguments.extend([END_OF_OPTIONS.into(), bitbake.into()]);
        ("/usr/bin/env".into(), arguments)
    }
}

/// A command line without the starter: what BitBake would have been started with.
pub fn without(arguments: &[OsString]) -> &[OsString] {
    let is_starter = |argument: &OsString| Path::new(argument).file_name().is_some_and(|name| name == NAME);
    if !arguments.get(1).is_some_and(is_starter) {
        return arguments;
    }
    let end = arguments.iter().position(|argument| argument == END_OF_OPTIONS);
    end.map_or(arguments, |end| &arguments[end + 1..])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_command_line_is_read_without_the_starter() {
        for (line, wanted) in [
            (
                "python3 /w/bitbake_starter.py --discard-signature-files -- /b/bin/bitbake -k",
                "/b/bin/bitbake -k",
            ),
            (
                "python3 /w/bitbake_starter.py -- /b/bin/bitbake-server decafbad 5",
                "/b/bin/bitbake-server decafbad 5",
            ),
            (
                "bitbake-server /w/bitbake_starter.py -- /b/bin/bitbake-server -- 5",
                "/b/bin/bitbake-server -- 5",
            ),
            ("python3 /b/bin/bitbake -k -- world", "python3 /b/bin/bitbake -k -- world"),
            ("python3 /w/other.py -- /b/bin/bitbake", "python3 /w/other.py -- /b/bin/bitbake"),
            ("python3 /w/bitbake_starter.py", "python3 /w/bitbake_starter.py"),
            ("python3", "python3"),
        ] {
            assert_eq!(without(&words(line)), words(wanted), "{line}");
        }
    }

    #[test]
    fn the_command_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let starter = Starter::write(directory.path()).unwrap();
        let (program, arguments) =
            starter.command(Path::new("/b/bin/bitbake"), &[Addition::DiscardSignatureFiles]);
        assert_eq!(program, Path::new("/usr/bin/env"));
        assert_eq!(without(&arguments), words("/b/bin/bitbake"));
    }
}
