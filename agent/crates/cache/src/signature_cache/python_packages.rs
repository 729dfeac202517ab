//! The Python packages that BitBake's interpreter finds, and what it runs when it starts (`sitecustomize.py`,
//! `.pth` files). They count by name, size and time and not by content, as programs on the PATH do.
//!
//! A directory in one of the repositories that are inputs, such as BitBake's own `lib`, counts there by content. A time
//! would make it another one after each clone. Only byte code that layer code could have written counts here.
//!
//! Where Python looks is known from where its program lies (sys.path of the module `site`); starting it to ask
//! would cost more than reading the directories.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::key::{Inputs, readable};
use super::protocol::Encoder;
use super::{CacheResult, Invocation, NotCacheable};
use agent_fs::read;

/// With more files nothing is reused.
const MOST_FILES: usize = 500_000;

/// No `.pth` file of use is larger.
const LONGEST_PTH: u64 = 64 << 10;

/// What holds `python3.11` and the like, below a prefix such as `/usr`. Debian's interpreter also looks below
/// `local`.
const LIBRARIES: [&str; 4] = ["lib", "lib64", "local/lib", "local/lib64"];

/// The directory of byte code beside its sources.
const BYTE_CODE: &str = "__pycache__";

/// What holds packages, below `python3.11`.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// Adds the packages for a BitBake that is started so and runs as this user. The files of `trees` are inputs already.
///
/// # Errors
/// When there are too many, or they cannot be listed.
pub fn add(inputs: &mut Inputs, invocation: &Invocation, user: u32, trees: &[PathBuf]) -> CacheResult<()> {
    let mut list = Listed { directories: BTreeMap::new(), files: 0, user, trees };
    for prefix in prefixes(invocation) {
        for library in LIBRARIES.iter().flat_map(|library| versions(&prefix.join(library))) {
            // The standard library itself comes with the interpreter, which is among the programs. Only what
            // lies at its top may be put there for a machine, as `sitecustomize.py` is.
            list.add(&library, 1)?;
            for packages in PACKAGES.map(|name| library.join(name)) {
                list.add(&packages, usize::MAX)?;
                for more in added_by_pth(&packages) {
                    list.add(&more, usize::MAX)?;
                }
            }
        }
    }
    for directory in variable_paths(invocation, "PYTHONPATH") {
        list.add(&invocation.cwd.join(directory), usize::MAX)?;
    }
    for (directory, list) in list.directories {
        inputs.add(format!("Python packages in {}", readable(directory.as_os_str())), &list);
    }
    Ok(())
}

/// The directories below which `python3` looks for its libraries.
fn prefixes(invocation: &Invocation) -> Vec<PathBuf> {
    let mut prefixes = Vec::new();
    let programs = variable_paths(invocation, "PATH").into_iter().map(|path| path.join("python3"));
    if let Some(program) = programs.into_iter().find(|program| program.is_file()) {
        // A virtual environment's program is a link to the machine's; the first counts as well.
        let real = fs::canonicalize(&program).unwrap_or_else(|_| program.clone());
        prefixes.extend(
            [program, real].iter().filter_map(|program| program.ancestors().nth(2)).map(Path::to_owned),
        );
    }
    prefixes
        .extend(["PYTHONHOME", "PYTHONUSERBASE"].iter().flat_map(|name| variable_paths(invocation, name)));
    // `/bin` is a link to `/usr/bin` on most machines.
    let real = |prefix: &PathBuf| {
        fs::canonicalize(if prefix == Path::new("/") { Path::new("/usr") } else { prefix })
    };
    let mut prefixes: Vec<PathBuf> = prefixes.iter().filter_map(|prefix| real(prefix).ok()).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

fn variable_paths(invocation: &Invocation, name: &str) -> Vec<PathBuf> {
    let value = invocation.variable(name).unwrap_or_default();
    std::env::split_paths(value).filter(|path| !path.as_os_str().is_empty()).collect()
}

/// `python3`, `python3.11` and so on in a directory of libraries.
fn versions(library: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(library).into_iter().flatten().flatten();
    let is_python = |name: &OsStr| name.as_bytes().starts_with(b"python3");
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| is_python(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort_unstable();
    found
}

/// Directories that the `.pth` files of a directory of packages add, such as those of editable packages.
fn added_by_pth(packages: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(packages).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension() == Some(OsStr::new("pth")));
    let mut found = Vec::new();
    for file in files {
        // One that cannot be read is of no use to Python either; its name and time count.
        let Ok(text) = fs::canonicalize(&file).and_then(|file| read::whole(&file, LONGEST_PTH)) else {
            continue;
        };
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let is_path =
            |line: &&[u8]| !line.is_empty() && !line.starts_with(b"#") && !line.starts_with(b"import");
        found.extend(lines.filter(is_path).map(|line| packages.join(OsStr::from_bytes(line))));
    }
    found.retain(|path| path.is_dir());
    found
}

/// Directories of packages, each listed once.
struct Listed<'a> {
    directories: BTreeMap<PathBuf, Vec<u8>>,
    files: usize,
    user: u32,
    trees: &'a [PathBuf],
}

impl Listed<'_> {
    /// Lists a directory; one that is not there is not listed.
    fn add(&mut self, directory: &Path, depth: usize) -> CacheResult<()> {
        let directory = match fs::canonicalize(directory) {
            Ok(directory) => directory,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(NotCacheable(format!("{}: {error}", directory.display()))),
        };
        if self.directories.contains_key(&directory) {
            return Ok(());
        }
        let in_tree = self.trees.iter().any(|tree| directory.starts_with(tree));
        let walk = WalkDir::new(&directory).max_depth(depth).follow_links(true).sort_by_file_name();
        let mut encoder = Encoder::default();
        // Byte code is written when anybody with the right to do so imports a module. Python checks it against the
        // source's time and size; where layer code could write it, it counts as well.
        let user = self.user;
        let is_own =
            |entry: &walkdir::DirEntry| entry.metadata().is_ok_and(|metadata| metadata.uid() == user);
        let counts = |entry: &walkdir::DirEntry| entry.file_name() != OsStr::new(BYTE_CODE) || is_own(entry);
        for entry in walk.into_iter().filter_entry(counts) {
            self.files += 1;
            if self.files > MOST_FILES {
                return Err(NotCacheable(format!("Python finds more than {MOST_FILES} files of packages")));
            }
            match entry {
                Ok(entry) if in_tree && !(is_byte_code(entry.path()) && is_own(&entry)) => {}
                Ok(entry) => {
                    let metadata = entry.metadata().map_err(|error| NotCacheable(error.to_string()))?;
                    if depth == 1 && metadata.is_dir() {
                        continue;
                    }
                    encoder.bytes(relative(entry.path(), &directory));
                    stamp(&mut encoder, &metadata);
                }
                Err(_) if in_tree => {}
                // A link that leads nowhere or in a circle: nobody imports it.
                Err(error) => {
                    let path = error.path().ok_or_else(|| NotCacheable(error.to_string()))?;
                    encoder.bytes(relative(path, &directory)).bytes(link(path).as_bytes());
                }
            }
        }
        self.directories.insert(directory, encoder.finish().to_vec());
        Ok(())
    }
}

/// As [`tree`](super::tree) skips it.
fn is_byte_code(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("pyc")) || path.components().any(|step| step.as_os_str() == BYTE_CODE)
}

fn relative<'a>(path: &'a Path, directory: &Path) -> &'a [u8] {
    path.strip_prefix(directory).unwrap_or(path).as_os_str().as_bytes()
}

/// Of a directory only that it is there: its time changes with the byte code.
fn stamp(encoder: &mut Encoder, metadata: &Metadata) {
    encoder.number(metadata.mode().into());
    if metadata.is_file() {
        encoder.number(metadata.size()).number(metadata.mtime() as u64).number(metadata.mtime_nsec() as u64);
    }
}

fn link(path: &Path) -> OsString {
    fs::read_link(path).unwrap_or_default().into_os_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn what_python_imports_is_an_input() {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        write(&at("usr/bin/python3.11"), "");
        symlink("python3.11", at("usr/bin/python3")).unwrap();
        fs::create_dir_all(at("venv/bin")).unwrap();
        symlink(at("usr/bin/python3"), at("venv/bin/python3")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        write(&at("tree/lib/bb/__init__.py"), "1");
        let own = nix::unistd::geteuid().as_raw();
        let key_as = |user: u32| {
            let path = [at("empty"), at("venv/bin"), at("usr/bin")];
            let environment = vec![
                ("PATH".into(), std::env::join_paths(path).unwrap()),
                ("PYTHONPATH".into(), std::env::join_paths([at("more"), at("tree/lib")]).unwrap()),
            ];
            let invocation =
                Invocation { argv: Vec::new(), cwd: "/".into(), umask: 0o22, joined: true, environment };
            let mut inputs = Inputs::default();
            let tree = at("tree").canonicalize().unwrap();
            add(&mut inputs, &invocation, user, &[tree]).unwrap();
            inputs.key()
        };
        let key = || key_as(own + 1);
        let mut before = key();
        for (path, text, wanted) in [
            ("usr/lib/python3.11/site-packages/a/__init__.py", "1", true),
            ("usr/lib/python3.11/site-packages/a/__init__.py", "22", true),
            ("usr/lib/python3.11/site-packages/a/__pycache__/a.pyc", "1", false),
            ("usr/lib/python3/dist-packages/a.py", "1", true),
            ("usr/lib64/python3.11/site-packages/a.so", "1", true),
            ("usr/local/lib/python3.11/dist-packages/a.py", "1", true),
            ("usr/lib/python3.11/sitecustomize.py", "1", true),
            ("usr/lib/python3.11/usercustomize.py", "1", true),
            ("usr/lib/python3.11/json/decoder.py", "1", false),
            ("usr/lib/python3.11/site-packages/a.pth", "import os", true),
            ("usr/lib/perl5/a.pm", "1", false),
            ("venv/lib/python3.11/site-packages/a.py", "1", true),
            ("elsewhere/a.py", "1", false),
            ("more/a.py", "1", true),
            // The tree is an input by itself, by content.
            ("tree/lib/bb/__init__.py", "22", false),
            ("tree/lib/bb/new.py", "1", false),
            ("tree/lib/bb/__pycache__/new.pyc", "1", false),
            ("tree/lib/bb/new.pyc", "1", false),
        ] {
            write(&at(path), text);
            let after = key();
            assert_eq!(after != before, wanted, "{path} {text}");
            before = after;
        }
        // An editable package.
        let pth = at("venv/lib/python3.11/site-packages/editable.pth");
        write(&pth, &format!("# x\n{}\n../gone\n", at("elsewhere").display()));
        before = key();
        write(&at("elsewhere/b.py"), "1");
        assert_ne!(key(), before);
        before = key();
        symlink("nowhere", at("elsewhere/c.py")).unwrap();
        symlink(".", at("elsewhere/circle")).unwrap();
        assert_ne!(key(), before, "and a link that leads nowhere is no error");
        // The build user's own byte code.
        before = key_as(own);
        write(&at("usr/lib/python3.11/site-packages/a/__pycache__/a.pyc"), "22");
        assert_ne!(key_as(own), before);
        before = key_as(own);
        write(&at("tree/lib/bb/__pycache__/new.pyc"), "22");
        assert_ne!(key_as(own), before);
    }

    #[test]
    fn a_change_is_named() {
        let top = tempfile::tempdir().unwrap();
        let packages = top.path().canonicalize().unwrap().join("lib/python3.11/site-packages");
        write(&top.path().join("bin/python3"), "");
        write(&packages.join("a.py"), "1");
        let environment = vec![("PATH".into(), top.path().join("bin").into_os_string())];
        let invocation =
            Invocation { argv: Vec::new(), cwd: "/".into(), umask: 0o22, joined: true, environment };
        let mut inputs = Inputs::default();
        add(&mut inputs, &invocation, 1, &[]).unwrap();
        let name = format!("Python packages in {}", packages.display());
        assert!(inputs.parts().contains_key(&name), "{:?}", inputs.parts());
    }
}
