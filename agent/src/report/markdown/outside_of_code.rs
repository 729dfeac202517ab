//! For tests: what a browser would take for markup.

/// The text without its code spans and blocks, by the rules of CommonMark.
pub fn outside_of_code(text: &str) -> String {
    let mut outside = String::new();
    let mut fence: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let ticks: String = trimmed.chars().take_while(|c| *c == '`').collect();
        match &fence {
            Some(open) if ticks.len() >= open.len() && trimmed.trim_end() == ticks => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 && !trimmed[ticks.len()..].contains('`') => fence = Some(ticks),
            None => {
                outside.push_str(&without_spans(line));
                outside.push('\n');
            }
        }
    }
    assert_eq!(fence, None, "a block has no end:\n{text}");
    outside
}

fn without_spans(line: &str) -> String {
    let mut rest = line;
    let mut outside = String::new();
    while let Some(start) = rest.find('`') {
        outside.push_str(&rest[..start]);
        let ticks = rest[start..].chars().take_while(|c| *c == '`').count();
        let after = &rest[start + ticks..];
        let mut from = 0;
        let end = loop {
            let Some(found) = after[from..].find('`') else { break None };
            let run = after[from + found..].chars().take_while(|c| *c == '`').count();
            if run == ticks {
                break Some(from + found);
            }
            from += found + run;
        };
        match end {
            Some(end) => rest = &after[end + ticks..],
            None => {
                outside.push_str(&rest[start..start + ticks]);
                rest = after;
            }
        }
    }
    outside + rest
}
