//! Which files of a request make a guest for QEMU: its settings, kernel, and disk or initial file system.

use std::path::{Path, PathBuf};

use crate::board::flash::{self, BadImage};
use crate::board::qemu::conf::{self, GuestFiles, MachineConf};
use crate::request::{DeviceRequest, FileRole};

/// Ends of names of disks and file systems that a guest can start from, the preferred ones first.
const DISKS: [&str; 8] = ["ext4", "ext3", "ext2", "btrfs", "squashfs", "wic", "hddimg", "cpio"];

/// A guest, before packed files are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    pub conf: MachineConf,
    pub files: GuestFiles,
}

/// Chooses the files of the request's image in `directory`. `pattern`: that of lab.toml for the disk.
///
/// # Errors
/// The request has no such files, or its settings cannot be used.
pub fn choose(request: &DeviceRequest, pattern: Option<&str>, directory: &Path) -> Result<Guest, BadImage> {
    let files = request.files.iter().filter(|file| file.role == FileRole::Image);
    let names: Vec<&str> = files.map(|file| file.name.as_str()).collect();
    let of_image: Vec<&str> =
        names.iter().copied().filter(|name| belongs(name, &request.image, &request.machine)).collect();
    let confs = of_image.iter().copied().filter(|name| name.ends_with(".qemuboot.conf"));
    let conf_name = shortest(confs).ok_or_else(|| {
        BadImage(format!(
            "the request has no {}*.qemuboot.conf, which says how QEMU starts the image; add it to [device] files",
            request.image
        ))
    })?;
    let bytes = agent_fs::untrusted::read(&directory.join(conf_name), conf::LARGEST)
        .map_err(|error| BadImage(format!("cannot read {conf_name}: {error}")))?;
    let conf = conf::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|why| BadImage(format!("{conf_name} cannot be used: {why}")))?;
    let disk = match pattern {
        Some(pattern) => flash::select(&request.files, pattern)?.name.as_str(),
        None => disk(&of_image, conf.file_system.as_deref()).ok_or_else(|| {
            BadImage(format!(
                "the request has no disk of {} that QEMU can start from; known are: {}",
                request.image,
                DISKS.join(", ")
            ))
        })?,
    };
    let find = |name: &String| names.contains(&name.as_str()).then(|| directory.join(name));
    let kernel = conf.kernels.iter().find_map(find);
    let has_boot_loader = [".wic", ".hddimg"].iter().any(|end| unpacked(disk).ends_with(end));
    let is_initrd = is_initrd(disk);
    if kernel.is_none() && !has_boot_loader {
        let wanted = conf.kernels.join(" or ");
        return Err(BadImage(format!("the request has no kernel ({wanted}); add it to [device] files")));
    }
    let disk = directory.join(disk);
    let files = GuestFiles {
        kernel: kernel.filter(|_| !has_boot_loader),
        initrd: is_initrd.then(|| disk.clone()),
        dtb: conf.dtb.as_ref().and_then(find),
        disk: (!is_initrd).then_some(disk),
    };
    Ok(Guest { conf, files })
}

/// Whether the kernel unpacks the file itself.
fn is_initrd(name: &str) -> bool {
    unpacked(name).ends_with(".cpio")
}

fn unpacked(name: &str) -> &str {
    flash::packed(name).map_or(name, |(inner, _)| inner)
}

/// Whether the file is one of the image, and not of `IMAGE-dev`: `IMAGE.…`, `IMAGE-MACHINE.…` or `IMAGE-MACHINE-…`.
fn belongs(name: &str, image: &str, machine: &str) -> bool {
    let Some(rest) = name.strip_prefix(image) else { return false };
    let of_machine = rest.strip_prefix('-').and_then(|rest| rest.strip_prefix(machine));
    rest.starts_with('.') || of_machine.is_some_and(|rest| rest.starts_with(['.', '-']))
}

fn disk<'a>(names: &[&'a str], preferred: Option<&str>) -> Option<&'a str> {
    let mut kinds = preferred.into_iter().chain(DISKS);
    kinds.find_map(|kind| {
        let end = format!(".{kind}");
        let fits = |name: &&str| name.ends_with(&end) || unpacked(name).ends_with(&end);
        shortest(names.iter().copied().filter(fits))
    })
}

fn shortest<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.min_by_key(|name| (name.len(), *name))
}

/// The file that has to be unpacked before QEMU can read it.
pub fn packed_disk(files: &GuestFiles) -> Option<&PathBuf> {
    let is_packed = |path: &&PathBuf| flash::packed(&path.to_string_lossy()).is_some();
    files.disk.as_ref().filter(is_packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_one_image() {
        for (name, wanted) in [
            ("core.ext4", true),
            ("core-qemuarm.rootfs.ext4", true),
            ("core-qemuarm-20260101.ext4", true),
            ("core-dev-qemuarm.ext4", false),
            ("core-qemuarm64.ext4", false),
            ("bzImage", false),
        ] {
            assert_eq!(belongs(name, "core", "qemuarm"), wanted, "{name}");
        }
    }

    #[test]
    fn the_disk_is_the_one_that_the_build_prefers() {
        let names = ["core.rootfs.wic", "core.rootfs.ext4", "core.rootfs.ext4.zst"];
        for (names, preferred, wanted) in [
            (&names[..], None, Some("core.rootfs.ext4")),
            (&names[..], Some("wic"), Some("core.rootfs.wic")),
            (&names[2..], None, Some("core.rootfs.ext4.zst")),
            (&["core.cpio.gz"], Some("ext4"), Some("core.cpio.gz")),
            (&["core.cpio.gz", "core.ext4"], Some("cpio.gz"), Some("core.cpio.gz")),
            (&["core.tar.zst"], None, None),
        ] {
            assert_eq!(disk(names, preferred), wanted, "{names:?}");
        }
    }
}
