//! What a change affects, by the signatures of its tasks before and after it.
//!
//! BitBake writes its tasks and their signatures for the base and for the head ([`TaskList`], `bitbake_tasks.py`).
//! [`affected`] compares the two lists. Without them, [`by_files`] uses the files of the change. All functions
//! are pure.

mod by_files;
mod causes;
mod changed_files;
mod difference;
mod merge;
mod sides;
mod task_list;

pub use by_files::{Checkout, by_files, every_recipe, recipes_in};
pub use changed_files::{ChangedFile, FileChange, seen_by_bitbake, with_renames};
pub use difference::affected;
pub use merge::merge;
pub use sides::Sides;
pub use task_list::{Query, TaskList};
