//! Whether an entry of a layer store may be used: who could have written it decides how much of it has
//! to prove itself.

use agent_cache::layers::{self, Damage, Entry, OwnershipCheck, Witness};
use agent_process::User;

/// Whether an entry of the share may be used as it is; else why not. Reading all of it would cost what
/// the store saves, so that owners and the top of `.git` decide.
pub fn usable_on_share(entry: &Entry, layer_user: Option<&User>) -> Result<bool, String> {
    if !entry.is_there().map_err(|error| error.message)? {
        return Ok(false);
    }
    let looked = entry.look().map_err(|damage| damage.to_string());
    match layers::check_ownership(entry, layer_user).map_err(|error| error.to_string())? {
        OwnershipCheck::Kept => looked.map(|()| true),
        // Everything on such a share belongs to the one user that there is.
        OwnershipCheck::Open { .. } if layer_user.is_none() => {
            layers::verify(&entry.directory(), Witness::CommitAlone)
                .map(|()| true)
                .map_err(|damage| damage.to_string())
        }
        OwnershipCheck::Open { why } => Err(why),
    }
}

/// Whether an entry of this machine may be used.
pub fn usable_here(entry: &Entry, layer_user: Option<&User>) -> Result<(), Damage> {
    let witness = match layers::check_ownership(entry, layer_user) {
        Ok(OwnershipCheck::Kept) => Witness::CommitAndRecord,
        Ok(OwnershipCheck::Open { .. }) if layer_user.is_none() => Witness::CommitAlone,
        // Whoever could write it could do so while it is being read.
        Ok(OwnershipCheck::Open { why }) => return Err(Damage::new(why)),
        Err(error) => return Err(Damage::new(error.to_string())),
    };
    layers::verify(&entry.directory(), witness)
}
