//! The names of the files of a device's leases.

use std::collections::BTreeMap;

use agent_artifacts::records::RecordStore;
use agent_types::error::Result;

use crate::request::layout;

/// Old leases are removed, so there are few.
const MOST: usize = 10_000;

/// Which files the leases of a device have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases(BTreeMap<u64, Files>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Files {
    created: bool,
    released: bool,
}

impl Leases {
    pub async fn list(store: &RecordStore, device: &str) -> Result<Leases> {
        let below = layout::leases(device);
        let files = store.list(&below, MOST).await?;
        Ok(Leases::of(files.iter().filter_map(|file| file.path.strip_prefix(&below)?.strip_prefix('/'))))
    }

    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Leases {
        let mut leases = Leases::default();
        for name in names {
            let Some(stem) = name.strip_suffix(".json") else { continue };
            let (number, what) = stem.split_once('.').unwrap_or((stem, ""));
            // A number has one notation, so that no two files are the same lease.
            let Some(parsed) = number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number) else {
                continue;
            };
            let files = leases.0.entry(parsed).or_default();
            match what {
                "" => files.created = true,
                "released" => files.released = true,
                _ => {}
            }
        }
        leases.0.retain(|_, files| files.created);
        leases
    }

    pub fn newest(&self) -> Option<u64> {
        self.0.last_key_value().map(|(number, _)| *number)
    }

    pub fn is_released(&self, number: u64) -> bool {
        self.0.get(&number).is_some_and(|files| files.released)
    }

    /// The numbers of all leases, ascending.
    pub fn numbers(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_leases_count() {
        let names = ["1.json", "1.released.json", "2.json", "2.renewed.json", "9.released.json", "007.json"];
        let hostile =
            ["x.json", "-1.json", "99999999999999999999999.json", "3", "a/4.json", "+5.json", ".json"];
        let leases = Leases::of(names.into_iter().chain(hostile));
        assert_eq!(leases.numbers().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((leases.newest(), leases.is_released(1), leases.is_released(2)), (Some(2), true, false));
    }
}
