//! The agent's side of one yocto-check-layer run: answers the stand-in's questions, and keeps what the
//! real BitBake gave.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use agent_types::events::{Emitter, Memo, MemoOutcome, Recipes, Unit, What};
use agent_yocto::check_layer::{Kind, Kinds};

use super::key::{Inputs, Key};
use super::ledger::{Again, Ledger};
use super::parses::{Parses, Restored};
use super::progress::Progress;
use super::schedule::Schedule;
use super::stat_cache::StatCache;
use super::store::{Found, Store, Stores};
use super::wire::{Answer, Call, Ran, Reply, length_from, length_of};
use super::{Accepted, Asked, Place, Question, Refusal, difference, floating, inputs, parses};

/// More callers at once are layer code at play.
const MOST_CALLERS: usize = 32;

/// A caller that says nothing for so long is hung up on. While the real BitBake runs there is no limit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Words in BitBake's output after which nothing is kept although it ended well.
const DOUBTS: [&str; 5] = [
    "taskhash mismatch",
    "basehash value changed",
    "ERROR:",
    "Traceback (most recent",
    // With `-k` this alone is no error, without it is one.
    "is unbuildable, removing",
];

/// What is done about the questions of a run.
#[derive(Debug, Default)]
pub struct Course {
    /// `None`: nothing is asked ahead.
    pub schedule: Option<Schedule>,
    pub again: Again,
}

/// Open during one run.
#[derive(Debug)]
pub struct Desk {
    serving: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) place: Place,
    pub(super) stores: Stores,
    parses: Parses,
    unit: Unit,
    pub(super) events: Emitter,
    pub(super) again: Again,
    /// `None`: nothing is asked ahead.
    pub(super) schedule: Option<Schedule>,
    pub(super) progress: Mutex<Progress>,
    pub(super) ledger: Mutex<Ledger>,
    /// Where the digests of files are kept between runs.
    stat_cache_file: PathBuf,
    stat_cache: Mutex<StatCache>,
    /// Why nothing more is reused or kept in this run.
    pub(super) off: Mutex<Option<Refusal>>,
}

impl Desk {
    pub fn open(
        listener: UnixListener,
        place: Place,
        stores: Stores,
        stat_cache_file: PathBuf,
        Course { schedule, again }: Course,
        unit: &Unit,
        events: &Emitter,
    ) -> Desk {
        let stat_cache = Mutex::new(StatCache::load(&stat_cache_file));
        let parses = Parses::new(&stores, &place.user);
        let shared = Arc::new(Shared {
            place,
            stores,
            parses,
            unit: unit.clone(),
            events: events.clone(),
            progress: Mutex::new(Progress::after(again.lost)),
            ledger: Mutex::default(),
            again,
            schedule,
            stat_cache_file,
            stat_cache,
            off: Mutex::new(None),
        });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Desk { serving, shared }
    }

    /// Hangs up on everybody and ends what was asked ahead; the kinds of questions that had other answers than
    /// plain ones.
    pub async fn close(mut self) -> Kinds {
        self.serving.abort();
        let _ = (&mut self.serving).await;
        if let Some(schedule) = &self.shared.schedule {
            schedule.close().await;
        }
        let shared = self.shared.clone();
        // Without it the next run reads all files again, and nothing else.
        let _ = spawn_blocking(move || {
            let cache = lock(&shared.stat_cache);
            if !cache.is_used() {
                return Ok(());
            }
            let bytes = cache.pack();
            let beside = shared.stat_cache_file.with_extension("new");
            fs_err::write(&beside, bytes).and_then(|()| fs_err::rename(&beside, &shared.stat_cache_file))
        })
        .await;
        lock(&self.shared.ledger).given()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.serving.abort();
        if let Some(schedule) = &self.shared.schedule {
            schedule.stop();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a reader leaves entries that are each whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is aborted, and all callers with it.
async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut callers = JoinSet::new();
    loop {
        while callers.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else { continue };
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == shared.place.user.uid);
        if known && callers.len() < MOST_CALLERS {
            callers.spawn(caller(stream, shared.clone()));
        }
    }
}

async fn caller(stream: UnixStream, shared: Arc<Shared>) {
    // A caller that makes no sense, or hangs up, gets no answer and runs the real BitBake.
    let _ = answer(stream, &shared).await;
}

async fn answer(mut stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let call = tokio::time::timeout(PATIENCE, receive(&mut stream)).await??;
    let Call::Ask(asked) = Call::unpack(&call)? else { return Ok(()) };
    let Some(question) = Question::recognise(&asked) else { return send(&mut stream, &Reply::Pass).await };
    let since = Instant::now();
    let kind = lock(&shared.progress).note(&asked, &question);
    let looked = match shared.look(&asked, &question).await.map(|looked| shared.less_anew(kind, looked)) {
        Ok(looked) if looked.found.is_none() => shared.foreseen(&asked, &question, looked).await,
        looked => looked,
    };
    let told = |outcome, why, seconds_saved| Memo {
        unit: shared.unit.clone(),
        question: question.name.clone(),
        outcome,
        why,
        seconds_saved,
        recipes: None,
        repeat: shared.again.runs,
    };
    let memo = match looked {
        Err(refusal) => {
            send(&mut stream, &Reply::Pass).await?;
            told(MemoOutcome::Off, Some(refusal.0), None)
        }
        Ok(Looked { inputs, found: Some(found), .. }) => {
            let (ahead, saved) = shared.gives(kind, &inputs.key(), found.seconds, since.elapsed());
            send(&mut stream, &Reply::Answer(found.answer)).await?;
            match ahead {
                Some((why, recipes)) => Memo { recipes, ..told(MemoOutcome::Ahead, Some(why), Some(saved)) },
                None => told(MemoOutcome::Hit, None, Some(saved)),
            }
        }
        Ok(Looked { inputs, mut why, .. }) => {
            let restored = {
                let (shared, inputs) = (shared.clone(), inputs.clone());
                spawn_blocking(move || shared.restore(&shared.place.build, &inputs)).await?
            };
            if let Restored::Refused(refusal) = restored {
                why += &format!("; the stored parse cache is not used: {refusal}");
            }
            send(&mut stream, &Reply::Run).await?;
            let since = Instant::now();
            let call = receive(&mut stream).await;
            let seconds = since.elapsed().as_secs_f64();
            let (key, mut recipes) = (inputs.key(), None);
            let kept = match call.and_then(|call| Call::unpack(&call)) {
                Ok(Call::Ran(ran)) => {
                    recipes = parses::count(&ran);
                    let (shared, question) = (shared.clone(), question.clone());
                    let keep =
                        move || shared.keep(&shared.place.build, &asked, &inputs, &question, ran, seconds);
                    spawn_blocking(keep).await?
                }
                _ => Err(Refusal("BitBake did not come to its end".into())),
            };
            lock(&shared.progress).has_run(&key, seconds, kept.is_ok());
            let why = match kept {
                Ok(Kept::Whole) => why,
                Ok(Kept::Answer(refusal)) => format!("{why}; its parse cache was not kept: {refusal}"),
                Err(refusal) => {
                    shared.not_kept(kind, &refusal).await;
                    format!("{why}; what BitBake gave was not kept: {refusal}")
                }
            };
            let memo = Memo { recipes, ..told(MemoOutcome::Miss, Some(why), None) };
            shared.events.emit(What::Memo(memo)).await;
            return send(&mut stream, &Reply::Noted).await;
        }
    };
    shared.events.emit(What::Memo(memo)).await;
    Ok(())
}

/// What the stores have for a question.
pub(super) struct Looked {
    pub(super) inputs: Inputs,
    pub(super) found: Option<Found>,
    /// Why there was none.
    pub(super) why: String,
}

/// What was kept of a run.
pub(super) enum Kept {
    Whole,
    /// The answer alone, and why.
    Answer(Refusal),
}

impl Shared {
    pub(super) async fn look(self: &Arc<Shared>, asked: &Asked, question: &Question) -> Accepted<Looked> {
        self.look_at(&self.place.build, asked, question).await
    }

    /// The same for a BitBake that finds the directory `at` in the place of the build directory.
    pub(super) async fn look_at(
        self: &Arc<Shared>,
        at: &Path,
        asked: &Asked,
        question: &Question,
    ) -> Accepted<Looked> {
        let (shared, at, asked, question) = (self.clone(), at.to_owned(), asked.clone(), question.clone());
        let looked = spawn_blocking(move || shared.look_up(&at, &asked, &question)).await;
        looked.unwrap_or_else(|error| Err(Refusal(error.to_string())))
    }

    /// Takes note of an answer that is given. If it was asked ahead, why it had to be and what BitBake
    /// parsed; and the seconds that it saves.
    fn gives(
        &self,
        kind: Kind,
        key: &Key,
        seconds: f64,
        waited: Duration,
    ) -> (Option<(String, Option<Recipes>)>, f64) {
        lock(&self.ledger).answered(kind, key);
        let mut progress = lock(&self.progress);
        let ahead = progress.of_ahead(key);
        (ahead, progress.saved(seconds, waited.as_secs_f64()))
    }

    /// Blocks.
    fn look_up(&self, at: &Path, asked: &Asked, question: &Question) -> Accepted<Looked> {
        if let Some(refusal) = lock(&self.off).clone() {
            return Err(refusal);
        }
        let inputs = inputs::collect_at(at, &self.place, asked, &mut lock(&self.stat_cache))?;
        let key = inputs.key();
        let mut damaged = None;
        for store in &self.stores.read {
            match store.find(&key) {
                Ok(Some(found)) => {
                    return Ok(Looked { inputs, found: Some(found), why: String::new() });
                }
                Ok(None) => {}
                Err(error) => damaged = Some(error.message),
            }
        }
        let nearest = || self.stores.read.iter().find_map(|store| store.why_not(&inputs, &question.name));
        let why =
            damaged.or_else(nearest).unwrap_or_else(|| "it was not asked of these layers before".into());
        Ok(Looked { inputs, found: None, why })
    }

    /// Gives the real BitBake `at` this build directory what was parsed before, unless what it says is to be
    /// plain. Blocks.
    pub(super) fn restore(&self, at: &Path, inputs: &Inputs) -> Restored {
        if self.again.runs > 0 || lock(&self.ledger).has_failed_ahead() {
            return Restored::Nothing;
        }
        let restored = self.parses.restore(inputs, at);
        if restored == Restored::Put && at == self.place.build {
            lock(&self.ledger).restored();
        }
        restored
    }

    /// Keeps what the real BitBake gave `at` this build directory, if it can be had again. Blocks.
    pub(super) fn keep(
        &self,
        at: &Path,
        asked: &Asked,
        before: &Inputs,
        question: &Question,
        ran: Ran,
        seconds: f64,
    ) -> Accepted<Kept> {
        // Whatever came of it, later runs may not ask the server again: they take the recipe from the
        // cache of this one.
        let floating = floating::asked_nobody(&self.place.bitbake, at);
        if let Err(refusal) = &floating {
            *lock(&self.off) = Some(refusal.clone());
        }
        let answer = plausible(ran, question)?;
        floating?;
        let after = inputs::collect_at(at, &self.place, asked, &mut lock(&self.stat_cache))?;
        if after.key() != before.key() {
            let what = difference::in_words(&after, before.parts(), before.listings());
            return Err(Refusal(format!("an input changed while BitBake ran: {what}")));
        }
        if self.again.runs > 0 {
            self.told_the_same_before(&before.key(), &answer)?;
        }
        // One store may be full or gone; the others still get it.
        let keep = |store: &Store| store.keep(before, &question.name, &answer, seconds);
        let kept: Vec<_> = self.stores.write.iter().map(keep).collect();
        kept.into_iter().collect::<Result<(), _>>().map_err(|error| Refusal(error.message))?;
        if at == self.place.build {
            lock(&self.ledger).kept(before.key());
        }
        // `-p` alone leaves a cache that is not whole. A file that was only touched is no other input, but
        // BitBake may have seen either time.
        if question.leaves_signatures && after == *before {
            let kept = self.parses.keep(before, at);
            return Ok(kept.map_or_else(Kept::Answer, |()| Kept::Whole));
        }
        Ok(Kept::Whole)
    }
}

/// The answer, when BitBake ended well and said nothing that makes one doubt.
fn plausible(ran: Ran, question: &Question) -> Accepted<Answer> {
    let refused = |why: &str| Err(Refusal(why.into()));
    if ran.status != Some(0) {
        return refused("BitBake failed");
    }
    let (Some(stdout), Some(stderr)) = (ran.stdout, ran.stderr) else {
        return refused("it printed too much");
    };
    for text in [&stdout, &stderr].map(|bytes| String::from_utf8_lossy(bytes)) {
        if let Some(doubt) = DOUBTS.iter().find(|doubt| text.contains(**doubt)) {
            return Err(Refusal(format!("BitBake ended well, but printed `{doubt}`")));
        }
    }
    if !question.leaves_signatures {
        return Ok(Answer { stdout, stderr, signatures: Vec::new() });
    }
    match ran.signatures {
        Some(signatures) if signatures.windows(18).any(|words| words == b"SIGGEN_LOCKEDSIGS_") => {
            Ok(Answer { stdout, stderr, signatures })
        }
        _ => refused("BitBake wrote no signatures"),
    }
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let message = reply.pack();
    stream.write_all(&length_of(&message)?).await?;
    stream.write_all(&message).await
}

async fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = length_from(length)?;
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message).await?;
    if message.len() == length { Ok(message) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "desk_tests.rs"]
mod tests;
