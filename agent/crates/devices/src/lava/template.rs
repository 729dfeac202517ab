//! The job definition of a lab, with the words of a request.
//!
//! ```text
//! {{ request }} {{ attempt }}    unique; both must be in `job_name`
//! {{ image }} {{ machine }} {{ commit }} {{ device }}
//! {{ url *.wic.gz }}             the address of the only file with a name like this
//! {{ sha256 *.wic.gz }}          its digest
//! ```

use crate::lab::Lava;
use crate::provider::Attempt;
use crate::request::RequestFile;

/// A rendered job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    pub yaml: String,
    /// The value of `job_name`, unique among all jobs.
    pub name: String,
}

/// Renders the template. Words come from a request, so they are refused if YAML could take them for more than a word.
///
/// # Errors
/// Why the template cannot be used.
pub fn render(template: &str, lava: &Lava, attempt: &Attempt<'_>) -> Result<Definition, String> {
    let request = attempt.request;
    let number = attempt.number.to_string();
    let mut yaml = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (placeholder, behind) = after.split_once("}}").ok_or("a placeholder `{{` has no end")?;
        let words: Vec<&str> = placeholder.split_whitespace().collect();
        let word = match words.as_slice() {
            ["request"] => request.id.clone(),
            ["attempt"] => number.clone(),
            ["image"] => request.image.clone(),
            ["machine"] => request.machine.clone(),
            ["commit"] => request.job.commit.clone().unwrap_or_else(|| "unknown".into()),
            ["device"] => attempt.device.name.clone(),
            ["url", pattern] => {
                format!("{}/{}", lava.files.trim_end_matches('/'), file(pattern, &request.files)?.sha256)
            }
            ["sha256", pattern] => file(pattern, &request.files)?.sha256.clone(),
            _ => {
                return Err(format!(
                    "`{{{{{placeholder}}}}}` is unknown; there are request, attempt, image, machine, commit, device, \
                     url PATTERN and sha256 PATTERN"
                ));
            }
        };
        if !is_plain(&word) {
            return Err(format!(
                "the value of `{{{{{placeholder}}}}}` is not a plain word: {}",
                word.escape_debug()
            ));
        }
        yaml.push_str(before);
        yaml.push_str(&word);
        rest = behind;
    }
    yaml.push_str(rest);
    let name = yaml.lines().find_map(|line| line.strip_prefix("job_name:")).ok_or("it has no `job_name`")?;
    let name = name.trim().trim_matches(['\'', '"']).to_owned();
    match name.contains(&request.id) && template_names_attempt(template) {
        true => Ok(Definition { yaml, name }),
        false => Err(
            "its `job_name` must contain {{ request }} and {{ attempt }}, so that a job is found by its name"
                .into(),
        ),
    }
}

fn template_names_attempt(template: &str) -> bool {
    let line = template.lines().find(|line| line.starts_with("job_name:")).unwrap_or_default();
    let words: String = line.split_whitespace().collect();
    words.contains("{{attempt}}")
}

/// The only file with a name that the pattern matches; `*` stands for any characters.
fn file<'a>(pattern: &str, files: &'a [RequestFile]) -> Result<&'a RequestFile, String> {
    let found: Vec<&RequestFile> = files.iter().filter(|file| matches(pattern, &file.name)).collect();
    match found.as_slice() {
        [only] => Ok(only),
        [] => Err(format!("the request has no file like `{pattern}`")),
        many => {
            let names: Vec<&str> = many.iter().map(|file| file.name.as_str()).collect();
            Err(format!("the request has several files like `{pattern}`: {}", names.join(", ")))
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether a word means the same in all places of YAML.
fn is_plain(word: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || "._/:@+=-".contains(char);
    let colons = word.contains(": ") || word.ends_with(':');
    !word.is_empty() && word.chars().all(plain) && !colons && !word.starts_with(['-', '@', ':', '='])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, wanted) in [
            ("*.wic.gz", "img.wic.gz", true),
            ("*.wic.gz", "img.wic.gz.sig", false),
            ("bzImage", "bzImage", true),
            ("bzImage", "bzImage2", false),
            ("img-*-x.*", "img-a-b-x.ext4", true),
            ("img-*-x.*", "img-x.ext4", false),
            ("*", "anything", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn words_that_yaml_could_misread_are_refused() {
        for (word, wanted) in [
            ("core-image-minimal", true),
            ("https://host/devices/v1/files/ab12", true),
            ("", false),
            ("a b", false),
            ("a\nb: c", false),
            ("-x", false),
            ("x:", false),
            ("{a}", false),
            ("a#b", false),
            ("'a", false),
        ] {
            assert_eq!(is_plain(word), wanted, "{word}");
        }
    }
}
