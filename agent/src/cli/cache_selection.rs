//! Which caches a command of `build-agent cache` works on: a share, or the local caches that the jobs of a user share.

use std::path::Path;
use std::time::Duration;

use crate::config::{self, AgentEnvironment, CACHE_VARIABLE, ShareLocation, SharedCache};
use agent_cache::areas::TRUSTED;
use agent_objects::Prices;
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};
use agent_types::s3_address::S3Address;
use agent_types::share::Share;

use super::arguments::ShareArgs;
use super::current_dir::current_dir;
use super::job::load;

/// The caches, and the settings of the manifest for them.
pub struct SelectedCaches {
    /// The share; or the local caches, and those of trusted sources if there are any.
    pub shares: Vec<ShareLocation>,
    pub is_local: bool,
    pub sstate_max_age: Option<Duration>,
    pub downloads_max_age: Option<Duration>,
    pub prices: Prices,
}

/// The caches that the command line selects: the named share, else that of the manifest, else the local caches.
///
/// # Errors
/// Usage, if it selects none.
pub async fn find(args: &ShareArgs, environment: &AgentEnvironment) -> Result<SelectedCaches> {
    let named = args.share.as_deref().map(share_at).transpose()?;
    if args.manifest.manifest.is_none() && (named.is_some() || args.local || !has_manifest()?) {
        let selected = match named {
            Some(share) => SelectedCaches::of(vec![share]),
            None => local(args, environment)?,
        };
        return Ok(selected);
    }
    let settings = load(&args.manifest, environment).await?;
    let of_manifest = settings.cache.share.map(|share| match share {
        SharedCache::Directory(shared) => ShareLocation::Directory(shared.share),
        SharedCache::Bucket(shared) => ShareLocation::Bucket(shared.share),
    });
    let selected = match named.or(of_manifest.filter(|_| !args.local)) {
        Some(share) => SelectedCaches::of(vec![share]),
        None => local(args, environment)?,
    };
    Ok(SelectedCaches {
        sstate_max_age: Some(settings.cache.sstate_max_age),
        downloads_max_age: Some(settings.cache.downloads_max_age),
        prices: settings.cache.prices,
        ..selected
    })
}

impl SelectedCaches {
    fn of(shares: Vec<ShareLocation>) -> SelectedCaches {
        SelectedCaches {
            shares,
            is_local: false,
            sstate_max_age: None,
            downloads_max_age: None,
            prices: Prices::default(),
        }
    }
}

/// Whether there is a manifest that the command line need not name.
fn has_manifest() -> Result<bool> {
    let here = current_dir()?;
    Ok([here.as_path(), &config::work_tree(&here)].iter().any(|top| top.join(config::FILE_NAME).exists()))
}

fn local(args: &ShareArgs, environment: &AgentEnvironment) -> Result<SelectedCaches> {
    let work_dir = args.manifest.common.work_dir.as_deref();
    let directory = config::shared_caches(work_dir, environment, &current_dir()?)?.ok_or_else(|| {
        let why = if environment.ci { "in CI, each job has caches of its own" } else { "jobs share no caches" };
        Error::usage(format!("there is no share and there are no local caches: {why}")).hint(format!(
            "name a share with --share or `[cache] share`, or the directory of the local caches with {CACHE_VARIABLE}"
        ))
    })?;
    if !directory.exists() {
        return Err(Error::usage(format!(
            "there are no local caches yet: `{}` does not exist",
            directory.display()
        ))
        .hint("the first job makes them"));
    }
    let trusted = Some(directory.join(TRUSTED)).filter(|trusted| trusted.exists());
    let shares = [directory].into_iter().chain(trusted).map(|at| ShareLocation::Directory(Share::new(at)));
    Ok(SelectedCaches { is_local: true, ..SelectedCaches::of(shares.collect()) })
}

/// The share with this name: `s3://BUCKET/PREFIX`, else a directory.
pub fn share_at(name: &Path) -> Result<ShareLocation> {
    if let Some(address) = name.to_str().filter(|name| name.starts_with("s3://")) {
        return Ok(ShareLocation::Bucket(BucketShare::new(S3Address::parse(address)?)));
    }
    let path = std::path::absolute(name)
        .map_err(|error| Error::usage(format!("`{}` is not a directory", name.display())).because(&error))?;
    Ok(ShareLocation::Directory(Share::new(path)))
}
