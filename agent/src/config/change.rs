//! What a change is compared with.

use url::Url;

/// Why [`ChangeBase::Unknown`], if it is a pull request or another change.
pub const NO_BASE: &str = "neither the build service nor --base names the base of this change";

/// What the checkout under test is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ChangeBase {
    Base(BaseOfChange),
    /// It is a change without a known base, with the reason.
    Unknown(String),
    /// The commit before the one that is checked out; of a checkout with uncommitted changes that one itself.
    #[default]
    Previous,
}

/// The base of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseOfChange {
    /// For people.
    pub name: String,
    /// Revisions to look up in the checkout, best first.
    pub local: Vec<String>,
    /// The repository of the base and the branch in it.
    pub remote: Option<(Url, String)>,
    /// The base itself, if it is known. Otherwise it is the commit in which the change left the branch.
    pub commit: Option<String>,
}
