//! Pipes, sockets and devices in the place of files that BitBake parses, or that yocto-check-layer reads.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use walkdir::WalkDir;

use agent_types::events::Level;
use agent_types::release::Release;

use super::since::{self, since};
use super::{PreflightCase, WHOLE_RUN};

/// Each file that would be opened and never read to its end.
pub fn check(layer: &Path, release: &Release) -> Vec<PreflightCase> {
    let entries = WalkDir::new(layer).sort_by_file_name().into_iter();
    let entries = entries.filter_entry(|entry| entry.file_name() != ".git").flatten();
    let reads_patches = since(release, since::UPSTREAM_STATUS_KNOWN);
    let parsed = |path: &Path| {
        path.extension().is_some_and(|end| {
            ["bb", "bbappend", "bbclass"].iter().any(|known| end == *known) || reads_patches && end == "patch"
        })
    };
    entries
        .filter(|entry| !entry.file_type().is_dir() && parsed(entry.path()))
        .filter_map(|entry| {
            // Through links: one to /dev/zero is as bad.
            let kind = std::fs::metadata(entry.path()).ok()?.file_type();
            let what = match () {
                () if kind.is_fifo() => "a pipe",
                () if kind.is_socket() => "a socket",
                () if kind.is_char_device() || kind.is_block_device() => "a device",
                () => return None,
            };
            let message = format!("`{}` is {what}, not a regular file", entry.file_name().display());
            let case = PreflightCase::new("file-special", WHOLE_RUN, Level::Error, message);
            Some(
                case.at(entry.path()).hint("make it a regular file, or remove it: a check would wait for it"),
            )
        })
        .collect()
}
