//! Runs of `bitbake -p`: BitBake gets a stored parse cache, and what it leaves is stored.
//!
//! Such a run writes no signature data. So its parse caches are stored apart from those of queries for signatures, which
//! need both.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::bitbake_runner::BitbakeRunner;
use super::inputs::Place;
use super::key::Inputs;
use super::parse_cache::Keeps;
use super::task_query::{InputsOfDir, TaskQueries};
use super::{CacheResult, Invocation, NotCacheable, autorev};

/// Tells these parse caches apart.
const KIND: &str = "what the parse cache holds";

/// A run in the build directory of the place.
#[derive(Clone, Debug)]
pub struct ParseRun {
    pub place: Place,
    pub invocation: Invocation,
}

/// What the parse cache depends on.
#[derive(Clone, Debug)]
pub struct ParseInputs(Inputs);

impl TaskQueries {
    /// Before the run: puts the stored parse cache that fits best into the build directory.
    ///
    /// # Errors
    /// Why neither this run nor its parse cache has anything to do with the stores.
    pub async fn before_parse(
        self: &Arc<Self>,
        run: &ParseRun,
        bitbake: &BitbakeRunner,
    ) -> CacheResult<ParseInputs> {
        let (queries, reading) = (self.clone(), run.clone());
        let read = spawn_blocking(move || queries.inputs_of_parse(&reading)).await;
        let inputs = read.unwrap_or_else(|error| Err(NotCacheable(error.to_string())))?;
        let whole = InputsOfDir { inputs: &inputs, at: &run.place.build, keeps: Keeps::Recipes };
        // Without one BitBake parses everything.
        self.restore(whole, &run.invocation, bitbake).await;
        Ok(ParseInputs(inputs))
    }

    /// After a run that ended well, once BitBake's server is gone: stores its parse cache. Blocks.
    ///
    /// # Errors
    /// Why it is not stored.
    pub fn after_parse(&self, run: &ParseRun, before: &ParseInputs) -> CacheResult<()> {
        let Some(users) = self.users()? else { return Ok(()) };
        autorev::asked_nobody(&run.place.bitbake, &run.place.build)?;
        if self.inputs_of_parse(run)? != before.0 {
            return Err(NotCacheable("an input changed while BitBake ran".into()));
        }
        self.parse_caches().insert_recipes(&before.0, &run.place.build, users)
    }

    fn inputs_of_parse(&self, run: &ParseRun) -> CacheResult<Inputs> {
        let mut inputs = self.inputs_at(&run.place.build, &run.place, &run.invocation)?;
        inputs.add(KIND, b"recipes alone");
        Ok(inputs)
    }
}
