//! Reads a file for publication: in pieces, with its hash, and with a check for changes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::sys::stat::fstat;
use sha2::{Digest, Sha256};

use super::collect::Problem;
use agent_fs::dir::FileMeta;
use agent_objects::parts::Pieces;
use agent_types::words::hexadecimal;

/// An open file of the published tree.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    before: FileMeta,
    hasher: Sha256,
    read: u64,
}

/// Sizes and hash of a file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMeta {
    pub bytes: u64,
    /// Size on the disk; less than `bytes` for a sparse file.
    pub allocated: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl Source {
    pub fn new(path: &Path, file: File, before: FileMeta) -> Source {
        Source { path: path.to_owned(), file, before, hasher: Sha256::new(), read: 0 }
    }

    /// The file's length when it was opened.
    pub fn len(&self) -> u64 {
        self.before.size
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the next piece of up to `most` bytes. A shorter piece is the last; an empty one is the end.
    pub async fn next(self, most: usize) -> Result<(Source, Bytes), Problem> {
        let path = self.path.clone();
        run_blocking(&path, move || self.read(most)).await
    }

    fn read(mut self, most: usize) -> Result<(Source, Bytes), Problem> {
        let mut piece = Vec::with_capacity(most.min(usize::try_from(self.len()).unwrap_or(most)));
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        (&mut self.file)
            .take(most)
            .read_to_end(&mut piece)
            .map_err(|error| Problem::new(&self.path, format!("cannot read it: {error}")))?;
        self.hasher.update(&piece);
        self.read += piece.len() as u64;
        // Checked here, so that a file that keeps growing is not read without end.
        if self.read > self.len() {
            return Err(self.changed());
        }
        Ok((self, piece.into()))
    }

    /// Returns sizes and hash, if the file did not change since it was opened.
    pub fn finish(self) -> Result<SourceMeta, Problem> {
        let after = fstat(&self.file)
            .map_err(|errno| Problem::new(&self.path, format!("cannot stat it: {errno}")))?;
        let stamp = |meta: &FileMeta| (meta.size, meta.modified);
        if self.read != self.len() || stamp(&FileMeta::of(&after)) != stamp(&self.before) {
            return Err(self.changed());
        }
        Ok(SourceMeta {
            bytes: self.read,
            // `st_blocks` counts units of 512 bytes, see stat(2).
            allocated: u64::try_from(after.st_blocks).unwrap_or_default() * 512,
            sha256: hexadecimal(&self.hasher.finalize()),
        })
    }

    fn changed(&self) -> Problem {
        Problem::new(&self.path, "it changed during the publication")
    }
}

impl Pieces for Source {
    type Done = SourceMeta;
    type Error = Problem;

    fn length(&self) -> u64 {
        self.len()
    }

    async fn next(self, most: usize) -> Result<(Source, Bytes), Problem> {
        // The method of the type itself.
        Source::next(self, most).await
    }

    fn finish(self) -> Result<SourceMeta, Problem> {
        Source::finish(self)
    }
}

/// Runs blocking file system work outside the runtime's threads.
pub async fn run_blocking<T: Send + 'static, E: From<Problem> + Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Problem::new(path, error).into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn source(path: &Path) -> Source {
        let file = File::open(path).unwrap();
        let before = FileMeta::of_open(&file).unwrap();
        Source::new(path, file, before)
    }

    #[tokio::test]
    async fn reads_in_pieces_to_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(b"abc").unwrap();
        let (s, first) = source(file.path()).next(2).await.unwrap();
        let (s, second) = s.next(2).await.unwrap();
        let (s, end) = s.next(2).await.unwrap();
        assert_eq!((&first[..], &second[..], &end[..]), (&b"ab"[..], &b"c"[..], &b""[..]));
        let meta = s.finish().unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(meta.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(meta.bytes, 3);
    }

    #[tokio::test]
    async fn rejects_a_file_that_changes() {
        for name in ["grown", "cut", "touched"] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(b"abc").unwrap();
            let opened = source(file.path());
            match name {
                "grown" => file.write_all(b"more").unwrap(),
                "cut" => file.as_file().set_len(1).unwrap(),
                _ => file.as_file().set_modified(std::time::UNIX_EPOCH).unwrap(),
            }
            let problem = match opened.next(100).await {
                Ok((source, _)) => source.finish().unwrap_err(),
                Err(problem) => problem,
            };
            assert!(problem.message.contains("changed"), "{name}: {problem:?}");
        }
    }

    #[tokio::test]
    async fn sparse_file_allocates_less_than_its_length() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let (source, _) = source(file.path()).next(8 << 20).await.unwrap();
        let meta = source.finish().unwrap();
        assert_eq!(meta.bytes, 8 << 20);
        assert!(meta.allocated < meta.bytes, "{meta:?}");
    }
}
