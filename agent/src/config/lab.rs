//! Reads and validates a lab's file (`lab.toml`).

mod control;
mod file;
mod tester;

use std::path::{Path, PathBuf};

use agent_devices::lab::{Control, Device, Lab, LabLimits};
use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::problem::{Diagnostic, KeyPath, Problems};
use super::validator::Validator;
use super::{address, structure, tree, values};
use file::{UnvalidatedDevice, UnvalidatedLab, UnvalidatedLabLimits};

pub use file::schema as lab_schema;

/// Attempts of a request at most.
const MOST_ATTEMPTS: u32 = 100;

/// Loads the settings of a lab. Relative paths in the file are relative to its directory.
///
/// # Errors
/// Usage, with all problems of the file.
pub fn load_lab(file: &Path) -> Result<Lab> {
    let unreadable = |error: std::io::Error| {
        Error::usage("cannot read the lab's file").because(&error).hint("docs/lab.md has an example")
    };
    let bytes = untrusted::read(file, untrusted::PAGE).map_err(unreadable)?;
    let absolute = std::path::absolute(file).map_err(unreadable)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let mut problems = Problems::default();
    let lab = read(&file.display().to_string(), &bytes, base, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into());
    }
    lab.ok_or_else(|| Error::internal("the lab's file was not read, and nothing says why"))
}

/// The lab, if nothing that it needs is missing.
fn read(name: &str, bytes: &[u8], base: &Path, problems: &mut Problems) -> Option<Lab> {
    let tree = tree::parse_bytes(name, bytes, problems)?;
    let (raw, meant): (UnvalidatedLab, _) = structure::read(&tree, problems);
    let mut check = LabValidator { check: Validator { tree: &tree, problems, meant }, base };
    let root = KeyPath::root();
    let name = check.name(&root.key("name"), raw.name.as_ref());
    let store =
        check.check.one(&root.key("store"), raw.store.as_ref(), |text| address::destination(text, base));
    let state = check.path(&root.key("state"), raw.state.as_ref());
    let build_user = check.check.one(&root.key("build_user"), raw.build_user.as_ref(), user);
    let limits = limits(&mut check.check, &raw.limits);
    let devices = devices(&mut check, &raw);
    let testers = tester::validate(&mut check, &raw);
    Some(Lab { name: name?, store: store?, state: state?, build_user, limits, devices, testers })
}

/// Validates values of the lab's file.
struct LabValidator<'a> {
    check: Validator<'a>,
    /// The directory of the lab's file.
    base: &'a Path,
}

impl LabValidator<'_> {
    fn name(&mut self, path: &KeyPath, text: Option<&String>) -> Option<String> {
        self.check.one(path, text, |text| values::name(text).map(|()| text.to_owned()))
    }

    fn path(&mut self, path: &KeyPath, text: Option<&String>) -> Option<PathBuf> {
        self.check.one(path, text, |text| address::local(text, self.base))
    }

    /// A file that must exist.
    fn file(&mut self, path: &KeyPath, text: Option<&String>) -> Option<PathBuf> {
        let file = self.path(path, text)?;
        match fs_err::metadata(&file) {
            Ok(metadata) if metadata.is_file() => return Some(file),
            Ok(_) => self.check.value(path, Diagnostic::new("is not a regular file")),
            Err(error) => self.check.value(path, Diagnostic::new(error.to_string())),
        }
        None
    }

    /// A program and its arguments. No shell reads them.
    fn program(&mut self, path: &KeyPath, words: Option<&Vec<String>>) -> Option<Vec<String>> {
        let words = words?;
        let hint = "write the program and its arguments, such as [\"/usr/local/bin/write-sd\", \"3\"]";
        let mistake = match words.first().map(String::as_str) {
            None => "is empty",
            Some("") => "names no program",
            Some(_) if words.iter().any(|word| word.contains('\0')) => "contains a NUL character",
            Some(program) if program.contains(char::is_whitespace) => "has a program of more than one word",
            Some(_) => return Some(self.with_program_path(words)),
        };
        self.check.value(path, Diagnostic::new(mistake).hint(hint));
        None
    }

    /// A program with a `/` is relative to the lab's file.
    fn with_program_path(&self, words: &[String]) -> Vec<String> {
        let mut words = words.to_vec();
        if let Some(program) = words.first_mut().filter(|program| program.contains('/')) {
            *program = values::normal(&self.base.join(&*program)).display().to_string();
        }
        words
    }
}

fn limits(check: &mut Validator, raw: &UnvalidatedLabLimits) -> LabLimits {
    let standard = LabLimits::default();
    let key = |name: &str| KeyPath::root().key("limits").key(name);
    let mut time = |name: &str, text: Option<&String>, standard| {
        check.one(&key(name), text, values::duration).unwrap_or(standard)
    };
    let (lease, poll) =
        (time("lease", raw.lease.as_ref(), standard.lease), time("poll", raw.poll.as_ref(), standard.poll));
    let (flash, boot) =
        (time("flash", raw.flash.as_ref(), standard.flash), time("boot", raw.boot.as_ref(), standard.boot));
    let console = check.one(&key("console"), raw.console.as_ref(), values::size).unwrap_or(standard.console);
    let in_range = |number: &u32| (1..=MOST_ATTEMPTS).contains(number);
    let attempts = match raw.attempts.map(|number| u32::try_from(number).ok().filter(in_range)) {
        None => standard.attempts,
        Some(Some(attempts)) => attempts,
        Some(None) => {
            let mistake = Diagnostic::new("is out of range");
            let hint = format!("write a number from 1 to {MOST_ATTEMPTS}");
            check.value(&key("attempts"), mistake.hint(hint));
            standard.attempts
        }
    };
    LabLimits { lease, poll, flash, boot, console, attempts }
}

fn devices(check: &mut LabValidator, raw: &UnvalidatedLab) -> Vec<Device> {
    let table = KeyPath::root().key("devices");
    if raw.devices.as_ref().is_some_and(std::collections::BTreeMap::is_empty) && check.check.has(&table) {
        let hint = "add a table [devices.NAME]";
        check.check.value(&table, Diagnostic::new("has no device").hint(hint));
    }
    let devices = raw.devices.iter().flatten();
    devices.filter_map(|(name, raw)| device(check, &table.key(name), name, raw)).collect()
}

fn device(check: &mut LabValidator, path: &KeyPath, name: &str, raw: &UnvalidatedDevice) -> Option<Device> {
    if let Err(mistake) = values::name(name) {
        check.check.key(path, mistake);
    }
    let pool = check.check.one(&path.key("pool"), raw.pool.as_ref(), pool);
    let features = check.check.list(&path.key("features"), raw.features.as_ref(), |text| {
        values::name(text).map(|()| text.to_owned())
    });
    let image = check.check.one(&path.key("image"), raw.image.as_ref(), file_pattern);
    let known_good = check.file(&path.key("known_good"), raw.known_good.as_ref());
    let control = control::validate(check, path, raw)?;
    writes(&mut check.check, path, raw, &control);
    let name = name.to_owned();
    let untrusted = raw.untrusted.unwrap_or(false);
    Some(Device { name, pool: pool?, features, untrusted, control, image, known_good })
}

/// Checks that an image is written to the device exactly if the file says how.
fn writes(check: &mut Validator, path: &KeyPath, raw: &UnvalidatedDevice, control: &Control) {
    let example = "name the file that is written, such as image = \"*.wic.bz2\"";
    match control {
        Control::Lava(_) => {
            for (key, is_set) in [("image", raw.image.is_some()), ("known_good", raw.known_good.is_some())] {
                if is_set {
                    let mistake = Diagnostic::new("has no effect: the job definition says what LAVA writes");
                    check.value(&path.key(key), mistake.hint("remove it"));
                }
            }
        }
        Control::Ssh(device) => {
            if device.write.is_some() && raw.image.is_none() {
                check.key(
                    &path.key("image"),
                    Diagnostic::new("is missing: `write` has no file").hint(example),
                );
            }
            if device.write.is_none() && (raw.image.is_some() || raw.known_good.is_some()) {
                let key = if raw.image.is_some() { "image" } else { "known_good" };
                let mistake = Diagnostic::new("has no effect: nothing says how it is written");
                check.value(&path.key(key), mistake.hint("add `write` to the table [devices.NAME.ssh]"));
            }
        }
        Control::Qemu(_) if raw.known_good.is_some() => {
            let mistake = Diagnostic::new("has no effect: each image runs in a new guest");
            check.value(&path.key("known_good"), mistake.hint("remove it"));
        }
        Control::Labgrid(_) if raw.image.is_none() && raw.known_good.is_some() => {
            check.key(&path.key("image"), Diagnostic::new("is missing: nothing is written").hint(example));
        }
        Control::Labgrid(_) | Control::Qemu(_) => {}
    }
}

/// A pool of devices. Jobs that name the pool `qemu` start the guest themselves.
fn pool(text: &str) -> Result<String, Diagnostic> {
    if text == "qemu" {
        let mistake =
            Diagnostic::new("`qemu` is never asked for: a job that names this pool starts the guest itself");
        return Err(mistake.hint("give the pool another name, such as the machine's"));
    }
    values::name(text).map(|()| text.to_owned())
}

/// A glob for a file's name.
fn file_pattern(text: &str) -> Result<String, Diagnostic> {
    let mistake = match globset::Glob::new(text) {
        Ok(_) if text.is_empty() => Diagnostic::new("is empty"),
        Ok(_) if text.contains('/') => Diagnostic::new(format!("`{text}` contains a directory")),
        Ok(_) => return Ok(text.to_owned()),
        Err(error) => Diagnostic::new(format!("`{text}` is not a glob: {}", error.kind())),
    };
    Err(mistake.hint("write the name of a file of the deploy directory, such as \"*.wic.bz2\""))
}

/// The name of a user of this machine.
fn user(text: &str) -> Result<String, Diagnostic> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_good = !text.is_empty() && !text.starts_with(['-', '.']) && text.chars().all(good);
    match is_good {
        true => Ok(text.to_owned()),
        false => Err(Diagnostic::new(format!("`{text}` is not the name of a user"))),
    }
}

#[cfg(test)]
#[path = "lab/tests.rs"]
mod tests;
