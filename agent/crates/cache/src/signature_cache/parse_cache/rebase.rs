//! What the build user's Python needs to rebase a parse cache (`rebase_parse_cache.py`).
//!
//! A parse cache is a pickle, which only BitBake's classes can read back. So BitBake's own Python does the work, with the
//! rights of the build user, before BitBake itself reads the same bytes. It gets them from a file without a name: between
//! the check of their digest and their use nobody can exchange them.
//!
//! Exact is: stat data in the cache is replaced only if the [`Record`](super::record::Record) of the cache has the same stat
//! data for that file, and the file has the same content today. So what BitBake wrote down, "made of the file as it was at
//! that time", is true of the file as it is now. All other stat data stays as it is, and BitBake parses again what depends
//! on it.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;

use agent_types::error::Result;

use super::record::Moved;

/// One cache to be rebased.
#[derive(Debug)]
pub struct Rebase {
    /// What the program reads: a table of the files, and the cache.
    pub input: File,
    /// The file that the program creates.
    pub target: PathBuf,
}

/// The input of the program. `unpack` writes the cache and checks its digest.
///
/// # Errors
/// When the cache is damaged, or there is no space.
pub fn input(moved: &[Moved], unpack: impl FnOnce(&mut File) -> Result<()>) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(table(moved).as_bytes())?;
    unpack(&mut file)?;
    file.rewind()?;
    Ok(file)
}

/// The number of lines, and for each file what its stat data was and is.
fn table(moved: &[Moved]) -> String {
    let mut text = format!("{}\n", moved.len());
    for Moved { path, old, new } in moved {
        for stamp in [old, new] {
            let numbers = [stamp.seconds.to_string(), stamp.nanoseconds.to_string(), stamp.size.to_string()];
            text += &format!("{} {} ", numbers.join(" "), stamp.inode);
        }
        text += &format!("{path}\n");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::super::super::tracked::Stamp;
    use super::*;

    #[test]
    fn the_input_is_the_table_and_the_cache() {
        let stamp = |seconds| Stamp { seconds, nanoseconds: 5, size: 1, inode: u64::MAX };
        let moved = [Moved { path: "/l/a b.bb".into(), old: stamp(-1), new: stamp(2) }];
        let mut file = input(&moved, |file| Ok(file.write_all(b"cache")?)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("1\n-1 5 1 {0} 2 5 1 {0} /l/a b.bb\ncache", u64::MAX));
    }
}
