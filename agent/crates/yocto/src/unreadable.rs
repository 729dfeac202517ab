//! Files and directories of a layer that cannot be read, whatever is wrong with them: rights, a directory or a pipe
//! in the place of a file, a loop of links, a name that is too long. Whose fault that is depends on whose they are.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use agent_types::error::Error;

/// What could not be read. There is no conversion to [`Error`], so that whoever gets one has to say whose it is.
#[derive(Debug)]
pub struct Unreadable {
    pub path: PathBuf,
    pub error: io::Error,
}

impl Unreadable {
    pub fn new(path: impl Into<PathBuf>, error: io::Error) -> Unreadable {
        Unreadable { path: path.into(), error }
    }

    /// Of a repo of the manifest: the manifest names what cannot be used.
    pub fn of_dependency(&self) -> Error {
        Error::usage(format!(
            "a file of a dependency cannot be read: {}: {}",
            self.path.display(),
            self.reason()
        ))
        .hint("check that its repo in [repos] is complete, and that the agent and the build user may read it")
    }

    /// What is wrong with it, without its path.
    pub fn reason(&self) -> String {
        reason(&self.path, &self.error)
    }
}

/// What is wrong with the path, in a few words that do not repeat it.
pub fn reason(path: &Path, error: &io::Error) -> String {
    let kind = || std::fs::symlink_metadata(path).map(|metadata| metadata.file_type());
    match error.kind() {
        ErrorKind::NotFound if kind().is_ok_and(|kind| kind.is_symlink()) => {
            "it is a link that leads nowhere".into()
        }
        ErrorKind::NotFound => "it is not there".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::IsADirectory => "it is a directory".into(),
        ErrorKind::InvalidInput if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) => {
            "it is a directory".into()
        }
        ErrorKind::InvalidInput => "it is not a regular file".into(),
        ErrorKind::FileTooLarge => "it is too large".into(),
        _ => {
            // The system's own words; fs_err puts the path before them.
            let text = error.to_string();
            text.rsplit_once("`: ").map_or(text.clone(), |(_, words)| words.to_owned())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_reason_names_what_is_wrong_and_not_the_path() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        std::fs::create_dir(at("directory")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("x".repeat(300), at("long")).unwrap();
        std::fs::File::create(at("sparse")).unwrap().set_len(10 << 30).unwrap();
        for (name, wanted) in [
            ("directory", "it is a directory"),
            ("pipe", "it is not a regular file"),
            ("loop", "Too many levels of symbolic links (os error 40)"),
            ("dangling", "it is a link that leads nowhere"),
            ("missing", "it is not there"),
            ("long", "File name too long (os error 36)"),
            ("sparse", "it is too large"),
        ] {
            let error = agent_fs::untrusted::read(&at(name), 8).unwrap_err();
            let unreadable = Unreadable::new(at(name), error);
            assert_eq!(unreadable.reason(), wanted, "{name}");
            let error = unreadable.of_dependency();
            assert_eq!(error.class, agent_types::error::Class::Usage);
            assert!(error.message.contains(&at(name).display().to_string()), "{error}");
        }
    }
}
