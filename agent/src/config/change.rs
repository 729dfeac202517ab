//! What a change is compared with.

use url::Url;

/// What the checkout under test is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ChangeBase {
    Base(BaseOfChange),
    /// It is a change, and nobody names its base: why.
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
    /// What to ask git in the checkout for, best first.
    pub local: Vec<String>,
    /// The repository of the base and the branch in it.
    pub remote: Option<(Url, String)>,
    /// The base itself, if it is known. Otherwise it is the commit in which the change left the branch.
    pub commit: Option<String>,
}
