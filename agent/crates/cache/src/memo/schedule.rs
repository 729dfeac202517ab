//! What is asked ahead, and when: at a question without an answer the next ones are known as well.
//!
//! Whether all recipes parse is asked before the world with the layer. BitBake's caches of the world serve
//! it, and not the other way round: so the world comes first. Side by side, the world (and then that
//! question) is asked in one room and the world with the class in another. One after another, the world
//! is asked in the check's own build directory, before the question that was asked.
//!
//! Where three fit side by side, the first question is enough to know all that: the world without the layer
//! is asked in the check's own build directory, and the others beside it in rooms that have the layer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

use agent_process::Interrupt;
use agent_yocto::check_layer::Kind;

use super::ahead::{Ahead, Room, Way};
use super::desk::{Kept, Looked, Shared, lock};
use super::foresee::{Next, OfLayer, Script};
use super::key::{Inputs, Key};
use super::parses::{self, Restored};
use super::progress::{Beside, Foreseen, Foresight};
use super::{Accepted, Asked, Question, Refusal, difference};

/// Asking ahead in one run.
#[derive(Debug)]
pub struct Schedule {
    ahead: Ahead,
    script: Script,
    /// Ends all of it.
    stop: Interrupt,
    lanes: tokio::sync::Mutex<JoinSet<()>>,
}

/// A question to be asked ahead.
struct Planned {
    asked: Asked,
    question: Question,
    inputs: Inputs,
    /// Dropped when it is over.
    done: watch::Sender<()>,
}

impl Schedule {
    pub fn new(ahead: Ahead, script: Script) -> Schedule {
        let stop = ahead.interrupt();
        Schedule { ahead, script, stop, lanes: tokio::sync::Mutex::default() }
    }

    /// What is under way is to end; nobody waits for it here.
    pub fn stop(&self) {
        self.stop.signal();
    }

    /// Ends what is under way and removes what it left.
    pub async fn close(&self) {
        self.stop();
        let mut lanes = self.lanes.lock().await;
        while lanes.join_next().await.is_some() {}
        self.ahead.close();
    }
}

impl Shared {
    /// What there is for a question that had no answer, after the answers that are under way or can be
    /// had by asking ahead have been waited for.
    pub async fn foreseen(
        self: &Arc<Shared>,
        asked: &Asked,
        question: &Question,
        looked: Looked,
    ) -> Accepted<Looked> {
        let Some(schedule) = &self.schedule else { return Ok(looked) };
        let key = looked.inputs.key();
        let since = Instant::now();
        let known = lock(&self.progress).receiver(&key);
        let answered = match known {
            Some(_) => true,
            None => {
                self.stop_what_is_not_asked(schedule, question, &looked.inputs).await;
                let begun = self.begin(schedule, asked, &key).await;
                if let Some(foreseen) = lock(&self.progress).asked.get_mut(&key) {
                    foreseen.why.clone_from(&looked.why);
                }
                begun
            }
        };
        let under_way = lock(&self.progress).receiver(&key);
        if let Some(mut under_way) = under_way {
            // An error is the end that is waited for.
            while under_way.changed().await.is_ok() {}
        }
        let looked = if answered { self.look(asked, question).await? } else { looked };
        if looked.found.is_some() {
            return Ok(looked);
        }
        let mut progress = lock(&self.progress);
        progress.debt += since.elapsed().as_secs_f64();
        let in_vain = progress.asked.get(&key).and_then(|foreseen| foreseen.in_vain.as_ref());
        let why = match in_vain {
            Some(refusal) => format!("{}; asked ahead in vain: {refusal}", looked.why),
            None => looked.why,
        };
        Ok(Looked { why, ..looked })
    }

    /// After the world without the layer had no answer to keep: the other worlds will have none either, so
    /// nothing more is asked ahead.
    pub async fn not_kept(&self, kind: Kind, refusal: &Refusal) {
        // What a stop broke is no news.
        let Some(schedule) = self.schedule.as_ref().filter(|_| kind == Kind::Base) else { return };
        if schedule.stop.state().is_some() {
            return;
        }
        lock(&self.progress).begun = Foresight::ALL.into();
        self.events
            .info(format!("nothing more is asked ahead, because the first answer was not kept: {refusal}"))
            .await;
    }

    /// Ends what is under way when the same question comes with other inputs than were foreseen.
    async fn stop_what_is_not_asked(&self, schedule: &Schedule, question: &Question, inputs: &Inputs) {
        let other = {
            let progress = lock(&self.progress);
            let running = |foreseen: &&Foreseen| {
                foreseen.name == question.name && foreseen.under_way.has_changed().is_ok()
            };
            progress.asked.values().find(running).map(|foreseen| {
                difference::in_words(inputs, foreseen.inputs.parts(), foreseen.inputs.listings())
            })
        };
        if let Some(other) = other {
            match lock(&self.progress).beside.take() {
                // With the layer added it can be foreseen again.
                Some(beside) => beside.stop.signal(),
                None => schedule.stop(),
            }
            let message = format!("{} was asked ahead with other inputs: {other}", question.name);
            self.events.info(message).await;
        }
    }

    /// Foresees what comes after this question and begins to ask it, once for each kind. Whether the
    /// question itself may have an answer then.
    async fn begin(self: &Arc<Shared>, schedule: &Schedule, asked: &Asked, key: &Key) -> bool {
        if schedule.stop.state().is_some() {
            return false;
        }
        let (next, kind) = {
            let mut progress = lock(&self.progress);
            let next = progress.first.as_ref().and_then(|first| schedule.script.next(asked, first));
            let Some(next) = next else { return false };
            let kind = match &next {
                Next::Layer(of_layer) if of_layer.adds.is_empty() => Foresight::Layer,
                Next::Layer(_) => Foresight::Beside,
                Next::Machines(_) => Foresight::Machines,
            };
            if !progress.begun.insert(kind) {
                return false;
            }
            (next, kind)
        };
        let own = usize::from(kind == Foresight::Beside);
        match (schedule.ahead.way(2 + own).await, next) {
            (Way::SideBySide(most), Next::Layer(of_layer)) => {
                let OfLayer { world, parse, class, adds } = *of_layer;
                let mut lanes = vec![vec![world, parse]];
                lanes.extend(class.map(|class| vec![class]));
                let stop = self.side_by_side(schedule, lanes, most - own, &adds, true).await;
                if kind == Foresight::Beside {
                    lock(&self.progress).beside = stop.map(|stop| Beside { first: key.clone(), stop });
                }
                kind == Foresight::Layer
            }
            (Way::SideBySide(most), Next::Machines(all)) => {
                let lanes = all.into_iter().map(|one| vec![one]).collect();
                self.side_by_side(schedule, lanes, most, "", false).await;
                true
            }
            (Way::OneAfterAnother(why), Next::Layer(_)) if kind == Foresight::Beside => {
                let message = format!("the world with the layer is not asked beside the one without: {why}");
                self.events.info(message).await;
                false
            }
            (Way::OneAfterAnother(why), Next::Layer(of_layer)) => {
                let _ = self.before(schedule, &of_layer.world, &why).await;
                false
            }
            (Way::OneAfterAnother(_), Next::Machines(_)) => false,
        }
    }

    /// Asks in the check's own build directory: what is asked next finds everything parsed.
    async fn before(self: &Arc<Shared>, schedule: &Schedule, world: &Asked, why: &str) -> Accepted<()> {
        let Some(planned) = self.plan(world, &self.place.build).await? else { return Ok(()) };
        let message = format!("{} is asked ahead, not side by side: {why}", planned.question.name);
        self.events.info(message).await;
        self.ask_ahead(schedule, planned, None, &schedule.stop).await
    }

    /// Begins to ask each lane in a room of its own, `most` of them at once; there `conf/bblayers.conf` has
    /// `more` text. What stops all of it, when there is anything to ask.
    async fn side_by_side(
        self: &Arc<Shared>,
        schedule: &Schedule,
        lanes: Vec<Vec<Asked>>,
        most: usize,
        more: &str,
        first_decides: bool,
    ) -> Option<Interrupt> {
        let permits = Arc::new(Semaphore::new(most));
        let stop = schedule.stop.part();
        let mut names = Vec::new();
        for (number, lane) in lanes.into_iter().enumerate() {
            let room = match schedule.ahead.room(more).await {
                Ok(room) => room,
                Err(refusal) => {
                    self.events.info(format!("nothing is asked ahead: {refusal}")).await;
                    break;
                }
            };
            let mut planned = Vec::new();
            for (place, asked) in lane.iter().enumerate() {
                // Without the world before it a question is better asked by the check itself.
                if place == 0 || !planned.is_empty() {
                    planned.extend(self.plan(asked, room.path()).await.ok().flatten());
                }
            }
            if planned.is_empty() {
                schedule.ahead.clear(room).await;
                continue;
            }
            names.extend(planned.iter().map(|planned| planned.question.name.clone()));
            let decides = first_decides && number == 0;
            let (shared, permits, stop) = (self.clone(), permits.clone(), stop.clone());
            schedule.lanes.lock().await.spawn(async move {
                let _permit = permits.acquire_owned().await;
                if shared.lane(room, planned, &stop).await.is_err() && decides {
                    stop.signal();
                }
            });
        }
        if names.is_empty() {
            return None;
        }
        self.events.info(format!("asked ahead, side by side: {}", names.join("; "))).await;
        Some(stop)
    }

    /// Takes note of a question that is to be asked ahead `at` this build directory; `None` when its answer
    /// is known or under way.
    async fn plan(self: &Arc<Shared>, asked: &Asked, at: &Path) -> Accepted<Option<Planned>> {
        let Some(question) = Question::recognise(asked) else { return Ok(None) };
        let Looked { inputs, found, why } = self.look_at(at, asked, &question).await?;
        let mut progress = lock(&self.progress);
        let key = inputs.key();
        if found.is_some() || progress.asked.contains_key(&key) {
            return Ok(None);
        }
        let (done, under_way) = watch::channel(());
        let name = question.name.clone();
        let foreseen =
            Foreseen { name, inputs: inputs.clone(), under_way, why, recipes: None, in_vain: None };
        progress.asked.insert(key, foreseen);
        Ok(Some(Planned { asked: asked.clone(), question, inputs, done }))
    }

    /// Asks some questions one after another in a room of their own. An error when one had no answer:
    /// the rest is not asked.
    async fn lane(self: &Arc<Shared>, room: Room, lane: Vec<Planned>, stop: &Interrupt) -> Accepted<()> {
        let Some(schedule) = &self.schedule else { return Ok(()) };
        let mut trouble = Ok(());
        for planned in lane {
            match &trouble {
                Ok(()) => trouble = self.ask_ahead(schedule, planned, Some(&room), stop).await,
                Err(refusal) => self.in_vain(&planned.inputs.key(), Refusal::clone(refusal)),
            }
        }
        schedule.ahead.clear(room).await;
        trouble
    }

    async fn ask_ahead(
        self: &Arc<Shared>,
        schedule: &Schedule,
        planned: Planned,
        room: Option<&Room>,
        stop: &Interrupt,
    ) -> Accepted<()> {
        let Planned { asked, question, inputs, done } = planned;
        let key = inputs.key();
        let at = room.map_or(&*self.place.build, Room::path).to_owned();
        self.restore_ahead(&key, &at, &inputs).await;
        let kept = match schedule.ahead.ask(&asked, &question.name, room, stop).await {
            Ok((ran, seconds)) => {
                if ran.status != Some(0) {
                    lock(&self.ledger).failed_ahead();
                }
                if let Some(foreseen) = lock(&self.progress).asked.get_mut(&key) {
                    foreseen.recipes = parses::count(&ran);
                }
                let shared = self.clone();
                let keep = move || shared.keep(&at, &asked, &inputs, &question, ran, seconds);
                spawn_blocking(keep).await.unwrap_or_else(|error| Err(Refusal(error.to_string())))
            }
            Err(refusal) => Err(refusal),
        };
        match &kept {
            Ok(Kept::Whole) => {}
            Ok(Kept::Answer(refusal)) => {
                self.add_to_why(&key, &format!("its parse cache was not kept: {refusal}"));
            }
            Err(refusal) => self.in_vain(&key, refusal.clone()),
        }
        drop(done);
        kept.map(|_| ())
    }

    /// What was parsed before is not parsed again ahead either.
    async fn restore_ahead(self: &Arc<Shared>, key: &Key, at: &Path, inputs: &Inputs) {
        let (shared, at, inputs) = (self.clone(), at.to_owned(), inputs.clone());
        let restored = spawn_blocking(move || shared.restore(&at, &inputs)).await;
        if let Ok(Restored::Refused(refusal)) = restored {
            self.add_to_why(key, &format!("the stored parse cache is not used: {refusal}"));
        }
    }

    fn add_to_why(&self, key: &Key, words: &str) {
        if let Some(foreseen) = lock(&self.progress).asked.get_mut(key) {
            foreseen.why += "; ";
            foreseen.why += words;
        }
    }

    fn in_vain(&self, key: &Key, refusal: Refusal) {
        if let Some(foreseen) = lock(&self.progress).asked.get_mut(key) {
            foreseen.in_vain = Some(refusal);
        }
    }
}
