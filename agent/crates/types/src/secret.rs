//! Values that must never be shown.

/// A value that must never leave the agent. `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Where it came from, e.g. `variable GITHUB_TOKEN`.
    pub origin: String,
    pub value: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.origin)
    }
}
