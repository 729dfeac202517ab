/// Why an answer is not used from the cache, or not stored there, as a sentence for people. No error: the real BitBake
/// answers then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCacheable(pub String);

/// A result that a [`NotCacheable`] cuts short.
pub type CacheResult<T> = std::result::Result<T, NotCacheable>;

impl std::fmt::Display for NotCacheable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<nix::errno::Errno> for NotCacheable {
    fn from(errno: nix::errno::Errno) -> NotCacheable {
        std::io::Error::from(errno).into()
    }
}

impl From<std::io::Error> for NotCacheable {
    fn from(error: std::io::Error) -> NotCacheable {
        NotCacheable(error.to_string())
    }
}
