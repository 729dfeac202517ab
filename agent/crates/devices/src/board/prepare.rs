//! Makes ready what is written to a device, before the device is touched: chooses and unpacks the image.

use std::path::{Path, PathBuf};

use agent_process::build_user;
use agent_types::error::{Error, Result};

use crate::board::Board;
use crate::board::flash::{self, NoImage};
use crate::board::labgrid::LabgridBoard;
use crate::board::qemu::QemuBoard;
use crate::board::qemu::files;
use crate::board::ssh::SshBoard;
use crate::lab::{Control, Device, Lab};
use crate::provider::Attempt;
use crate::request::RequestTrust;

/// What is written to the device, and what controls it.
pub struct Prepared {
    pub board: Box<dyn Board>,
    /// `None`: nothing has to be written.
    pub image: Option<PathBuf>,
    /// Whether the device runs the image of the request.
    pub is_written: bool,
}

/// Chooses and unpacks the image.
///
/// # Errors
/// The request has none that fits, or it is damaged; or the lab host could not do its part.
pub async fn prepare(attempt: &Attempt<'_>) -> Result<Prepared, NoImage> {
    let Attempt { lab, device, request, files, work, .. } = *attempt;
    if let Control::Qemu(settings) = &device.control {
        let guest = files::choose(request, device.image.as_deref(), files)?;
        let image = match files::packed_disk(&guest.files) {
            Some(packed) => Some(unpack(attempt, packed).await?),
            None => None,
        };
        let user = build_user(lab.build_user.as_deref(), work)?;
        let isolated = request.trust == RequestTrust::Untrusted;
        let board = Box::new(QemuBoard::new(guest, settings.memory, isolated, user, work));
        return Ok(Prepared { board, image, is_written: true });
    }
    let image = match &device.image {
        Some(pattern) => {
            let file = flash::select(&request.files, pattern)?;
            Some(unpack(attempt, &files.join(&file.name)).await?)
        }
        None => None,
    };
    let is_written = image.is_some();
    Ok(Prepared { board: board(lab, device, work)?, image, is_written })
}

/// Unpacks a file of the request. A block map of the unpacked image then lies beside it.
async fn unpack(attempt: &Attempt<'_>, file: &Path) -> Result<PathBuf, NoImage> {
    let Attempt { lab, files, work, runner, .. } = *attempt;
    let image = flash::unpack(file, work, lab.limits.flash, runner).await?;
    let mut map = image.as_os_str().to_owned();
    map.push(".bmap");
    let map = PathBuf::from(map);
    let published = map.file_name().map(|name| files.join(name));
    if let Some(published) = published.filter(|published| *published != map && published.is_file()) {
        fs_err::copy(published, map).map_err(Error::from)?;
    }
    Ok(image)
}

/// What controls a device that is not a guest.
///
/// # Errors
/// It is one, or the server of LAVA controls it.
pub fn board(lab: &Lab, device: &Device, work: &Path) -> Result<Box<dyn Board>> {
    let flash = lab.limits.flash;
    match &device.control {
        Control::Labgrid(settings) => Ok(Box::new(LabgridBoard::new(settings, &device.name, work, flash))),
        Control::Ssh(settings) => Ok(Box::new(SshBoard::new(settings, work, flash))),
        Control::Qemu(_) | Control::Lava(_) => {
            Err(Error::internal(format!("{} is not a board", device.name)))
        }
    }
}
