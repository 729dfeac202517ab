//! Validates `[[hooks]]`.

use std::collections::BTreeSet;
use std::path::Path;

use agent_types::stage::Stage;

use super::manifest::{UnvalidatedHook, UnvalidatedManifest};
use super::problem::{Diagnostic, KeyPath};
use super::settings::{Hook, Moment};
use super::validator::Validator;
use super::values;

/// The valid hooks.
pub fn validate(check: &mut Validator, raw: &UnvalidatedManifest) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = Vec::new();
    let mut names = BTreeSet::new();
    for (index, raw) in raw.hooks.iter().flatten().enumerate() {
        let path = KeyPath::root().key("hooks").index(index);
        let Some(hook) = hook(check, raw, &path) else { continue };
        if !names.insert(hook.name.clone()) {
            let mistake = Diagnostic::new(format!("two hooks have the name `{}`", hook.name))
                .hint("give each a `name`: reports and logs tell them apart by it");
            let written = path.key("name");
            match check.has(&written) {
                true => check.value(&written, mistake),
                false => check.value(&path.key("argv"), mistake),
            }
            continue;
        }
        hooks.push(hook);
    }
    hooks
}

fn hook(check: &mut Validator, raw: &UnvalidatedHook, path: &KeyPath) -> Option<Hook> {
    let argv = argv(check, raw, &path.key("argv"));
    let moment = moment(check, raw, path);
    let timeout = check.one(&path.key("timeout"), raw.timeout.as_ref(), values::duration);
    let name =
        check.one(&path.key("name"), raw.name.as_ref(), |text| values::name(text).map(|()| text.to_owned()));
    let argv = argv?;
    let name = match (name, &raw.name) {
        (Some(name), _) => name,
        (None, Some(_)) => return None,
        (None, None) => default_name(check, &argv, path)?,
    };
    Some(Hook { name, argv, moment: moment?, timeout })
}

/// The program's file name.
fn default_name(check: &mut Validator, argv: &[String], path: &KeyPath) -> Option<String> {
    let name = Path::new(argv.first()?).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if values::name(name).is_err() {
        let mistake = Diagnostic::new(format!("`{name}` is not a name for reports and logs"));
        check.value(&path.key("argv"), mistake.hint("add a `name` to the hook"));
        return None;
    }
    Some(name.to_owned())
}

fn argv(check: &mut Validator, raw: &UnvalidatedHook, path: &KeyPath) -> Option<Vec<String>> {
    const HINT: &str = "write the program and its arguments, such as [\"sh\", \"-c\", \"make prepare\"]";
    // A missing key was reported before.
    let words = raw.argv.as_ref()?;
    let mistake = match words.first() {
        None => Some(Diagnostic::new("is empty")),
        Some(program) if program.is_empty() => Some(Diagnostic::new("names no program")),
        Some(program) if program.contains(char::is_whitespace) => {
            Some(Diagnostic::new(format!("`{program}` is more than one word, and no shell parses it")))
        }
        Some(_) if words.iter().any(|word| word.contains('\0')) => {
            Some(Diagnostic::new("contains a NUL character, which no argument can have"))
        }
        Some(_) => None,
    };
    match mistake {
        Some(mistake) => {
            check.value(path, mistake.hint(HINT));
            None
        }
        None => Some(words.clone()),
    }
}

fn moment(check: &mut Validator, raw: &UnvalidatedHook, path: &KeyPath) -> Option<Moment> {
    // The schema has checked the words.
    let stage = |text: &String| text.parse::<Stage>().ok();
    match (&raw.before, &raw.after) {
        (Some(before), None) => stage(before).map(Moment::Before),
        (None, Some(after)) => stage(after).map(Moment::After),
        (None, None) => {
            // Keys of a wrong type were reported before.
            if !check.has(&path.key("before")) && !check.has(&path.key("after")) {
                let mistake = Diagnostic::new("has neither `before` nor `after`");
                check.key(path, mistake.hint("name a stage: before = \"build\""));
            }
            None
        }
        (Some(_), Some(_)) => {
            let mistake = Diagnostic::new("has both `before` and `after`");
            check.key(path, mistake.hint("write two hooks"));
            None
        }
    }
}
