//! The few words of a `conf/layer.conf` that choose sources before BitBake is there to ask.

use std::collections::BTreeSet;

/// What a layer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerWords {
    pub collections: BTreeSet<String>,
    /// Collections, without their versions.
    pub depends: BTreeSet<String>,
    pub series: BTreeSet<String>,
}

/// Reads the text of a `conf/layer.conf`. Words that only BitBake could expand are left out.
pub fn read(text: &str) -> LayerWords {
    let mut words = LayerWords::default();
    for line in text.replace("\\\n", " ").lines() {
        let Some((variable, value)) = assignment(line) else { continue };
        let into = if variable == "BBFILE_COLLECTIONS" || variable.starts_with("BBFILE_COLLECTIONS:") {
            &mut words.collections
        } else if variable.starts_with("LAYERDEPENDS_") {
            &mut words.depends
        } else if variable.starts_with("LAYERSERIES_COMPAT_") {
            &mut words.series
        } else {
            continue;
        };
        into.extend(plain_words(value));
    }
    words
}

/// Variable and value of `VAR = "value"`, with any of BitBake's operators.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (left, right) = line.split_once('=')?;
    let variable = left.trim_end_matches(['?', ':', '+', '.', ' ', '\t']).trim_start();
    let right = right.trim_start_matches(['=', '+', '.']).trim();
    let quote = right.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let value = right[1..].split(quote).next()?;
    (!variable.starts_with('#')).then_some((variable, value))
}

/// The words outside brackets and expansions: `core (>= 12) x` has two.
fn plain_words(value: &str) -> Vec<String> {
    let mut depth = 0usize;
    let mut plain = String::new();
    for c in value.chars() {
        match c {
            '(' | '{' => depth += 1,
            ')' | '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain.split_whitespace().filter(|word| !word.contains('$')).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_forms_that_layers_use() {
        let words = read(concat!(
            "BBFILE_COLLECTIONS += \"meta-x\"\n",
            "LAYERDEPENDS_meta-x = \"core (>= 12) openembedded-layer\"\n",
            "LAYERDEPENDS_meta-x += 'meta-python'\n",
            "LAYERDEPENDS_meta-x:append = \" networking-layer:x\"\n",
            "LAYERDEPENDS_meta-x += \"${@bb.utils.contains('A', 'b', 'gnome-layer', '', d)} ${FOO}\"\n",
            "LAYERSERIES_COMPAT_meta-x = \" \\\n    kirkstone \\\n    scarthgap \\\n\"\n",
            "# LAYERDEPENDS_meta-x += \"ghost\"\n",
            "LAYERRECOMMENDS_meta-x = \"other\"\n",
            "LAYERDEPENDS_meta-x =\n",
        ));
        assert_eq!(words.collections, set(&["meta-x"]));
        assert_eq!(words.depends, set(&["core", "openembedded-layer", "meta-python", "networking-layer:x"]));
        assert_eq!(words.series, set(&["kirkstone", "scarthgap"]));
    }

    #[test]
    fn hostile_text_is_survived() {
        for text in ["=", "=\"", "LAYERDEPENDS_x = \"", "LAYERDEPENDS_x = \"((((\"", "\u{0}=\u{0}", "A = \"ü"]
        {
            assert!(read(text).collections.is_empty(), "{text:?}");
        }
    }
}
