//! Parses version conditions of `LAYERDEPENDS`, such as `core (>= 12) other`. Works like
//! `explode_dep_versions2` of BitBake (`lib/bb/utils.py`), which is the same in all releases.

use super::conf_syntax::Word;

/// BitBake's message about an invalid list of dependencies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionError(pub String);

/// BitBake's operators, longer ones first.
const OPERATORS: [&str; 11] = ["<=", "=<", "<<", "==", "!=", ">=", "=>", ">>", "<", ">", "="];

/// Parses the dependencies, each with its conditions, such as `>= 12`.
///
/// # Errors
/// If a condition has an unknown operator.
pub fn explode(text: &str) -> Result<Vec<(String, Vec<String>)>, VersionError> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut state = State::default();
    for word in text.replace(',', "").split_whitespace() {
        let mut word = word;
        if let Some(condition) = word.strip_prefix('(') {
            state.expects_operator = true;
            word = condition;
            if word.is_empty() {
                continue;
            }
        }
        if std::mem::take(&mut state.expects_operator) {
            state.is_inside = true;
            let Some(operator) = OPERATORS.into_iter().find(|operator| word.starts_with(operator)) else {
                return Err(VersionError(format!(
                    "Invalid version specification in \"({word}\" - invalid or missing operator"
                )));
            };
            state.operator = operator;
            word = &word[operator.len()..];
            if word.is_empty() {
                continue;
            }
        }
        if !state.is_inside {
            state.version.clear();
            if !found.iter().any(|(name, _)| name == word) {
                found.push((word.to_owned(), Vec::new()));
            }
            state.name = word.to_owned();
            continue;
        }
        if let Some(end) = word.strip_suffix(')') {
            state.is_inside = false;
            word = end;
            if !state.version.is_empty() && !word.is_empty() {
                state.version.push(' ');
            }
        }
        if !word.is_empty() {
            state.version.push_str(word);
            let condition = format!("{} {}", state.operator, state.version);
            if let Some((_, conditions)) = found.iter_mut().find(|(name, _)| *name == state.name) {
                conditions.push(condition);
            }
        }
    }
    Ok(found)
}

#[derive(Default)]
struct State {
    name: String,
    operator: &'static str,
    version: String,
    expects_operator: bool,
    is_inside: bool,
}

/// The names of the dependencies, without conditions and commas.
pub fn names(words: &[Word]) -> Vec<Word> {
    let mut names = Vec::new();
    let mut is_inside = false;
    for word in words {
        let text = word.text.replace(',', "");
        is_inside |= text.starts_with('(');
        if !is_inside && !text.is_empty() {
            names.push(Word { text: text.clone(), is_certain: word.is_certain });
        }
        is_inside &= !text.ends_with(')');
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_conditions_as_bitbake_does() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a [&'a str])]);
        let table: [Row; 7] = [
            ("", &[]),
            ("core", &[("core", &[])]),
            ("core (>= 12) b", &[("core", &[">= 12"]), ("b", &[])]),
            ("core (>=12), b", &[("core", &[">= 12"]), ("b", &[])]),
            ("core ( >= 12 )", &[("core", &[">= 12"])]),
            ("core (>= 12 ) b", &[("core", &[">= 12"]), ("b", &[])]),
            ("core (= 1) core (<2)", &[("core", &["= 1", "< 2"])]),
        ];
        for (text, wanted) in table {
            let wanted: Vec<(String, Vec<String>)> = wanted
                .iter()
                .map(|(name, conditions)| {
                    ((*name).to_owned(), conditions.iter().map(|one| (*one).to_owned()).collect())
                })
                .collect();
            assert_eq!(explode(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn rejects_what_bitbake_rejects_with_its_message() {
        for (text, refused) in [("core (~12)", "(~12)"), ("core (12)", "(12)"), ("a b ( x >= 1 )", "(x")] {
            let wanted =
                format!("Invalid version specification in \"{refused}\" - invalid or missing operator");
            assert_eq!(explode(text), Err(VersionError(wanted)), "{text}");
        }
    }

    #[test]
    fn names_have_no_versions() {
        let table: [(&str, &[&str]); 6] = [
            ("core", &["core"]),
            ("core (>= 12) b", &["core", "b"]),
            ("core (>=12)", &["core"]),
            ("a ( >= 3 ) b", &["a", "b"]),
            ("a, b", &["a", "b"]),
            ("a,b", &["ab"]),
        ];
        for (text, wanted) in table {
            let word = |text: &str| Word { text: text.to_owned(), is_certain: true };
            let words: Vec<Word> = text.split_whitespace().map(word).collect();
            let wanted: Vec<Word> = wanted.iter().map(|text| word(text)).collect();
            assert_eq!(names(&words), wanted, "{text}");
        }
    }
}
