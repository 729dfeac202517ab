//! One repo's checkout: out of a store where it is there, else made for the stores.

use std::path::PathBuf;
use std::sync::Mutex;

use crate::config::{GitSource, Wanted};
use agent_cache::layers::{
    self, BranchMembership, Content, Entry, LayerStore, Listed, OwnershipCheck, Record, RepoName,
    StagingEntry, Witness,
};
use agent_git::{Access, Git, Seed};
use agent_process::{Runner, User};
use agent_types::error::{Class, Error, Result};
use agent_types::share::Share;
use agent_types::tiers::{Tier, TierKind};
use agent_types::traffic::Traffic;
use agent_yocto::path_rules;

use super::super::share::OpenShare;
use super::blocking::blocking;
use super::bucket::BucketLayers;
use super::usable::{usable_here, usable_on_share};

/// Where checkouts are kept, and what this job may do there.
pub struct Stores {
    /// The share's, where the job may read it.
    shared: Option<LayerStore>,
    /// Whether the job may add to it.
    adds: bool,
    /// Likewise of a share in a bucket.
    bucket: Option<BucketLayers>,
    local: LayerStore,
    /// Runs layer code; `None`: the agent's own user does.
    layer_user: Option<User>,
    /// What was done on the share.
    traffic: Mutex<Traffic>,
}

/// How a checkout came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made now.
    Cloned,
    /// It lay in a store.
    Stored,
}

impl Origin {
    pub const fn word(self) -> &'static str {
        match self {
            Origin::Cloned => "cloned",
            Origin::Stored => "stored",
        }
    }
}

/// A checkout that lies ready.
#[derive(Clone, Debug)]
pub struct ResolvedRepo {
    pub entry: Entry,
    pub how: Origin,
    /// In the share's store, not in this machine's.
    pub is_shared: bool,
}

/// A repo that is wanted.
struct FetchRequest<'a> {
    stores: &'a Stores,
    runner: &'a Runner,
    access: &'a Access,
    name: &'a str,
    source: &'a GitSource,
    repo: RepoName,
}

impl Stores {
    /// Only the tier that trusted builds wrote counts: a pull request's own part holds no checkouts.
    ///
    /// # Errors
    /// When there is no place for the local store; usage when the share is a link to where OE-Core cannot lie.
    pub fn new(local: PathBuf, share: &OpenShare, layer_user: Option<User>) -> Result<Stores> {
        let tiers = &share.tiers;
        fs_err::create_dir_all(&local)?;
        // Git and BitBake resolve links, and a file's path has to be one and the same.
        let real = |tier: &Tier| fs_err::canonicalize(tier.share.root()).ok();
        let shared = tiers.read.iter().find(|tier| tier.kind == TierKind::Shared);
        let shared = shared.and_then(real);
        if let Some(root) = &shared {
            // OE-Core's checkout may be used there.
            path_rules::usable_core(&Share::new(root.clone()).layers())?;
        }
        Ok(Stores {
            shared: shared.map(|root| LayerStore::new(Share::new(root).layers())),
            adds: tiers.write.as_ref().is_some_and(|tier| tier.kind == TierKind::Shared),
            bucket: BucketLayers::of(&share.bucket),
            local: LayerStore::new(fs_err::canonicalize(local)?),
            layer_user,
            traffic: Mutex::default(),
        })
    }

    /// What was done on the share.
    pub fn into_traffic(self) -> Traffic {
        self.traffic.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn local(&self) -> &LayerStore {
        &self.local
    }

    fn count(&self, traffic: Traffic) {
        *self.traffic.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += traffic;
    }

    /// A checkout of the wanted commit.
    ///
    /// # Errors
    /// Upstream when a server has to be asked and cannot be reached; usage when it does not have what
    /// is wanted; machine for the disk and permissions; cancelled and out of time.
    pub async fn obtain(
        &self,
        runner: &Runner,
        access: &Access,
        name: &str,
        source: &GitSource,
    ) -> Result<ResolvedRepo> {
        let repo = RepoName::of(&source.url);
        let order = FetchRequest { stores: self, runner, access, name, source, repo };
        let commit = order.commit().await?;
        if let Some(found) = order.find(&commit).await? {
            return Ok(found);
        }
        let entry = order.make().await?;
        Ok(ResolvedRepo { entry, how: Origin::Cloned, is_shared: false })
    }
}

impl FetchRequest<'_> {
    fn git(&self, safe: &[PathBuf]) -> Result<Git<'_>> {
        Git::new(self.runner, self.access, self.name, Some(&self.source.url), safe)
    }

    /// The commit that is wanted now.
    async fn commit(&self) -> Result<String> {
        match agent_git::pinned(self.name, self.source)? {
            Some(commit) => Ok(commit),
            None => {
                let (git, cwd) = (self.git(&[])?, self.stores.local.root());
                agent_git::resolve(&git, self.name, &self.source.url, &self.source.wanted, cwd).await
            }
        }
    }

    /// The branch or the tag that the commit has to lie on, if that has to be known.
    fn asked_proof(&self) -> Option<BranchMembership> {
        match &self.source.wanted {
            Wanted::CommitOnBranch { branch, .. } => Some(self.proof(branch)),
            Wanted::CommitOfTag { tag, .. } => Some(self.proof(&format!("refs/tags/{tag}"))),
            _ => None,
        }
    }

    /// What a fetch has shown.
    fn shown_proof(&self) -> Option<BranchMembership> {
        match &self.source.wanted {
            Wanted::Branch(branch) if self.source.locked.is_none() => Some(self.proof(branch)),
            _ => self.asked_proof(),
        }
    }

    fn proof(&self, branch: &str) -> BranchMembership {
        BranchMembership { url: agent_git::display_url(&self.source.url), branch: branch.to_owned() }
    }

    async fn find(&self, commit: &str) -> Result<Option<ResolvedRepo>> {
        let entry = match self.in_stores(commit).await? {
            Some(entry) => entry,
            None => match self.in_bucket(commit).await? {
                Some(entry) => entry,
                None => return Ok(None),
            },
        };
        let is_shared = self.is_shared(&entry);
        if let (Some(bucket), Some(proof)) = (&self.stores.bucket, self.asked_proof())
            && !is_shared
            && !entry.is_proven(&proof)
        {
            bucket.import_proof(&entry, &proof).await;
        }
        if let Some(proof) = self.asked_proof().filter(|proof| !entry.is_proven(proof)) {
            self.prove(&entry).await?;
            self.note(&entry, proof).await;
            if let Some(bucket) = self.stores.bucket.as_ref().filter(|bucket| bucket.adds && !is_shared) {
                // It can be shown again.
                let _ = bucket.export_proofs(&entry).await;
            }
        }
        if !is_shared {
            self.share(&entry, false).await;
        }
        Ok(Some(ResolvedRepo { entry, how: Origin::Stored, is_shared }))
    }

    fn is_shared(&self, entry: &Entry) -> bool {
        let shared = self.stores.shared.as_ref();
        shared.is_some_and(|store| entry.directory().starts_with(store.root()))
    }

    /// The first store's entry that may be used.
    async fn in_stores(&self, commit: &str) -> Result<Option<Entry>> {
        if let Some(store) = &self.stores.shared
            && let Some(entry) = self.in_shared(store.entry(&self.repo, commit)).await
        {
            return Ok(Some(entry));
        }
        self.in_local(self.stores.local.entry(&self.repo, commit)).await
    }

    /// Fetches the checkout from the bucket into the local store. What does not work there is cloned.
    async fn in_bucket(&self, commit: &str) -> Result<Option<Entry>> {
        let Some(bucket) = &self.stores.bucket else { return Ok(None) };
        let entry = self.stores.local.entry(&self.repo, commit);
        let (fetched, traffic) = bucket.fetch(&entry).await;
        self.stores.count(traffic);
        match fetched {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(why) => {
                let message = format!("the checkout of {} in the share is not used: {why}", self.name);
                let hint = "if it is damaged, the next trusted build replaces it";
                self.runner.events.warn(message, Some(hint.into())).await;
                return Ok(None);
            }
        }
        // Another job of this machine may have been faster, and its entry may be damaged.
        self.in_local(entry).await
    }

    /// A share that makes trouble is no share.
    async fn in_shared(&self, entry: Entry) -> Option<Entry> {
        let begun = std::time::Instant::now();
        let (looked, user) = (entry.clone(), self.stores.layer_user.clone());
        let found = blocking(move || Ok(usable_on_share(&looked, user.as_ref()))).await;
        let seconds_waited = begun.elapsed().as_secs_f64();
        // About as many as the look at owners, the top of `.git` and the record takes.
        let traffic = Traffic { operations: 16, seconds_waited, ..Traffic::default() };
        let objects_read = u64::from(matches!(found, Ok(Ok(true))));
        self.stores.count(Traffic { objects_read, ..traffic });
        match found.unwrap_or_else(|error| Err(error.message)) {
            Ok(true) => {
                if self.stores.adds {
                    // The pruner goes by it; it goes by the age of the entry, too.
                    let _ = entry.mark_used();
                }
                Some(entry)
            }
            Ok(false) => None,
            Err(why) => {
                let place = entry.directory();
                let message = format!("the stored checkout `{}` is not used: {why}", place.display());
                let hint = "delete it from the share; a trusted build stores it again";
                self.runner.events.warn(message, Some(hint.into())).await;
                None
            }
        }
    }

    async fn in_local(&self, entry: Entry) -> Result<Option<Entry>> {
        if !entry.is_there()? {
            return Ok(None);
        }
        // First, so that another job does not take it for unused meanwhile.
        entry.mark_used()?;
        let (looked, user) = (entry.clone(), self.stores.layer_user.clone());
        match blocking(move || Ok(usable_here(&looked, user.as_ref()))).await? {
            Ok(()) => Ok(Some(entry)),
            Err(damage) => {
                let place = entry.directory();
                let message = format!(
                    "the stored checkout `{}` is damaged and is made again: {damage}",
                    place.display()
                );
                self.runner.events.warn(message, None).await;
                let gone = entry.clone();
                blocking(move || gone.remove()).await?;
                Ok(None)
            }
        }
    }

    /// Shows that the commit of an entry lies on its branch.
    async fn prove(&self, entry: &Entry) -> Result<()> {
        let part = StagingEntry::begin(&self.stores.local, &self.repo)?;
        let git = self.git(&[part.tree()])?;
        agent_git::verify_on_branch(&git, &part.tree(), self.name, self.source, Some(&seed(entry))).await
    }

    /// Notes a proof where that is allowed; it can be made again.
    async fn note(&self, entry: &Entry, proof: BranchMembership) {
        if self.is_shared(entry) && !self.stores.adds {
            return;
        }
        if let Err(error) = entry.prove(proof) {
            self.runner.events.warn(error.message, None).await;
        }
    }

    /// Clones into the local store.
    async fn make(&self) -> Result<Entry> {
        let part = StagingEntry::begin(&self.stores.local, &self.repo)?;
        let git = self.git(&[part.tree()])?;
        let older = self.seed().await;
        let cloned = agent_git::clone(&git, &part.tree(), self.name, self.source, older.as_ref()).await?;

        let (part, content) = blocking(move || part.make_read_only().map(|content| (part, content))).await?;
        let commit = cloned.commit;
        let (url, short) = (agent_git::display_url(&self.source.url), self.repo.short().to_owned());
        let mut record = Record::new(url, commit.clone(), short, &cloned.object, cloned.tree);
        if !record.is_plainly(&content) {
            self.explain(&git, &part, &content, &mut record).await?;
        }
        let (entry, new) = blocking(move || part.finish(&record)).await?;
        if !new && self.in_local(entry.clone()).await?.is_none() {
            let message =
                format!("another job made `{}` at the same time, and it is damaged", self.repo.directory());
            return Err(Error::machine(message).hint("run the job again"));
        }
        entry.mark_used()?;
        if let Some(proof) = self.shown_proof() {
            self.note(&entry, proof).await;
        }
        self.share(&entry, new).await;
        Ok(entry)
    }

    /// What of the commit is not in the work tree as it is: submodules, and files that attributes change.
    async fn explain(
        &self,
        git: &Git<'_>,
        part: &StagingEntry,
        content: &Content,
        record: &mut Record,
    ) -> Result<()> {
        let listed = agent_git::listing(git, &part.tree(), self.name, &record.commit).await?;
        let listed: Vec<Listed> =
            listed.into_iter().map(|[mode, id, path]| Listed { mode, id, path }).collect();
        let altered = record.explain(content, &listed);
        if altered.is_empty() {
            return Ok(());
        }
        agent_git::checkout_files(git, &part.tree(), self.name, &altered, &part.second()).await?;
        part.compare_with_second(&altered)
    }

    /// A whole older checkout of the repository, here or on the share.
    async fn seed(&self) -> Option<Seed> {
        let stores = self.stores;
        let (local, shared) = (stores.local.clone(), stores.shared.clone());
        let (repo, user) = (self.repo.clone(), stores.layer_user.clone());
        let newest = move || {
            let here = local.newest(&repo).filter(|entry| usable_here(entry, user.as_ref()).is_ok());
            Ok(here.or_else(|| {
                let there = shared.and_then(|store| store.newest(&repo))?;
                usable_on_share(&there, user.as_ref()).is_ok_and(|usable| usable).then_some(there)
            }))
        };
        blocking(newest).await.ok().flatten().map(|entry| seed(&entry))
    }

    /// Adds an entry of this machine to the share, for the next builds. That it cannot be done costs
    /// them time and is no fault of this job.
    async fn share(&self, entry: &Entry, just_made: bool) {
        self.add_to_bucket(entry, just_made).await;
        let Some(store) = self.stores.shared.as_ref().filter(|_| self.stores.adds) else { return };
        match self.try_to_share(entry, store, just_made).await {
            Ok(()) => {}
            // The next stage says so, too.
            Err(error) if matches!(error.class, Class::Cancelled | Class::OutOfTime) => {}
            Err(error) => {
                let message =
                    format!("the checkout of {} could not be added to the share: {error}", self.name);
                self.runner.events.warn(message, Some("look at its space and permissions".into())).await;
            }
        }
    }

    /// The same for a share in a bucket.
    async fn add_to_bucket(&self, entry: &Entry, just_made: bool) {
        let Some(bucket) = self.stores.bucket.as_ref().filter(|bucket| bucket.adds) else { return };
        if bucket.has(entry).await {
            return;
        }
        if !just_made && let Err(why) = self.check_objects(entry).await {
            self.runner.events.warn(why.message, why.hint).await;
            return;
        }
        let (added, traffic) = bucket.add(entry).await;
        self.stores.count(traffic);
        if let Err(why) = added {
            let message = format!("the checkout of {} could not be added to the share: {why}", self.name);
            self.runner.events.warn(message, None).await;
        }
    }

    /// Whether git's objects of a checkout that another job made are whole.
    async fn check_objects(&self, entry: &Entry) -> Result<()> {
        let git = self.git(&[entry.tree()])?;
        match agent_git::find_corruption(&git, &entry.tree()).await? {
            Some(damage) => Err(Error::machine(format!("`{}` is damaged: {damage}", entry.tree().display()))),
            None => Ok(()),
        }
    }

    async fn try_to_share(&self, entry: &Entry, store: &LayerStore, just_made: bool) -> Result<()> {
        let shared = store.entry(&self.repo, &entry.commit);
        let there = shared.clone();
        if blocking(move || there.is_there()).await? {
            return Ok(());
        }
        if !just_made {
            self.check_objects(entry).await?;
        }
        let (from, to, interrupt) = (entry.clone(), store.clone(), self.runner.interrupt.clone());
        // What layer code could have changed since it was made has to prove itself once more.
        let witness = match layers::check_ownership(entry, self.stores.layer_user.as_ref())? {
            OwnershipCheck::Open { .. } if !just_made => Witness::CommitAlone,
            _ => Witness::CommitAndRecord,
        };
        let added = blocking(move || layers::add(&from, &to, witness, &interrupt)).await?;
        self.stores.count(added.traffic);
        if let Some(proof) = self.shown_proof() {
            self.note(&shared, proof).await;
        }
        Ok(())
    }
}

fn seed(entry: &Entry) -> Seed {
    Seed { path: entry.tree(), commit: entry.commit.clone() }
}

#[cfg(test)]
#[path = "stored_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "stored_share_tests.rs"]
mod share_tests;

#[cfg(test)]
#[path = "stored_bucket_tests.rs"]
mod bucket_tests;
