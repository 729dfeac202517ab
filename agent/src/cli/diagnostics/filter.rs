//! Which diagnostics are recorded: what the user asks for, and what is never recorded.

use std::str::FromStr;

use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{Directive, EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

/// Where the program's own crates record from.
const OWN: [&str; 2] = ["agent_", "build_agent"];

/// Libraries below the AWS SDK and the HTTP client. They record each frame and each timer, so they stay at `warn`
/// unless the filter names them.
const QUIET: [&str; 12] = [
    "h2",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "mio",
    "reqwest",
    "runtime",
    "rustls",
    "tokio",
    "tower",
    "tower_http",
    "want",
];

/// Whether a crate of the program records there, or a library.
pub fn is_own(target: &str) -> bool {
    OWN.iter().any(|start| target.starts_with(start))
}

/// What may be recorded at all. At `trace`, the AWS SDK writes out headers, bodies, and lines of the user's
/// credentials file: secrets that no redactor knows yet.
fn is_recordable(metadata: &Metadata<'_>) -> bool {
    is_own(metadata.target()) || *metadata.level() < tracing::Level::TRACE
}

/// Whether the filter turns everything off.
pub fn is_off(text: &str) -> bool {
    LevelFilter::from_str(text.trim()).ok() == Some(LevelFilter::OFF)
}

/// The filter that the text describes, and nothing that must not be recorded.
///
/// # Errors
/// What is wrong with the text.
pub fn chosen<S>(text: &str) -> Result<impl Filter<S> + use<S>, String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let may_be = filter_fn(is_recordable).with_max_level_hint(LevelFilter::TRACE);
    Ok(may_be.and(parse(text)?))
}

/// `info`, and whatever else the text asks for.
///
/// # Errors
/// What is wrong with the text.
pub fn at_least_info<S>(text: Option<&str>) -> Result<impl Filter<S> + use<S>, String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Ok(chosen(text.unwrap_or("off"))?.or(chosen("info")?))
}

/// Reads a level, or directives as `EnvFilter` has them: `debug`, `agent_git=debug,agent_artifacts=trace`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<EnvFilter, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(format!("it is empty; {LEVELS}"));
    }
    let mut filter = EnvFilter::default();
    for crate_name in QUIET {
        filter = filter.add_directive(directive(&format!("{crate_name}=warn"))?);
    }
    for part in parts {
        filter = filter.add_directive(directive(part)?);
    }
    Ok(filter)
}

const LEVELS: &str = "a level is one of error, warn, info, debug, trace, off";

fn directive(part: &str) -> Result<Directive, String> {
    let is_level = |text: &str| !text.is_empty() && LevelFilter::from_str(text).is_ok();
    let is_word = !part.contains(['=', '[', '_', ':']);
    // `EnvFilter` takes any word for a target, so that a typing mistake would record nothing.
    if is_word && !is_level(part) {
        let meant = nearest(part).map(|level| format!("; did you mean `{level}`?")).unwrap_or_default();
        return Err(format!("`{part}` is not a level{meant} ({LEVELS}; a target needs one: `{part}=debug`)"));
    }
    let level = part.rsplit_once('=').map(|(_, level)| level).filter(|level| !level.ends_with(['}', ']']));
    if let Some(level) = level.filter(|level| !is_level(level)) {
        let meant = nearest(level).map(|level| format!("; did you mean `{level}`?")).unwrap_or_default();
        return Err(format!("`{level}` in `{part}` is not a level{meant} ({LEVELS})"));
    }
    part.parse().map_err(|_| format!("`{part}` is not a directive such as `agent_git=debug`"))
}

fn nearest(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let far = |level: &str| match word.starts_with(level) {
        true => 0,
        false => strsim::damerau_levenshtein(&word, level),
    };
    ["error", "warn", "info", "debug", "trace", "off"]
        .into_iter()
        .map(|level| (far(level), level))
        .filter(|(far, _)| *far <= 2)
        .min()
        .map(|(_, level)| level)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_says_what_is_wrong() {
        for (text, wanted) in [
            ("", "it is empty"),
            (" , ", "it is empty"),
            ("debgu", "`debgu` is not a level; did you mean `debug`?"),
            ("warning", "`warning` is not a level; did you mean `warn`?"),
            ("verbose", "`verbose` is not a level ("),
            ("6", "`6` is not a level"),
            ("agent_git=debgu", "`debgu` in `agent_git=debgu` is not a level; did you mean `debug`?"),
            ("info,agent_git=", "`` in `agent_git=` is not a level"),
            ("info,hyper", "a target needs one: `hyper=debug`"),
            ("agent_git[=debug", "`agent_git[=debug` is not a directive"),
        ] {
            let said = parse(text).err().unwrap_or_else(|| panic!("{text:?} is taken"));
            assert!(said.contains(wanted), "{text:?}: {said}");
        }
    }

    #[test]
    fn levels_and_directives_are_filters() {
        for text in [
            "debug",
            "TRACE",
            "off",
            " info , agent_git=debug,",
            "agent_git",
            "agent_process::runner=trace",
            "h2=debug",
            "[command]=debug",
            "agent_git[git{verb=fetch}]=trace",
            "3",
        ] {
            assert!(parse(text).is_ok(), "{text:?}: {:?}", parse(text).err());
        }
        assert!(is_off("off") && is_off(" OFF ") && !is_off("info") && !is_off("agent_git=off"));
    }
}
