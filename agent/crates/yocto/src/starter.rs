//! The starter script, which starts the unmodified BitBake with additions that live only in its processes
//! (`bitbake_starter.py`).

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use agent_fs::read;

/// The script. It is written for every Python that BitBake supports.
const SCRIPT: &str = include_str!("bitbake_starter.py");

const NAME: &str = "bitbake_starter.py";

/// The part that tells the events. It lies beside the script, which loads it.
const EVENTS: &str = include_str!("bitbake_events.py");

const EVENTS_NAME: &str = "bitbake_events.py";

/// The module that writes the tasks of a query. The script loads it from its own directory.
const TASKS: &str = include_str!("bitbake_tasks.py");

const TASKS_NAME: &str = "bitbake_tasks.py";

/// The module that numbers the tasks. The script loads it from its own directory.
const TASK_ORDER: &str = include_str!("bitbake_task_order.py");

const TASK_ORDER_NAME: &str = "bitbake_task_order.py";

/// The program that rebases parse caches. It is independent of the script, and is started in the same way.
const REBASE: &str = include_str!("rebase_parse_cache.py");

const REBASE_NAME: &str = "rebase_parse_cache.py";

/// The first line of every BitBake that the starter can start.
const FIRST_LINE: &str = "#!/usr/bin/env python3";

/// How `dump_sigtask` writes signature files: as pickles up to release 1.52, as JSON from 2.0 on.
const WRITES: [&str; 2] = ["pickle.dump(", "json.dump("];

/// How BitBake's console begins, and where it lists the events that it wants.
const CONSOLE: [&str; 2] = ["def main(server, eventHandler, params", "_evt_list = "];

/// No file of BitBake is larger.
const LONGEST: u64 = 4 << 20;

/// Between the starter's options and BitBake's script.
const END_OF_OPTIONS: &str = "--";

/// What the starter adds to BitBake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addition {
    /// Signature files stay empty. BitBake computes and compares all hashes, and creates every file.
    DiscardSignatureFiles,
    /// BitBake tells what it does on the socket that is its standard input
    /// ([`Command::listen_to_events`](agent_process::Command::listen_to_events)).
    Events,
    /// The start events of tasks have numbers, and the number of the task for which each waited.
    TaskOrder,
    /// BitBake writes the tasks of a query and their signatures, and nothing else: see
    /// [`signatures`](crate::signatures). The file of the query.
    Tasks(PathBuf),
}

impl Addition {
    fn option(&self) -> OsString {
        match self {
            Addition::DiscardSignatureFiles => "--discard-signature-files".into(),
            Addition::Events => "--events".into(),
            Addition::TaskOrder => "--task-order".into(),
            Addition::Tasks(query) => {
                let mut option = OsString::from("--tasks=");
                option.push(query);
                option
            }
        }
    }
}

/// The starter script on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter(PathBuf);

impl Starter {
    /// Writes the script into the directory, readable for everybody and writable for its owner alone. A BitBake
    /// that reads it meanwhile sees the whole script.
    pub fn write(directory: &Path) -> std::io::Result<Starter> {
        for (name, script) in [
            (EVENTS_NAME, EVENTS),
            (TASK_ORDER_NAME, TASK_ORDER),
            (TASKS_NAME, TASKS),
            (REBASE_NAME, REBASE),
            (NAME, SCRIPT),
        ] {
            let path = directory.join(name);
            let new = path.with_extension("new");
            fs::write(&new, script)?;
            fs::set_permissions(&new, PermissionsExt::from_mode(0o644))?;
            fs::rename(&new, &path)?;
        }
        Ok(Starter(directory.join(NAME)))
    }

    /// The program and the arguments that start `bitbake` (the path of its script) with these additions, as its
    /// first line does it: with the `python3` that is found on the PATH. BitBake's own arguments come after them.
    pub fn command(&self, bitbake: &Path, additions: &[Addition]) -> (PathBuf, Vec<OsString>) {
        let mut arguments: Vec<OsString> = vec!["python3".into(), self.0.clone().into()];
        arguments.extend(additions.iter().map(Addition::option));
        arguments.extend([END_OF_OPTIONS.into(), bitbake.into()]);
        ("/usr/bin/env".into(), arguments)
    }

    /// The program and the arguments that rebase a parse cache with the BitBake in `library`. It reads its standard
    /// input, and creates `target`.
    pub fn rebase_command(&self, library: &Path, target: &Path) -> (PathBuf, Vec<OsString>) {
        let program = self.0.with_file_name(REBASE_NAME);
        let arguments = vec!["python3".into(), program.into(), library.into(), target.into()];
        ("/usr/bin/env".into(), arguments)
    }
}

/// Whether the starter can leave the signature files of this BitBake empty. `bitbake` is the path of its script.
///
/// # Errors
/// Why it cannot.
pub fn can_discard_signature_files(bitbake: &Path) -> Result<(), String> {
    let siggen = top_of(bitbake)?.join("lib/bb/siggen.py");
    let code = text(&siggen)?;
    if !WRITES.iter().any(|words| code.contains(words)) {
        return Err(format!("{} writes signature files in an unknown way", siggen.display()));
    }
    Ok(())
}

/// Whether the starter can let this BitBake tell its events. `bitbake` is the path of its script.
///
/// # Errors
/// Why it cannot.
pub fn can_tell_events(bitbake: &Path) -> Result<(), String> {
    let console = top_of(bitbake)?.join("lib/bb/ui/knotty.py");
    let code = text(&console)?;
    if !CONSOLE.iter().all(|words| code.contains(words)) {
        return Err(format!("{} is not the console that the agent knows", console.display()));
    }
    Ok(())
}

/// The directory of a BitBake that the starter can start, by the path of its script.
fn top_of(bitbake: &Path) -> Result<PathBuf, String> {
    // A link in the place of the script is followed, as the kernel does.
    let script = fs::canonicalize(bitbake).map_err(|error| error.to_string())?;
    if text(&script)?.lines().next().map(str::trim_end) != Some(FIRST_LINE) {
        return Err(format!("the first line of {} is not `{FIRST_LINE}`", bitbake.display()));
    }
    Ok(script.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned())
}

fn text(path: &Path) -> Result<String, String> {
    let bytes = read::whole(path, LONGEST).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    fn only_a_known_bitbake_is_started_by_the_starter() {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        let discards = || can_discard_signature_files(&at("bin/bitbake"));
        assert!(discards().is_err(), "there is none");
        fs::create_dir_all(at("bin")).unwrap();
        fs::create_dir_all(at("lib/bb")).unwrap();
        for (script, siggen, wanted) in [
            ("#!/usr/bin/env python3\n#\n", "    json.dump(data, f, sort_keys=True)\n", true),
            ("#!/usr/bin/env python3\n", "    p = pickle.dump(data, stream, -1)\n", true),
            ("#!/usr/bin/env python3\n", "    f.write(data)\n", false),
            ("#!/usr/bin/python3\n", "json.dump(", false),
            ("#!/usr/bin/env python3 -s\n", "json.dump(", false),
            ("#!/bin/sh\nexec python3 bitbake.py\n", "json.dump(", false),
            ("", "json.dump(", false),
        ] {
            fs::write(at("bin/bitbake"), script).unwrap();
            fs::write(at("lib/bb/siggen.py"), siggen).unwrap();
            assert_eq!(discards().is_ok(), wanted, "{script:?} {siggen:?}");
        }
    }

    /// With a stand-in for BitBake's library; the caches of real ones are rebased in the tests with real BitBake.
    #[test]
    fn a_parse_cache_is_rebased_onto_files_with_the_same_content() {
        let top = tempfile::tempdir().unwrap();
        let library = top.path().join("lib");
        fs::create_dir_all(library.join("bb")).unwrap();
        fs::write(library.join("bb/__init__.py"), "__version__ = '2.8.1'\n").unwrap();
        let cache = "__cache_version__ = '155'\nclass CoreRecipeInfo:\n    pass\n";
        fs::write(library.join("bb/cache.py"), cache).unwrap();
        let starter = Starter::write(top.path()).unwrap();
        let (_, arguments) = starter.rebase_command(&library, Path::new("/x"));
        let mut test = std::process::Command::new("python3");
        test.args(["-B", "-c", include_str!("rebase_test.py")])
            .arg(&library)
            .arg(top.path())
            .arg(&arguments[1]);
        let ran = test.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
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
