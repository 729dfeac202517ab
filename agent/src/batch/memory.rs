//! The memory that each cell used in its last run, for the choice of its next machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use agent_types::machine_use::MachineSample;

use crate::report::Summary;

/// Peak memory of a run, and the memory of its machine. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    pub peak: u64,
    /// The memory that the run could use.
    pub limit: u64,
}

impl MemoryUse {
    /// The peak of a run; `None` if nothing was measured.
    pub fn of(summary: &Summary) -> Option<MemoryUse> {
        let largest = summary.machine.iter().max_by_key(|at| at.sample.memory_used)?;
        let (peak, limit) = (largest.sample.memory_used, largest.sample.memory_limit);
        (limit > 0).then_some(MemoryUse { peak, limit })
    }

    /// Whether the run used up the memory of its machine, so that it may need more.
    pub fn is_used_up(self) -> bool {
        let sample =
            MachineSample { memory_used: self.peak, memory_limit: self.limit, ..MachineSample::default() };
        sample.is_short_of_memory()
    }
}

/// The file in the store: the last run of each cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryTable {
    pub schema: String,
    pub cells: BTreeMap<String, MemoryUse>,
}

/// Maximum number of cells in the table.
const MOST_CELLS: usize = 1000;

impl MemoryTable {
    const SCHEMA: &'static str = "build-agent/cell-memory/v1";

    /// Maximum bytes of the file.
    pub const LARGEST: u64 = 1 << 20;

    /// Parses the file. An invalid one is ignored: the table only decides which machine is tried first.
    pub fn parse(bytes: &[u8]) -> MemoryTable {
        let read: Option<MemoryTable> = serde_json::from_slice(bytes).ok();
        read.filter(|table| table.schema == Self::SCHEMA && table.cells.len() <= MOST_CELLS)
            .unwrap_or_default()
    }

    pub fn render(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Adds the runs of a batch.
    pub fn with<'a>(mut self, runs: impl IntoIterator<Item = (&'a str, MemoryUse)>) -> MemoryTable {
        self.schema = Self::SCHEMA.into();
        for (cell, run) in runs {
            if self.cells.len() < MOST_CELLS || self.cells.contains_key(cell) {
                self.cells.insert(cell.to_owned(), run);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_comes_back_and_a_damaged_one_is_empty() {
        let run = MemoryUse { peak: 3, limit: 4 };
        let table = MemoryTable::default().with([("a", run), ("b", run)]);
        assert_eq!(MemoryTable::parse(table.render().as_bytes()), table);
        for bad in ["", "{}", "[]", r#"{"schema":"x","cells":{}}"#] {
            assert_eq!(MemoryTable::parse(bad.as_bytes()), MemoryTable::default(), "{bad}");
        }
        let names: Vec<String> = (0..MOST_CELLS + 5).map(|number| number.to_string()).collect();
        let many = MemoryTable::default().with(names.iter().map(|name| (name.as_str(), run)));
        assert_eq!(many.cells.len(), MOST_CELLS);
    }
}
