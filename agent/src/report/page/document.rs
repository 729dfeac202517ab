//! The frame of the page. It loads nothing: its style, its script and its data are in it, and a policy forbids the
//! browser everything else. This is the only file that writes text into the page without escaping it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::text::line;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(include_str!("page.js"), include_str!("timeline.js"));

/// A whole page with the script of reports.
pub fn document(title: &str, body: &Markup) -> String {
    frame(title, body, Some(SCRIPT))
}

/// A whole page without a script.
pub fn plain_document(title: &str, body: &Markup) -> String {
    frame(title, body, None)
}

fn frame(title: &str, body: &Markup, script: Option<&str>) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy(script));
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (line(title)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (body)
                @if let Some(script) = script { script { (PreEscaped(script)) } }
            }
        }
    };
    page.into_string()
}

/// Allows exactly this style and this script.
fn policy(script: Option<&str>) -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; script-src {}; style-src {}; base-uri 'none'; form-action 'none'",
        script.map_or("'none'".into(), hash),
        hash(STYLE)
    )
}

/// Data for the script. The browser does not execute it, and nothing in it can end the element.
pub fn data_block<T: Serialize>(class: &str, data: &T) -> Markup {
    let json = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    html! {
        script class=(class) type="application/json" { (PreEscaped(escape(&json))) }
    }
}

/// The same JSON without the characters of markup. They only occur in strings.
fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", char as u32))
            }
            _ => text.push(char),
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_end_its_element() {
        let evil = vec!["</script><script>alert(1)</script>", "<!--", "]]>", "&lt;", "\u{2028}'\""];
        let block = data_block("x", &evil).into_string();
        let inner = block.strip_prefix("<script class=\"x\" type=\"application/json\">").unwrap();
        let inner = inner.strip_suffix("</script>").unwrap();
        assert!(!inner.contains(['<', '>', '&', '\'']), "{inner}");
        assert_eq!(serde_json::from_str::<Vec<String>>(inner).unwrap(), evil);
    }

    /// The script can only make text, never markup, and it makes no requests.
    #[test]
    fn the_script_writes_no_markup_and_makes_no_request() {
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "import(",
            "setAttribute('on",
            "srcdoc",
            ".src",
            "</script",
            "<!--",
        ] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        for word in ["@import", "url(", "</style"] {
            assert!(!STYLE.contains(word), "{word}");
        }
    }
}
