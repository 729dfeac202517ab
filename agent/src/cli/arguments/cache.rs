//! Arguments of `build-agent cache`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::ManifestArgs;

#[derive(Debug, Args)]
pub struct CachePublish {
    /// The share: its mount point or s3://BUCKET/PREFIX
    #[arg(long, value_name = "SHARE")]
    pub share: PathBuf,
    /// Code name of the Yocto release that the shared state belongs to
    #[arg(long, value_name = "RELEASE")]
    pub release: String,
    /// A local SSTATE_DIR
    #[arg(long, value_name = "DIR", required_unless_present = "downloads")]
    pub sstate: Option<PathBuf>,
    /// A local DL_DIR
    #[arg(long, value_name = "DIR")]
    pub downloads: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show what is on the share or in the local caches, its age, and its hit rate
    Stats(ShareArgs),
    /// Publish new objects of local caches to a share
    Publish(CachePublish),
    /// Delete what is unused for a long time, or above a size limit
    Prune(Prune),
    /// Find damaged, misplaced and unreadable files
    Verify(Verify),
}

/// The arguments that select a share or the local caches.
#[derive(Debug, Args)]
pub struct ShareArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// The share: a directory or s3://BUCKET/PREFIX; needs no manifest [default: `[cache] share` of the manifest]
    #[arg(long, value_name = "SHARE")]
    pub share: Option<PathBuf>,
    /// Use the local caches that the jobs of this user share [default: if no share is named]
    #[arg(long, conflicts_with = "share")]
    pub local: bool,
    /// Maximum number of operations in flight
    #[arg(long, value_name = "NUMBER", default_value_t = agent_fs::pool::WIDTH, value_parser = width)]
    pub width: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Prune {
    #[command(flatten)]
    pub share: ShareArgs,
    /// Print what would be deleted; changes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete shared state that was unused for this long [default: from the manifest, or 30d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub sstate_max_age: Option<Duration>,
    /// Delete downloads and local buildtools that were unused for this long [default: from the manifest, or 60d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub downloads_max_age: Option<Duration>,
    /// Delete layer checkouts that were unused for this long
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    pub layers_max_age: Duration,
    /// Delete work directories of jobs that did not run for this long, with the build directories in them, unless
    /// these have sources of devtool; only with local caches [default: none]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub work_max_age: Option<Duration>,
    /// Delete results of jobs that are older
    #[arg(long, value_name = "TIME", default_value = "180d", value_parser = humantime::parse_duration)]
    pub results_max_age: Duration,
    /// Delete the caches of a pull request in which nothing changed for this long
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = humantime::parse_duration)]
    pub pull_requests_max_age: Duration,
    /// Delete the least recently used shared state and downloads above this size, e.g. 500GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Maximum size of the caches of all pull requests together
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub pull_requests_max_size: Option<u64>,
    /// Time in the trash before the files are deleted; 0s deletes at once. In S3 without a trash: nothing is deleted
    /// that was used within this time [default: 24h, and 0s for local caches]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub grace: Option<Duration>,
    /// Stop after this time; the next run continues
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
    /// Prune also objects that running builds may use
    #[arg(long)]
    pub ignore_leases: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub share: ShareArgs,
    /// Read and decompress every archive
    #[arg(long)]
    pub full: bool,
    /// Move damaged and misplaced files to the trash; in S3 delete them
    #[arg(long)]
    pub remove_bad: bool,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time_limit: Option<Duration>,
}

fn width(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(width @ 1..=1024) => Ok(width),
        _ => Err("write a number from 1 to 1024".into()),
    }
}

/// Parses a size in bytes: a number with KiB, MiB, GiB or TiB, or without a unit.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))).unwrap_or((text, 0));
    let plain = number.trim_end();
    let digits = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit());
    let bytes = plain.parse().ok().filter(|_| digits).and_then(|number: u64| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "write a whole number with KiB, MiB, GiB or TiB, such as 500GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_sizes() {
        let good = [("0", 0), ("17", 17), ("1KiB", 1024), ("500 GiB", 500 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "+1", "1.5GiB", "1GB", "5 apples", "99999999999TiB", "1 KiB "] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
