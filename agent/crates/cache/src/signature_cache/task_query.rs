//! Queries for the tasks of a world and their signatures, at the base and at the head of a change: found in the stores by
//! what BitBake can see ([`seen`]), or answered by BitBake, which gets a stored parse cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use agent_process::{ExitReason, Interrupt};
use agent_types::events::Recipes;

use super::bitbake_runner::{BitbakeRunner, ScratchBuildDir};
use super::bucket_store::Published;
use super::cache::put_rebased;
use super::inputs::{self, Place};
use super::key::{Inputs, Key};
use super::parse_cache::{self, Keeps, ParseCaches, Restored, Unpacking, Users};
use super::protocol::Answer;
use super::stat_cache::StatCache;
use super::stores::Stores;
use super::{CacheResult, Invocation, NotCacheable, autorev, difference, seen};

/// One side of a change on one machine.
#[derive(Clone, Debug)]
pub struct Side {
    pub place: Place,
    /// The build directory. BitBake sees it at the path of the place's.
    pub at: PathBuf,
    pub invocation: Invocation,
    /// The top of the work tree under test as BitBake sees it, and where it lies.
    pub top: (PathBuf, PathBuf),
    /// What is asked, in the words of the file of the query.
    pub query: Vec<u8>,
    /// For people.
    pub name: String,
}

/// What the answer depends on.
#[derive(Clone, Debug)]
pub struct SideInputs {
    whole: Inputs,
    seen: Inputs,
}

impl SideInputs {
    /// Names the answer.
    pub fn key(&self) -> Key {
        self.seen.key()
    }
}

/// What BitBake gave.
#[derive(Clone, Debug)]
pub struct TaskRun {
    /// The task list.
    pub tasks: Vec<u8>,
    pub recipes: Option<Recipes>,
    /// Why it is not stored.
    pub not_stored: Option<NotCacheable>,
}

/// The inputs of a BitBake in a build directory, and what it keeps of a parse cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputsOfDir<'a> {
    pub inputs: &'a Inputs,
    pub at: &'a Path,
    pub keeps: Keeps,
}

/// The stored answers and parse caches of one job.
#[derive(Debug)]
pub struct TaskQueries {
    stores: Stores,
    parse_caches: ParseCaches,
    /// Whether BitBake's parse caches are stored for later jobs.
    store_parse_caches: bool,
    /// Why nothing may be stored.
    not_alone: Option<NotCacheable>,
    stat_cache_file: PathBuf,
    stat_cache: StatCache,
}

impl TaskQueries {
    /// `own_parse_caches` is a directory of the agent alone.
    pub fn open(
        place: &Place,
        stores: Stores,
        (stat_cache_file, own_parse_caches): (PathBuf, PathBuf),
        store_parse_caches: bool,
        not_alone: Option<NotCacheable>,
    ) -> TaskQueries {
        TaskQueries {
            parse_caches: stores.parse_caches(own_parse_caches, &place.user),
            stat_cache: StatCache::load(&stat_cache_file),
            stores,
            store_parse_caches,
            not_alone,
            stat_cache_file,
        }
    }

    /// Everything that the answer for this side depends on. Blocks.
    ///
    /// # Errors
    /// Why no answer can be stored or found.
    pub fn inputs(&self, side: &Side) -> CacheResult<SideInputs> {
        let whole = self.inputs_at(&side.at, &side.place, &side.invocation)?;
        let (seen_at, directory) = (&side.top.0, &side.top.1);
        let mut seen = seen::seen(&whole, (seen_at, directory))?;
        seen.add("the query for tasks", &side.query);
        Ok(SideInputs { whole, seen })
    }

    /// The stored task list. Blocks.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, side: &Side, inputs: &SideInputs) -> Result<Vec<u8>, String> {
        match self.stores.find(&inputs.key()) {
            Ok(Some(found)) => Ok(found.answer.signatures),
            Ok(None) => Err(self
                .stores
                .why_not(&inputs.seen, &side.name)
                .unwrap_or_else(|| "no answer for these layers is stored yet".into())),
            Err(why) => Err(why),
        }
    }

    /// Lets BitBake answer, in the scratch directory or in the build directory itself, and stores the answer if it would
    /// be the same again. Without inputs nothing is stored.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask(
        self: &Arc<Self>,
        side: &Side,
        inputs: Option<&SideInputs>,
        scratch_dir: Option<&ScratchBuildDir>,
        bitbake: &BitbakeRunner,
        stop: &Interrupt,
    ) -> CacheResult<TaskRun> {
        if let Some(inputs) = inputs {
            // Without it BitBake parses everything.
            let whole =
                InputsOfDir { inputs: &inputs.whole, at: &side.at, keeps: Keeps::RecipesAndSignatures };
            self.restore(whole, &side.invocation, bitbake).await;
        }
        let ran = bitbake.ask(&side.invocation, &side.name, scratch_dir, stop).await?;
        let recipes = parse_cache::count(&ran.outcome);
        let Some(tasks) = ran.outcome.signatures.clone().filter(|tasks| !tasks.is_empty()) else {
            let output = String::from_utf8_lossy(&ran.outcome.stdout);
            return Err(NotCacheable(why_nothing(&output, ran.outcome.end)));
        };
        let not_stored = match inputs {
            None => Some(NotCacheable("its inputs are not known".into())),
            Some(inputs) => {
                let answer = Answer { stdout: Vec::new(), stderr: Vec::new(), signatures: tasks.clone() };
                let (queries, side, inputs) = (self.clone(), side.clone(), inputs.clone());
                let (seconds, end) = (ran.seconds, ran.outcome.end);
                let insert = spawn_blocking(move || queries.insert(&side, &inputs, answer, seconds, end));
                insert.await.unwrap_or_else(|error| Err(NotCacheable(error.to_string()))).err()
            }
        };
        Ok(TaskRun { tasks, recipes, not_stored })
    }

    /// Gives BitBake what was parsed before.
    pub(super) async fn restore(
        &self,
        of: InputsOfDir<'_>,
        invocation: &Invocation,
        bitbake: &BitbakeRunner,
    ) -> Restored {
        let (caches, inputs, at) = (self.parse_caches.clone(), of.inputs.clone(), of.at.to_owned());
        let keeps = of.keeps;
        let unpacking = spawn_blocking(move || caches.unpack(&inputs, &at, keeps));
        match unpacking.await {
            Ok(Unpacking::Done(restored)) => restored,
            Ok(Unpacking::Unpacked(unpacked)) => put_rebased(unpacked, invocation, of.at, bitbake).await,
            Err(error) => Restored::Refused(NotCacheable(error.to_string())),
        }
    }

    /// Everything that a BitBake depends on that finds the directory `at` in the place of the build directory. Blocks.
    pub(super) fn inputs_at(&self, at: &Path, place: &Place, invocation: &Invocation) -> CacheResult<Inputs> {
        inputs::collect_at(at, place, invocation, &self.stat_cache)
    }

    pub(super) fn parse_caches(&self) -> &ParseCaches {
        &self.parse_caches
    }

    /// Who may use the parse caches that are stored; `None`: no job may.
    ///
    /// # Errors
    /// Why nothing may be stored.
    pub(super) fn users(&self) -> CacheResult<Option<Users>> {
        if let Some(reason) = &self.not_alone {
            return Err(reason.clone());
        }
        let users = Users { later_jobs: self.store_parse_caches, reruns: false };
        Ok(Some(users).filter(|users| users.is_any()))
    }

    fn insert(
        &self,
        side: &Side,
        inputs: &SideInputs,
        answer: Answer,
        seconds: f64,
        end: ExitReason,
    ) -> CacheResult<()> {
        let users = self.users()?;
        autorev::asked_nobody(&side.place.bitbake, &side.at)?;
        let after = self.inputs_at(&side.at, &side.place, &side.invocation)?;
        if after.key() != inputs.whole.key() {
            let what = difference::in_words(&after, inputs.whole.parts(), inputs.whole.listings());
            return Err(NotCacheable(format!("an input changed while BitBake ran: {what}")));
        }
        let inserted = self.stores.insert(&inputs.seen, &side.name, &answer, seconds);
        inserted.map_err(|error| NotCacheable(error.message))?;
        // BitBake wrote the tasks, so it parsed everything. With -k, it ends with 1 if nothing provides a dependency of some
        // recipe; in a layer whose native variants lack dependencies that is always so.
        if let Some(users) = users
            && matches!(end, ExitReason::Exited(0 | 1))
            && after == inputs.whole
        {
            self.parse_caches.insert(&inputs.whole, &side.place.bitbake, &side.at, users)?;
        }
        Ok(())
    }

    /// Publishes in a bucket what this job stored.
    pub async fn publish(&self) -> Published {
        self.stores.publish().await
    }

    /// Stores the digests of the files that were read. Blocks.
    pub fn close(&self) {
        if self.stat_cache.is_used() {
            let beside = self.stat_cache_file.with_extension("new");
            // Without them the next job reads all files again.
            let _ = fs_err::write(&beside, self.stat_cache.encode())
                .and_then(|()| fs_err::rename(&beside, &self.stat_cache_file));
        }
    }
}

/// BitBake's own words, where it has some.
fn why_nothing(output: &str, end: ExitReason) -> String {
    let error = output.lines().find(|line| line.starts_with("ERROR:"));
    let words = error.map(|line| line.trim_start_matches("ERROR:").trim());
    format!(
        "BitBake gave no tasks ({end}): {}",
        words.or(output.lines().last()).unwrap_or("it printed nothing")
    )
}

/// Where an answer lies in a build directory until the agent has read it.
pub const ANSWER: &str = "affected-tasks.jsonl";
