//! Shortens a long list for people: the first entries, and the number of the others.

/// Maximum number of shown entries.
pub const SHOWN: usize = 20;

/// The first entries and the number of the others. `result.json` has all of them as findings.
pub fn shown(mut entries: Vec<String>) -> Vec<String> {
    if let Some(rest) = entries.len().checked_sub(SHOWN).filter(|rest| *rest > 0) {
        entries.truncate(SHOWN);
        entries.push(more(rest));
    }
    entries
}

/// The line in place of entries that are not shown.
pub fn more(rest: usize) -> String {
    format!("… and {rest} more; result.json lists all of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_entries_that_are_not_shown() {
        let list = |length: usize| (0..length).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(shown(list(SHOWN)), list(SHOWN));
        let long = shown(list(SHOWN + 3));
        assert_eq!(long[..SHOWN], list(SHOWN));
        assert_eq!(long[SHOWN..], ["… and 3 more; result.json lists all of them"]);
    }
}
