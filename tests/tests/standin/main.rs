//! Whole jobs against stand-in tools: what the agent makes of tools that lie, crash, hang and flood,
//! of signals, of hostile layers. See `tests/stand-ins/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ahead;
mod build_dirs;
mod builds;
mod diagnostics;
mod forgery;
mod hostile;
mod keeping;
mod kills;
mod layer_confs;
mod memo;
mod odd_files;
mod private;
mod readers;
mod remains;
mod repeats;
mod shared_memory;
mod shares;
mod stand_in;
mod stops;
mod timeline;
mod verdicts;
