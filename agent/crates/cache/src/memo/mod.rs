//! The fast layer check: answers that BitBake already gave to exactly the same question.
//!
//! yocto-check-layer asks BitBake for the signatures of the whole world several times. For one run of
//! it the agent stands before `bitbake` on the PATH ([`Front`], [`stand_in`]). The stand-in sends a
//! question that it recognises ([`Question`]) to the agent's desk ([`Desk`]), which reads every input
//! from disk ([`inputs`]), makes a key of them ([`Inputs`]) and answers from the [`Store`], or starts the
//! real BitBake ([`Ahead`]), gives what it gave, and keeps that if nobody can have forged it ([`Admission`]).
//!
//! At some questions it is known which ones come next. Those are asked ahead ([`foresee`], [`schedule`],
//! [`ahead`]), and answered from the store when they come.
//!
//! A wrong answer would be a wrong verdict. So whatever is not understood is not reused, and says why:
//! a [`Refusal`] is no error, the real BitBake runs. What comes over the socket is only a question, never an answer;
//! layer code may ask as well, and learns nothing that it could not compute.

mod admission;
mod ahead;
mod desk;
mod difference;
mod floating;
mod foresee;
mod front;
mod git_state;
mod home;
mod host;
mod inputs;
mod keep;
mod key;
mod layers;
mod ledger;
mod outside;
mod parses;
mod progress;
mod question;
mod quick;
mod schedule;
pub mod stand_in;
mod stat_cache;
mod store;
mod tree;
mod wire;

pub use admission::{Admission, WrittenConf, runs_code};
pub use ahead::Ahead;
pub use desk::{Course, Desk};
pub use foresee::Script;
pub use front::Front;
pub use inputs::{Place, trees_of};
pub use key::Digest;
pub use key::{Inputs, Key};
pub use ledger::{Again, Given};
pub use question::{Asked, Question};
pub use quick::{Sigdata, path_of_bitbake};
pub use stat_cache::StatCache;
pub use store::{Store, Stores, make_private};

/// Why answers are not reused or not kept, as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// A result that a refusal cuts short.
pub type Accepted<T> = std::result::Result<T, Refusal>;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<nix::errno::Errno> for Refusal {
    fn from(errno: nix::errno::Errno) -> Refusal {
        std::io::Error::from(errno).into()
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        Refusal(error.to_string())
    }
}
