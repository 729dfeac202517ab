//! On which branches a commit is known to lie.

use serde::{Deserialize, Serialize};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::{Entry, part};

/// Somebody has seen the commit on this branch of the repository at this address. Branches only grow
/// in a repository that is well kept; where one was rewritten, the proof tells what was true once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchMembership {
    /// Without credentials.
    pub url: String,
    pub branch: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Proofs {
    seen_on: Vec<BranchMembership>,
}

const SUFFIX: &str = ".json";

/// More are of no use.
const MOST: usize = 100;

impl Entry {
    /// What cannot be read proves nothing.
    fn proofs(&self) -> Proofs {
        let text = untrusted::read(&self.beside(SUFFIX), untrusted::PAGE).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn is_proven(&self, proof: &BranchMembership) -> bool {
        self.proofs().seen_on.contains(proof)
    }

    /// Adds a proof. Of two jobs that add at once, one may win; the other's is made again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn prove(&self, proof: BranchMembership) -> Result<()> {
        let mut proofs = self.proofs();
        if proofs.seen_on.contains(&proof) {
            return Ok(());
        }
        proofs.seen_on.insert(0, proof);
        proofs.seen_on.truncate(MOST);
        let text = serde_json::to_vec_pretty(&proofs).map_err(|error| {
            Error::internal("cannot write the proofs of a stored checkout").because(&error)
        })?;
        let new = part::fresh_path(&self.home(), "proof");
        fs_err::write(&new, text)?;
        Ok(fs_err::rename(&new, self.beside(SUFFIX))?)
    }
}
