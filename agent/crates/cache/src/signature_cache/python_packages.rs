//! The packages of the interpreter that runs BitBake: `site-packages`, `dist-packages`, the directories that they
//! name in `.pth` files, those of PYTHONPATH, and the modules that run at each start.
//!
//! Files count by name, mode, size and time and not by content, as the programs on the PATH do (see `host`).
//! Byte code counts, because Python does not always check it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::key::{Inputs, readable};
use super::protocol::Encoder;
use super::{CacheResult, NotCacheable};
use agent_fs::read;

/// Interpreters of distributions also load packages from here.
const LOCAL: (&str, &str) = ("/usr", "/usr/local");

/// Modules that Python runs at each start, beside those in its packages.
const AT_START: [&str; 2] = ["sitecustomize.py", "usercustomize.py"];

/// With more nothing is reused.
const MAX_FILES: usize = 200_000;
const MAX_PTH_BYTES: u64 = 1 << 20;

/// Adds the packages. `path` and `python_path` are BitBake's PATH and PYTHONPATH; directories that lie in one of
/// the `known` ones are left out.
///
/// # Errors
/// When there are too many files, or they cannot be read.
pub fn add(
    inputs: &mut Inputs,
    path: &OsStr,
    python_path: Option<&OsStr>,
    known: &[PathBuf],
) -> CacheResult<()> {
    let mut directories: Vec<PathBuf> =
        python_path.map(std::env::split_paths).into_iter().flatten().collect();
    let mut started = BTreeMap::new();
    for library in libraries(&prefixes(path)) {
        directories.extend(["site-packages", "dist-packages"].map(|name| library.join(name)));
        for module in AT_START.map(|name| library.join(name)) {
            started.extend(described(&module)?.map(|found| (module, found)));
        }
    }
    if !started.is_empty() {
        add_files(inputs, "Python modules that run at each start".into(), &started);
    }
    let (mut seen, mut left) = (BTreeSet::new(), MAX_FILES);
    let mut open: Vec<(PathBuf, bool)> = directories.into_iter().map(|directory| (directory, true)).collect();
    while let Some((directory, reads_pth)) = open.pop() {
        // `/lib` is often a link to `/usr/lib`. An entry of PYTHONPATH may be an archive.
        let Ok(real) = directory.canonicalize() else { continue };
        if known.iter().any(|known| real.starts_with(known)) || !seen.insert(real.clone()) {
            continue;
        }
        let files = files_of(&real, left)?;
        left = left.saturating_sub(files.len());
        add_files(inputs, format!("Python packages in {}", readable(real.as_os_str())), &files);
        if reads_pth {
            open.extend(named_by_pth(&real)?.into_iter().map(|named| (named, false)));
        }
    }
    Ok(())
}

fn add_files(inputs: &mut Inputs, name: String, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let list = files.iter().flat_map(|(path, found)| [path.as_os_str().as_bytes(), found.as_slice()]);
    inputs.add_list(name, list);
}

/// The directories above `bin/python3`: where the PATH leads, and where that is a link to. A virtual environment
/// has its own packages in the first, and may use those of the second.
fn prefixes(path: &OsStr) -> BTreeSet<PathBuf> {
    let programs = std::env::split_paths(path).map(|directory| directory.join("python3"));
    let Some(program) = programs.into_iter().find(|program| program.is_file()) else {
        return BTreeSet::new();
    };
    let programs = [Some(program.clone()), program.canonicalize().ok()];
    let above = |program: PathBuf| Some(program.parent()?.parent()?.to_owned());
    let mut prefixes: BTreeSet<PathBuf> = programs.into_iter().flatten().filter_map(above).collect();
    if prefixes.contains(Path::new(LOCAL.0)) {
        prefixes.insert(LOCAL.1.into());
    }
    prefixes
}

/// `lib/python3*` of the prefixes; also those of other versions, which are few and harm nobody.
fn libraries(prefixes: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let of_prefix = |prefix: &PathBuf| ["lib", "lib64"].map(|lib| prefix.join(lib));
    let mut libraries = Vec::new();
    for lib in prefixes.iter().flat_map(of_prefix) {
        let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
        let found = entries.filter(|entry| entry.file_name().as_bytes().starts_with(b"python3"));
        libraries.extend(found.map(|entry| entry.path()));
    }
    libraries
}

/// All that is below the directory, with what links lead to.
fn files_of(directory: &Path, most: usize) -> CacheResult<BTreeMap<PathBuf, Vec<u8>>> {
    let failed = |what: String| NotCacheable(format!("cannot read Python's packages: {what}"));
    let mut files = BTreeMap::new();
    if directory.is_file() {
        files.extend(described(directory)?.map(|found| (directory.to_owned(), found)));
        return Ok(files);
    }
    for entry in WalkDir::new(directory).follow_links(true) {
        let path = match &entry {
            Ok(entry) => entry.path(),
            // Links that lead nowhere or back up are as good as absent; should they lead somewhere, that is seen.
            Err(error) if is_odd_link(error) => error.path().unwrap_or(directory),
            Err(error) => return Err(failed(error.to_string())),
        };
        if files.len() >= most {
            return Err(NotCacheable(format!("Python has more than {MAX_FILES} files in its packages")));
        }
        let found = match entry.is_ok() {
            true => described(path)?.unwrap_or_default(),
            false => b"link".to_vec(),
        };
        files.insert(path.strip_prefix(directory).unwrap_or(path).to_owned(), found);
    }
    Ok(files)
}

fn is_odd_link(error: &walkdir::Error) -> bool {
    let absent = error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound);
    error.loop_ancestor().is_some() || absent
}

/// Mode, and of a file size and time; `None` where there is none.
fn described(path: &Path) -> CacheResult<Option<Vec<u8>>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut encoder = Encoder::default();
    encoder.number(metadata.mode().into());
    // A directory's time changes with its entries, which are seen by themselves.
    if !metadata.is_dir() {
        let (seconds, nanoseconds) = (metadata.mtime() as u64, metadata.mtime_nsec() as u64);
        encoder.number(metadata.size()).number(seconds).number(nanoseconds);
    }
    Ok(Some(encoder.finish().to_vec()))
}

/// The directories that `.pth` files in the directory add to Python's path: one on each line, as `site` reads
/// them. Lines that begin with `import` run code of the packages, which are covered.
fn named_by_pth(directory: &Path) -> CacheResult<Vec<PathBuf>> {
    let mut named = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().ends_with(b".pth") {
            continue;
        }
        let Ok(real) = entry.path().canonicalize() else { continue };
        let text = read::whole(&real, MAX_PTH_BYTES)?;
        let is_path = |line: &&[u8]| {
            !line.is_empty()
                && ![&b"#"[..], b"import ", b"import\t"].iter().any(|word| line.starts_with(word))
        };
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(is_path);
        named.extend(lines.map(|line| directory.join(OsStr::from_bytes(line))));
    }
    Ok(named)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        /// An interpreter, and a virtual environment that leads to it.
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().unwrap());
            machine.write("usr/bin/python3.11", "");
            symlink("python3.11", machine.at("usr/bin/python3")).unwrap();
            fs::create_dir_all(machine.at("venv/bin")).unwrap();
            symlink(machine.at("usr/bin/python3"), machine.at("venv/bin/python3")).unwrap();
            machine
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn inputs(&self, bin: &str, python_path: Option<&OsStr>) -> CacheResult<Inputs> {
            let mut inputs = Inputs::default();
            let path = std::env::join_paths([self.at("nothing"), self.at(bin)]).unwrap();
            add(&mut inputs, &path, python_path, &[self.at("poky")]).map(|()| inputs)
        }
    }

    #[test]
    fn each_package_that_bitbake_could_import_is_an_input() {
        let machine = Machine::new();
        let python_path = std::env::join_paths([machine.at("poky/lib"), machine.at("more")]).unwrap();
        let key = || machine.inputs("venv/bin", Some(&python_path)).unwrap().key();
        let site = "usr/lib/python3.11/site-packages";
        let mut before = key();
        for (path, text, counts) in [
            ("usr/lib/python3.11/site-packages/websockets/__init__.py", "1", true),
            ("usr/lib/python3.11/site-packages/websockets/__init__.py", "22", true),
            ("usr/lib/python3.11/site-packages/websockets/__pycache__/a.pyc", "1", true),
            ("usr/lib/python3/dist-packages/simplejson/a.py", "1", true),
            ("usr/lib64/python3.11/site-packages/x.so", "1", true),
            ("usr/lib/python3.11/sitecustomize.py", "1", true),
            ("venv/lib/python3.11/site-packages/git/a.py", "1", true),
            ("more/x.py", "1", true),
            ("editable/x.py", "1", false),
            ("usr/lib/python3.11/site-packages/e.pth", "# a\nimport x\n../../../../editable\n", true),
            ("editable/x.py", "22", true),
            ("editable/more.pth", "/etc\n", true),
            // Others have these, or the key has them elsewhere.
            ("usr/lib/python2.7/site-packages/x.py", "1", false),
            ("usr/share/x.py", "1", false),
            ("usr/lib/x.py", "1", false),
            ("poky/lib/x.py", "1", false),
        ] {
            machine.write(path, text);
            let after = key();
            assert_eq!(after != before, counts, "{path} {text}");
            assert_eq!(after, key(), "{path} {text}: not the same twice");
            before = after;
        }
        let module = machine.at(site).join("websockets/__init__.py");
        let later = SystemTime::now() + Duration::from_secs(100);
        fs::File::options().write(true).open(&module).unwrap().set_modified(later).unwrap();
        let touched = key();
        assert_ne!(touched, before);
        fs::remove_file(module).unwrap();
        assert_ne!(key(), touched);
    }

    #[test]
    fn odd_links_in_packages_do_no_harm() {
        let machine = Machine::new();
        let key = || machine.inputs("usr/bin", None).unwrap().key();
        machine.write("usr/lib/python3/dist-packages/a.py", "1");
        let before = key();
        let site = machine.at("usr/lib/python3/dist-packages");
        symlink("/nonexistent", site.join("gone")).unwrap();
        symlink(".", site.join("loop")).unwrap();
        symlink("/nonexistent", site.join("gone.pth")).unwrap();
        let odd = key();
        assert_ne!(odd, before);
        // What it leads to now.
        fs::remove_file(site.join("gone")).unwrap();
        machine.write("share/x.py", "1");
        symlink(machine.at("share"), site.join("gone")).unwrap();
        let led = key();
        assert_ne!(led, odd);
        machine.write("share/x.py", "22");
        assert_ne!(key(), led);
    }

    #[test]
    fn without_an_interpreter_there_are_no_packages() {
        let machine = Machine::new();
        assert_eq!(machine.inputs("bin", None).unwrap().key(), Inputs::default().key());
    }
}
