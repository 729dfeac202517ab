//! A long list in a text for people: its beginning, and how many more there are.

/// Entries that a text shows.
pub const SHOWN: usize = 20;

/// The first entries, and the count of the rest; `result.json` has all of them as findings.
pub fn shown(mut entries: Vec<String>) -> Vec<String> {
    if let Some(rest) = entries.len().checked_sub(SHOWN).filter(|rest| *rest > 0) {
        entries.truncate(SHOWN);
        entries.push(more(rest));
    }
    entries
}

/// Stands for entries that are not shown.
pub fn more(rest: usize) -> String {
    format!("… and {rest} more; result.json lists all of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted() {
        let list = |length: usize| (0..length).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(shown(list(SHOWN)), list(SHOWN));
        let long = shown(list(SHOWN + 3));
        assert_eq!(long[..SHOWN], list(SHOWN));
        assert_eq!(long[SHOWN..], ["… and 3 more; result.json lists all of them"]);
    }
}
