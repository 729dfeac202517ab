//! The file of a request that is written to a device: which one it is, and unpacking it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::Glob;

use agent_process::{Command, ExitReason, Runner};
use agent_types::error::{Error, Result};
use agent_yocto::environment::HOST_PATH;

use crate::request::{FileRole, RequestFile};

/// An unpacked image must not be larger. A small archive could fill any disk.
const LARGEST: u64 = 64 << 30;

/// The programs that unpack images, by the ends of names.
const PROGRAMS: [(&str, &str); 5] =
    [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz"), (".zst", "zstd"), (".lzma", "xz")];

/// `$1` the program, `$2` the archive, `$3` most bytes, `$4` the image. What would be zeros becomes a hole.
const UNPACK: &str = "set -o pipefail; \
    \"$1\" -dc -- \"$2\" | head -c \"$3\" | dd of=\"$4\" bs=1M iflag=fullblock conv=sparse status=none";

/// A file that cannot be written to the device, because of what was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage(pub String);

/// Why there is no image to write.
#[derive(Debug)]
pub enum NoImage {
    Bad(BadImage),
    /// The lab host could not do its part.
    Host(Error),
}

impl From<BadImage> for NoImage {
    fn from(bad: BadImage) -> NoImage {
        NoImage::Bad(bad)
    }
}

impl From<Error> for NoImage {
    fn from(error: Error) -> NoImage {
        NoImage::Host(error)
    }
}

/// The file whose name matches the glob.
///
/// # Errors
/// When none matches, or several.
pub fn select<'a>(files: &'a [RequestFile], pattern: &str) -> Result<&'a RequestFile, BadImage> {
    let images: Vec<&RequestFile> = files.iter().filter(|file| file.role == FileRole::Image).collect();
    let glob = Glob::new(pattern).map_err(|error| BadImage(error.to_string()))?.compile_matcher();
    let matching: Vec<&RequestFile> =
        images.iter().copied().filter(|file| glob.is_match(&file.name)).collect();
    let names = |files: &[&RequestFile]| {
        let names: Vec<&str> = files.iter().take(20).map(|file| file.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    match matching.as_slice() {
        [only] => Ok(only),
        [] => Err(BadImage(format!(
            "no file of the request matches `{pattern}`, which the lab writes to the device; its files: {}",
            names(&images)
        ))),
        several => Err(BadImage(format!(
            "several files of the request match `{pattern}`, and the lab writes one: {}",
            names(several)
        ))),
    }
}

/// The name without the end that says how it is packed, and the program that unpacks it.
pub fn packed(name: &str) -> Option<(&str, &'static str)> {
    PROGRAMS.into_iter().find_map(|(end, program)| Some((name.strip_suffix(end)?, program)))
}

/// The image itself: `file`, or what is packed in it, which goes to the directory `image` below `work`.
///
/// # Errors
/// The file is damaged or too large; or this machine has no such program, or no space.
pub async fn unpack(file: &Path, work: &Path, limit: Duration, runner: &Runner) -> Result<PathBuf, NoImage> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((inner, program)) = packed(&name) else { return Ok(file.to_owned()) };
    let directory = work.join("image");
    fs_err::create_dir_all(&directory).map_err(Error::from)?;
    let image = directory.join(inner);
    let mut command = Command::new("bash", &directory, "unpack-image")
        .args(["-c", UNPACK, "bash", program])
        .arg(file)
        .arg((LARGEST + 1).to_string())
        .arg(&image)
        .status(format!("{program} unpacks {name}"));
    command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8");
    command.timeout = Some(limit);
    command.stall = Some(limit);
    let ended = runner.run(command, &mut ()).await?;
    let said = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
    let bytes = fs_err::metadata(&image).map(|image| image.len()).unwrap_or(0);
    match ended.end {
        _ if bytes > LARGEST => {
            Err(BadImage(format!("{name} is larger than {} GiB when it is unpacked", LARGEST >> 30)).into())
        }
        ExitReason::Exited(0) => Ok(image),
        ExitReason::Exited(127) => {
            Err(Error::machine(format!("{program} is not there, and {name} needs it"))
                .hint(format!("install the package of {program} on the lab host"))
                .into())
        }
        ExitReason::Exited(_) if said.contains("No space left") => {
            Err(Error::machine(format!("cannot unpack {name}{said}")).into())
        }
        ExitReason::Exited(_) => Err(BadImage(format!("{name} cannot be unpacked{said}")).into()),
        other => Err(Error::machine(format!("{program} {name}: {other}")).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(name: &str) -> RequestFile {
        RequestFile { role: FileRole::Image, name: name.into(), bytes: 1, sha256: String::new() }
    }

    #[test]
    fn one_file_matches() {
        let files = ["bzImage", "core.ext4", "core.wic.bz2", "core.wic.bmap"].map(file);
        for (pattern, wanted) in [
            ("*.wic.bz2", Ok("core.wic.bz2")),
            ("core.ext?", Ok("core.ext4")),
            ("bz*", Ok("bzImage")),
            ("*.wic", Err("no file of the request matches `*.wic`")),
            ("core.*", Err("several files of the request match `core.*`")),
            ("", Err("no file")),
        ] {
            match (select(&files, pattern), wanted) {
                (Ok(file), Ok(name)) => assert_eq!(file.name, name),
                (Err(BadImage(why)), Err(part)) => assert!(why.contains(part), "{why}"),
                (other, _) => panic!("{pattern}: {other:?}"),
            }
        }
        let export = RequestFile { role: FileRole::TestExport, ..file("core.wic.bz2") };
        assert!(select(&[export], "*").is_err(), "exported tests are never written to a device");
    }

    #[test]
    fn names_say_how_they_are_packed() {
        for (name, wanted) in [
            ("a.wic.gz", Some(("a.wic", "gzip"))),
            ("a.wic.bz2", Some(("a.wic", "bzip2"))),
            ("a.ext4.xz", Some(("a.ext4", "xz"))),
            ("a.ext4.zst", Some(("a.ext4", "zstd"))),
            ("a.ext4", None),
        ] {
            assert_eq!(packed(name), wanted);
        }
    }
}
