//! Records on which branches a commit was seen.

use serde::{Deserialize, Serialize};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::{Entry, staging_entry};

/// Proof that the commit was on this branch of the repository at this URL. Branches normally only grow; after
/// a rewrite, the proof describes the past.
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

/// Maximum number of proofs.
const MOST: usize = 100;

impl Entry {
    /// An unreadable file proves nothing.
    fn proofs(&self) -> Proofs {
        let text = untrusted::read(&self.beside(SUFFIX), untrusted::PAGE).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn is_proven(&self, proof: &BranchMembership) -> bool {
        self.proofs().seen_on.contains(proof)
    }

    /// All proofs as one object; `None`, if there are none.
    pub fn exported_proofs(&self) -> Option<Vec<u8>> {
        let proofs = self.proofs();
        if proofs.seen_on.is_empty() { None } else { serde_json::to_vec(&proofs).ok() }
    }

    /// Adds this proof, if an object of [`Entry::exported_proofs`] has it.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn import_proof(&self, object: &[u8], proof: &BranchMembership) -> Result<()> {
        let known: Proofs = serde_json::from_slice(object).unwrap_or_default();
        if known.seen_on.contains(proof) { self.prove(proof.clone()) } else { Ok(()) }
    }

    /// Adds a proof. If two jobs add one at once, one may get lost and is added again later.
    ///
    /// # Errors
    /// If the store cannot be written.
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
        let new = staging_entry::fresh_path(&self.home(), "proof");
        fs_err::write(&new, text)?;
        Ok(fs_err::rename(&new, self.beside(SUFFIX))?)
    }
}
