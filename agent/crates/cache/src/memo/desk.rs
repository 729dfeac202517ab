//! The agent's side of one yocto-check-layer run: answers the stand-in's questions from the stores, or starts the
//! real BitBake, gives what that gave, and keeps it. Nobody else can tell what BitBake gave.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use agent_process::Interrupt;
use agent_types::events::{Emitter, Memo, MemoOutcome, Recipes, Unit, What};
use agent_yocto::check_layer::Kind;

use super::ahead::Ahead;
use super::keep::{Answered, Kept};
use super::key::{Inputs, Key};
use super::ledger::{Again, Given, Ledger};
use super::parses::{Parses, Restored};
use super::progress::{FreshOutcome, Progress};
use super::schedule::Schedule;
use super::stat_cache::StatCache;
use super::store::{Found, Stores};
use super::wire::{Reply, length_from, length_of};
use super::{Accepted, Admission, Asked, Place, Question, Refusal, Script, inputs, parses};

/// More callers at once are layer code at play.
const MOST_CALLERS: usize = 32;

/// A caller that says nothing for so long is hung up on.
const PATIENCE: Duration = Duration::from_secs(60);

/// The umask of the agent and of what it starts (`prepare_process`).
const UMASK: u32 = 0o022;

/// What is done about the questions of a run.
#[derive(Debug)]
pub struct Course {
    pub ahead: Ahead,
    /// `None`: nothing is asked ahead.
    pub script: Option<Script>,
    pub again: Again,
    pub admission: Admission,
    /// Whether BitBake's parse caches are kept for later jobs, in which other versions of the layers may use them.
    pub keep_parses: bool,
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
    pub(super) parses: Parses,
    unit: Unit,
    pub(super) events: Emitter,
    pub(super) ahead: Ahead,
    /// Ends what BitBake is asked.
    stop: Interrupt,
    /// Held while BitBake runs in the check's own build directory.
    own: tokio::sync::Mutex<()>,
    /// Held while a caller waits for BitBake there.
    caller: tokio::sync::Mutex<()>,
    pub(super) admission: Admission,
    pub(super) keep_parses: bool,
    pub(super) again: Again,
    /// `None`: nothing is asked ahead.
    pub(super) schedule: Option<Schedule>,
    pub(super) progress: Mutex<Progress>,
    pub(super) ledger: Mutex<Ledger>,
    /// Where the digests of files are kept between runs.
    stat_cache_file: PathBuf,
    pub(super) stat_cache: Mutex<StatCache>,
    /// Why nothing more is reused or kept in this run.
    pub(super) off: Mutex<Option<Refusal>>,
}

impl Desk {
    pub fn open(
        listener: UnixListener,
        place: Place,
        stores: Stores,
        stat_cache_file: PathBuf,
        course: Course,
        unit: &Unit,
        events: &Emitter,
    ) -> Desk {
        let stat_cache = Mutex::new(StatCache::load(&stat_cache_file));
        let parses = Parses::new(&stores, &place.user);
        let Course { ahead, script, again, admission, keep_parses } = course;
        let stop = ahead.interrupt();
        let schedule = script.map(|script| Schedule::new(script, stop.part()));
        let shared = Arc::new(Shared {
            place,
            stores,
            parses,
            unit: unit.clone(),
            events: events.clone(),
            ahead,
            stop,
            own: tokio::sync::Mutex::default(),
            caller: tokio::sync::Mutex::default(),
            admission,
            keep_parses,
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

    /// Ends what BitBake is asked, and starts nothing more.
    pub fn stop(&self) {
        self.shared.stop.signal();
    }

    /// Ends what BitBake is asked and hangs up on everybody; what the answers of this run stood on.
    pub async fn close(mut self) -> Given {
        self.stop();
        // What runs in the check's own build directory has its end.
        drop(self.shared.own.lock().await);
        self.serving.abort();
        let _ = (&mut self.serving).await;
        if let Some(schedule) = &self.shared.schedule {
            schedule.close().await;
        }
        self.shared.ahead.close();
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
        self.stop();
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
        } else if known {
            // One that hears nothing would take it for the end.
            callers.spawn(turn_away(stream));
        }
    }
}

async fn caller(stream: UnixStream, shared: Arc<Shared>) {
    // A caller that makes no sense, or hangs up, gets no answer and runs the real BitBake.
    let _ = answer(stream, &shared).await;
}

async fn turn_away(mut stream: UnixStream) {
    let _ = tokio::time::timeout(PATIENCE, send(&mut stream, &Reply::Pass)).await;
}

async fn answer(mut stream: UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let message = tokio::time::timeout(PATIENCE, receive(&mut stream)).await??;
    let asked = Asked::unpack(&message)?;
    let Some(question) = Question::recognise(&asked) else { return send(&mut stream, &Reply::Pass).await };
    let since = Instant::now();
    let (kind, is_first) = lock(&shared.progress).note(&asked, &question);
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
    let (reply, memo) = match looked {
        Err(refusal) => (Reply::Pass, told(MemoOutcome::Off, Some(refusal.0), None)),
        Ok(Looked { inputs, found: Some(found), .. }) => {
            let (ahead, saved) = shared.gives(kind, &inputs.key(), found.seconds, since.elapsed());
            let memo = match ahead {
                Some((why, recipes)) => Memo { recipes, ..told(MemoOutcome::Ahead, Some(why), Some(saved)) },
                None => told(MemoOutcome::Hit, None, Some(saved)),
            };
            (Reply::Outcome(found.outcome(&question)), memo)
        }
        Ok(Looked { inputs, fresh: Some(fresh), why, .. }) => {
            let (ahead, saved) = shared.gives(kind, &inputs.key(), fresh.seconds, since.elapsed());
            let (why, recipes) = ahead.unwrap_or((why, None));
            let why = format!("{why}; it is not kept: {}", fresh.why);
            let memo = Memo { recipes, ..told(MemoOutcome::Ahead, Some(why), Some(saved)) };
            (Reply::Outcome(fresh.outcome), memo)
        }
        Ok(looked) => {
            let call = Caller { asked, question: question.clone(), kind, is_first };
            match shared.ask_here(&mut stream, call, looked).await? {
                (Some(reply), why, recipes) => {
                    (reply, Memo { recipes, ..told(MemoOutcome::Miss, Some(why), None) })
                }
                // The check is being stopped; the shim ends when it hears nothing.
                (None, why, _) => {
                    shared.events.emit(What::Memo(told(MemoOutcome::Miss, Some(why), None))).await;
                    return Ok(());
                }
            }
        }
    };
    shared.events.emit(What::Memo(memo)).await;
    send(&mut stream, &reply).await
}

/// A question that BitBake has to answer.
struct Caller {
    asked: Asked,
    question: Question,
    kind: Kind,
    is_first: bool,
}

/// Until the other side closes the connection, or says something although it is not its turn.
async fn hung_up(stream: &mut UnixStream) {
    let _ = stream.read(&mut [0]).await;
}

/// What the stores have for a question.
pub(super) struct Looked {
    pub(super) inputs: Inputs,
    pub(super) found: Option<Found>,
    /// What BitBake gave in this run and is in no store.
    pub(super) fresh: Option<FreshOutcome>,
    /// Why there was none.
    pub(super) why: String,
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

    /// Asks BitBake in the check's own build directory. What to reply, why it had to be, and what BitBake parsed.
    async fn ask_here(
        self: &Arc<Shared>,
        stream: &mut UnixStream,
        call: Caller,
        looked: Looked,
    ) -> io::Result<(Option<Reply>, String, Option<Recipes>)> {
        let Caller { asked, question, kind, is_first } = call;
        let Looked { inputs, mut why, .. } = looked;
        // The tool asks one question after the other. Whoever asks in between is layer code, and must not
        // disturb the answer that the tool waits for.
        let Ok(_caller) = self.caller.try_lock() else {
            return Ok((Some(Reply::Pass), format!("{why}; another call waits for BitBake"), None));
        };
        let _own = self.own.lock().await;
        if self.stop.state().is_some() {
            return Ok((None, format!("{why}; the check is being stopped"), None));
        }
        let restored = {
            let (shared, inputs) = (self.clone(), inputs.clone());
            spawn_blocking(move || shared.restore(&shared.place.build, &inputs)).await?
        };
        if let Restored::Refused(refusal) = &restored {
            why += &format!("; the stored parse cache is not used: {refusal}");
        }
        let stop = self.stop.part();
        let ran = {
            let mut asking = pin!(self.ahead.ask(&asked, &question.name, None, &stop));
            tokio::select! {
                ran = &mut asking => ran,
                () = hung_up(stream) => {
                    stop.signal();
                    asking.await
                }
            }
        };
        let ran = match ran {
            Ok(ran) => ran,
            Err(refusal) => {
                let reply = if stop.state().is_some() { None } else { Some(Reply::Pass) };
                return Ok((reply, format!("{why}; what BitBake gave was not kept: {refusal}"), None));
            }
        };
        let (recipes, reply) = (parses::count(&ran.outcome), Reply::Outcome(ran.outcome.clone()));
        let restored = restored == Restored::Put;
        let at = self.place.build.clone();
        let answered = Answered { at, asked, inputs, question, ran, is_first, restored };
        let shared = self.clone();
        let why = match spawn_blocking(move || shared.keep(&answered)).await? {
            Ok(Kept::Whole) => why,
            Ok(Kept::Answer(refusal)) => format!("{why}; its parse cache was not kept: {refusal}"),
            Ok(Kept::Nothing(refusal)) => format!("{why}; what BitBake gave was not kept: {refusal}"),
            Err(refusal) => {
                self.not_kept(kind, &refusal).await;
                format!("{why}; what BitBake gave was not kept: {refusal}")
            }
        };
        Ok((Some(reply), why, recipes))
    }

    /// Asks BitBake in the check's own build directory before the tool does. Blocks others from there.
    pub(super) async fn own_directory(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.own.lock().await
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
        if !asked.joined || asked.umask != UMASK {
            return Err(Refusal("BitBake was called in another way than yocto-check-layer does".into()));
        }
        let inputs = inputs::collect_at(at, &self.place, asked, &mut lock(&self.stat_cache))?;
        let key = inputs.key();
        let mut damaged = None;
        for store in &self.stores.read {
            match store.find(&key) {
                Ok(Some(found)) => {
                    return Ok(Looked { inputs, found: Some(found), fresh: None, why: String::new() });
                }
                Ok(None) => {}
                Err(error) => damaged = Some(error.message),
            }
        }
        let nearest = || self.stores.read.iter().find_map(|store| store.why_not(&inputs, &question.name));
        let why =
            damaged.or_else(nearest).unwrap_or_else(|| "it was not asked of these layers before".into());
        Ok(Looked { inputs, found: None, fresh: None, why })
    }

    /// Gives the real BitBake `at` this build directory what was parsed before, unless what it says is to be
    /// plain. Blocks.
    pub(super) fn restore(&self, at: &Path, inputs: &Inputs) -> Restored {
        if self.again.runs > 0 || lock(&self.ledger).has_failed_with_cache() {
            return Restored::Nothing;
        }
        let restored = self.parses.restore(inputs, at);
        if restored == Restored::Put && at == self.place.build {
            lock(&self.ledger).restored();
        }
        restored
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
