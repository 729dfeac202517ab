//! Whole jobs with stand-in tools: tools that lie, crash, hang and flood the output, signals, and hostile layers. See
//! `tests/stand-ins/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bitbake_shim;
mod build_causes;
mod build_dirs;
mod builds;
mod changed;
mod changed_builds;
mod checks;
mod comparison;
mod diagnostics;
mod forgery;
mod github;
mod github_posts;
mod hooks;
mod hostile;
mod kills;
mod layer_confs;
mod leftovers;
mod metrics;
mod odd_files;
mod prefetch;
mod private_files;
mod ptest_suite;
mod readers;
mod reruns;
mod retries;
mod share_publish;
mod shared_memory;
mod shares;
mod signature_cache;
mod stops;
mod test_stage;
mod timeline;
mod verdicts;
