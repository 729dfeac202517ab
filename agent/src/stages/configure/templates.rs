//! The templates of a layer for `local.conf` and `bblayers.conf`.

use std::path::PathBuf;

use crate::config::Settings;
use crate::stages::checkout::Checkout;
use agent_fs::untrusted;
use agent_types::error::{Error, Result};

/// The templates that the manifest names, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates {
    /// Absolute.
    pub directory: PathBuf,
    /// The text of `local.conf.sample`.
    pub local_conf: String,
}

/// Reads the templates; `None`, if the manifest names none.
///
/// # Errors
/// Usage, if they are not there.
pub fn read(settings: &Settings, checkout: &Checkout) -> Result<Option<Templates>> {
    let Some(wanted) = &settings.templateconf else { return Ok(None) };
    let (directory, top) = match &wanted.repo {
        None => (wanted.path.clone(), settings.checkout.clone()),
        Some(name) => {
            let repo = checkout.repos.iter().find(|repo| repo.name == *name);
            let repo = repo.ok_or_else(|| Error::internal(format!("repo {name} is not checked out")))?;
            (repo.path.join(&wanted.path), repo.path.clone())
        }
    };
    let shown = directory.display();
    for file in ["local.conf.sample", "bblayers.conf.sample"] {
        let path = directory.join(file);
        let real = fs_err::canonicalize(&path).map_err(|_| {
            Error::usage(format!("`[config] templateconf`: {shown} has no {file}"))
                .hint("name a directory such as meta-x/conf/templates/default")
        })?;
        if !real.starts_with(fs_err::canonicalize(&top)?) {
            let message = format!(
                "`[config] templateconf`: {} is a link that leads out of its repository",
                path.display()
            );
            return Err(Error::usage(message));
        }
    }
    let sample = directory.join("local.conf.sample");
    let bytes = untrusted::read_named(&sample, untrusted::PAGE)
        .map_err(|error| Error::usage(format!("cannot read {}", sample.display())).because(&error))?;
    let local_conf =
        String::from_utf8(bytes).map_err(|_| Error::usage(format!("{} is not UTF-8", sample.display())))?;
    Ok(Some(Templates { directory, local_conf }))
}
