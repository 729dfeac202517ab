//! The archive with a job's exported tests (`testexport`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agent_fs::access::Credentials;
use agent_process::User;
use agent_yocto::testimage::files::BuildFiles;

/// Limits of an archive, unpacked. The exported tests of an image with its packages have some tens of MiB.
const MOST_BYTES: u64 = 4 << 30;
const MOST_ENTRIES: usize = 200_000;

/// The program of an export.
const PROGRAM: &str = "oe-test";

/// Exported tests, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The directory with `oe-test`.
    pub directory: PathBuf,
    /// The modules with tests, sorted.
    pub modules: Vec<String>,
    /// The image and the machine that the tests were exported for.
    pub image: String,
    pub machine: String,
    /// The manifest of the image's packages.
    pub manifest: String,
}

/// Unpacks an archive (tar, plain or compressed with gzip or zstd) with the rights of the user who runs the tests: what
/// the archive does, the tests could do as well. `into`: an empty directory of that user. It blocks.
///
/// # Errors
/// Why the archive cannot be unpacked.
pub fn unpack(archive: &Path, into: &Path, user: Option<&User>) -> Result<(), String> {
    let file = fs_err::File::open(archive).map_err(|error| error.to_string())?;
    let work = || -> io::Result<()> { extract(decompressed(file)?, into) };
    let done = match user {
        Some(user) => Credentials::of(user.uid, user.gid).act(work),
        None => work(),
    };
    done.map_err(|error| whole_message(&error))
}

/// The error with all of its causes: `tar` names only the file in the first.
fn whole_message(error: &io::Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

fn decompressed(mut file: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut head = [0; 4];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    let whole = io::Cursor::new(head[..filled].to_vec()).chain(file);
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

fn extract(from: impl Read, into: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    let (mut entries, mut bytes) = (0_usize, 0_u64);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let shown = String::from_utf8_lossy(&entry.path_bytes()).escape_debug().to_string();
        let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("`{shown}` {why}"));
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if entries > MOST_ENTRIES || bytes > MOST_BYTES {
            return Err(refused("is one too many: the archive is too large"));
        }
        use tar::EntryType as Kind;
        match entry.header().entry_type() {
            // Files make their directories. Those of an immutable checkout would let nothing in.
            Kind::Directory => continue,
            Kind::Regular | Kind::Continuous | Kind::Symlink | Kind::Link => {}
            _ => return Err(refused("is neither a file nor a directory nor a link")),
        }
        entry.set_preserve_mtime(false);
        if !entry.unpack_in(into)? {
            return Err(refused("leads out of the archive"));
        }
    }
    Ok(())
}

/// Looks at unpacked tests. Their files are layer code's.
///
/// # Errors
/// Why they cannot run.
pub fn inspect(directory: &Path) -> Result<Export, String> {
    let directory = top(directory).ok_or_else(|| format!("the archive has no `{PROGRAM}`"))?;
    let files = BuildFiles::new(&directory);
    let text = |name: &str| {
        files
            .text(&directory.join(name))
            .ok_or_else(|| format!("the exported tests have no readable `{name}`"))
    };
    let facts: serde_json::Value = serde_json::from_str(&text("data/testdata.json")?)
        .map_err(|error| format!("data/testdata.json: {error}"))?;
    let word = |name: &str| {
        let word = facts.get(name).and_then(serde_json::Value::as_str);
        word.map(str::to_owned).ok_or_else(|| format!("data/testdata.json has no {name}"))
    };
    let modules = modules(&directory.join("lib/oeqa/runtime/cases"));
    if modules.is_empty() {
        return Err("the exported tests have no module with tests".into());
    }
    Ok(Export {
        image: word("IMAGE_BASENAME")?,
        machine: word("MACHINE")?,
        manifest: text("data/manifest")?,
        modules,
        directory,
    })
}

/// The directory with the program: the top, or the only directory in it.
fn top(directory: &Path) -> Option<PathBuf> {
    let has_program = |directory: &Path| directory.join(PROGRAM).is_file();
    if has_program(directory) {
        return Some(directory.to_owned());
    }
    let below = fs_err::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = below.filter(|path| !path.is_symlink() && has_program(path)).collect();
    found.pop().filter(|_| found.is_empty())
}

fn modules(cases: &Path) -> Vec<String> {
    let names = fs_err::read_dir(cases).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let module = name.strip_suffix(".py")?;
        // It is a word of a command line. OE-Core loads no other names.
        let is_word =
            module.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
        (is_word && !module.starts_with('_')).then(|| module.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fixtures::attempt::other_user;
    use crate::on_target::user::user_directory;

    fn header(kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header
    }

    /// An archive with these files.
    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut locked = header(tar::EntryType::Directory, 0);
        locked.set_mode(0o555);
        archive.append_data(&mut locked, "lib", &[][..]).unwrap();
        for (path, text) in files {
            let mut header = header(tar::EntryType::Regular, text.len() as u64);
            archive.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    const FACTS: &str = r#"{"IMAGE_BASENAME": "img", "MACHINE": "qemux86-64"}"#;

    fn whole(top: &str) -> Vec<(String, &'static str)> {
        let files = [
            ("oe-test", "#!/bin/sh\n"),
            ("data/testdata.json", FACTS),
            ("data/manifest", "zlib-ptest core2-64 1\n"),
            ("lib/oeqa/runtime/cases/__init__.py", ""),
            ("lib/oeqa/runtime/cases/ssh.py", ""),
            ("lib/oeqa/runtime/cases/ping.py", ""),
            ("lib/oeqa/runtime/cases/--Option.py", ""),
        ];
        files.into_iter().map(|(path, text)| (format!("{top}{path}"), text)).collect()
    }

    #[test]
    fn an_export_is_unpacked_whatever_its_compression() {
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        for top in ["", "core-image-minimal/"] {
            let files = whole(top);
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            let plain = archive(&files);
            for bytes in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
                let place = tempfile::tempdir().unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs_err::set_permissions(place.path(), mode).unwrap();
                let (file, into) = (place.path().join("export"), place.path().join("into"));
                fs_err::write(&file, bytes).unwrap();
                // Root could write into a directory without the right to.
                let user = other_user().flatten();
                user_directory(&into, user.as_ref()).unwrap();
                unpack(&file, &into, user.as_ref()).unwrap();
                let export = inspect(&into).unwrap();
                assert_eq!((export.image.as_str(), export.machine.as_str()), ("img", "qemux86-64"));
                assert_eq!(export.modules, ["ping", "ssh"]);
                assert!(export.manifest.starts_with("zlib-ptest"));
            }
        }
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let unpack_bytes = |bytes: &[u8]| {
            let into = place.path().join("into");
            let _ = std::fs::remove_dir_all(&into);
            user_directory(&into, None).unwrap();
            let file = place.path().join("export");
            fs_err::write(&file, bytes).unwrap();
            unpack(&file, &into, None)
        };
        let named = |name: &[u8], kind: tar::EntryType, link: &str| {
            let mut header = header(kind, 0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if !link.is_empty() {
                header.set_link_name_literal(link).unwrap();
            }
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.extend([0; 1024]);
            bytes
        };
        for bytes in [
            named(b"../outside", tar::EntryType::Regular, ""),
            named(b"pipe", tar::EntryType::Fifo, ""),
            named(b"device", tar::EntryType::Char, ""),
            b"no archive at all, but longer than the magic".to_vec(),
            vec![0x1f, 0x8b, 0, 0, 1, 2, 3],
        ] {
            assert!(
                unpack_bytes(&bytes).is_err(),
                "{}",
                String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
            );
        }
        // A file behind a link that leads out.
        let mut through = named(b"out", tar::EntryType::Symlink, "/tmp");
        through.truncate(512);
        let mut file = header(tar::EntryType::Regular, 0);
        file.set_path("out/build-agent-escaped").unwrap();
        file.set_cksum();
        through.extend(file.as_bytes());
        through.extend([0; 1024]);
        assert!(unpack_bytes(&through).is_err());
        assert!(!Path::new("/tmp/build-agent-escaped").exists());
        // One that says that it is larger than the limit.
        let mut large = header(tar::EntryType::Regular, MOST_BYTES + 1);
        large.set_path("large").unwrap();
        large.set_cksum();
        assert!(unpack_bytes(large.as_bytes()).unwrap_err().contains("too large"));
        assert!(!place.path().join("outside").exists());
    }

    #[test]
    fn an_incomplete_export_says_what_is_missing() {
        for (missing, message) in [
            ("oe-test", "no `oe-test`"),
            ("data/testdata.json", "no readable `data/testdata.json`"),
            ("data/manifest", "no readable `data/manifest`"),
            ("lib/oeqa/runtime/cases/", "no module"),
        ] {
            let files = whole("");
            let files: Vec<(&str, &str)> = files
                .iter()
                .filter(|(path, _)| !path.starts_with(missing))
                .map(|(path, text)| (path.as_str(), *text))
                .collect();
            let place = tempfile::tempdir().unwrap();
            let file = place.path().join("export");
            fs_err::write(&file, archive(&files)).unwrap();
            let into = place.path().join("into");
            user_directory(&into, None).unwrap();
            unpack(&file, &into, None).unwrap();
            let why = inspect(&into).unwrap_err();
            assert!(why.contains(message), "{missing}: {why}");
        }
    }
}
