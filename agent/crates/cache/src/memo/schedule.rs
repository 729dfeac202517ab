//! What is asked ahead, and when: at a question without an answer the next ones are known as well.
//!
//! Whether all recipes parse is asked before the world with the layer. BitBake's caches of the world serve
//! it, and not the other way round: so the world comes first. Side by side, the world (and then that
//! question) is asked in one room and the world with the class in another. One after another, the world
//! is asked in the check's own build directory, before the question that was asked.
//!
//! The world without the layer is asked alone: beside it no code of the layer may run, or its answer could not be
//! kept for later jobs.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

use agent_process::{End, Interrupt};
use agent_yocto::check_layer::Kind;

use super::ahead::{Room, Way};
use super::desk::{Looked, Shared, lock};
use super::foresee::{Next, OfLayer, Script};
use super::keep::{Answered, Kept};
use super::key::{Inputs, Key};
use super::parses::{self, Restored};
use super::progress::{Foreseen, Foresight, FreshOutcome};
use super::{Accepted, Asked, Question, Refusal, difference};

/// Asking ahead in one run.
#[derive(Debug)]
pub struct Schedule {
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

/// Questions for one room, one after another.
struct Lane {
    asked: Vec<Asked>,
    /// What is asked at the end when BitBake fails at the first one: the same without `-k`, which has another
    /// answer then.
    if_first_fails: Option<Asked>,
}

impl Lane {
    fn of(asked: Vec<Asked>) -> Lane {
        Lane { asked, if_first_fails: None }
    }
}

impl Schedule {
    pub fn new(script: Script, stop: Interrupt) -> Schedule {
        Schedule { script, stop, lanes: tokio::sync::Mutex::default() }
    }

    /// Ends what is under way.
    pub async fn close(&self) {
        self.stop.signal();
        let mut lanes = self.lanes.lock().await;
        while lanes.join_next().await.is_some() {}
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
        let fresh = || lock(&self.progress).outcome(&key, asked);
        if let Some(fresh) = fresh() {
            return Ok(Looked { fresh: Some(fresh), ..looked });
        }
        let since = Instant::now();
        let known = lock(&self.progress).receiver(&key);
        let answered = match known {
            Some(_) => true,
            None => {
                self.stop_what_is_not_asked(schedule, question, &looked.inputs).await;
                let begun = self.begin(schedule, asked).await;
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
        // Still of the same inputs.
        if looked.inputs.key() == key
            && let Some(fresh) = fresh()
        {
            return Ok(Looked { fresh: Some(fresh), ..looked });
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
            schedule.stop.signal();
            let message = format!("{} was asked ahead with other inputs: {other}", question.name);
            self.events.info(message).await;
        }
    }

    /// Foresees what comes after this question and begins to ask it, once for each kind. Whether the
    /// question itself may have an answer then.
    async fn begin(self: &Arc<Shared>, schedule: &Schedule, asked: &Asked) -> bool {
        if schedule.stop.state().is_some() {
            return false;
        }
        let (next, kind) = {
            let mut progress = lock(&self.progress);
            let next = progress.first.as_ref().and_then(|first| schedule.script.next(asked, first));
            let Some(next) = next else { return false };
            let kind = match &next {
                Next::Layer(_) => Foresight::Layer,
                Next::Machines(_) => Foresight::Machines,
            };
            if !progress.begun.insert(kind) {
                return false;
            }
            (next, kind)
        };
        match (self.ahead.way(2).await, next) {
            (Way::SideBySide(most), Next::Layer(of_layer)) => {
                let OfLayer { world, strict_world, parse, class } = *of_layer;
                let mut lanes = vec![Lane { asked: vec![world, parse], if_first_fails: Some(strict_world) }];
                lanes.extend(class.map(|class| Lane::of(vec![class])));
                self.side_by_side(schedule, lanes, most).await;
                kind == Foresight::Layer
            }
            (Way::SideBySide(most), Next::Machines(all)) => {
                let lanes = all.into_iter().map(|one| Lane::of(vec![one])).collect();
                self.side_by_side(schedule, lanes, most).await;
                true
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
        let _own = self.own_directory().await;
        self.ask_ahead(planned, None, &schedule.stop).await.map(drop)
    }

    /// Begins to ask each lane in a room of its own, `most` of them at once.
    async fn side_by_side(self: &Arc<Shared>, schedule: &Schedule, lanes: Vec<Lane>, most: usize) {
        let permits = Arc::new(Semaphore::new(most));
        let mut names = Vec::new();
        for lane in lanes {
            let room = match self.ahead.room().await {
                Ok(room) => room,
                Err(refusal) => {
                    self.events.info(format!("nothing is asked ahead: {refusal}")).await;
                    break;
                }
            };
            let mut planned = Vec::new();
            for (place, asked) in lane.asked.iter().enumerate() {
                // Without the world before it a question is better asked by the check itself.
                if place == 0 || !planned.is_empty() {
                    planned.extend(self.plan(asked, room.path()).await.ok().flatten());
                }
            }
            if planned.is_empty() {
                self.ahead.clear(room).await;
                continue;
            }
            names.extend(planned.iter().map(|planned| planned.question.name.clone()));
            let (shared, permits, stop) = (self.clone(), permits.clone(), schedule.stop.part());
            schedule.lanes.lock().await.spawn(async move {
                let _permit = permits.acquire_owned().await;
                shared.lane(room, planned, lane.if_first_fails, &stop).await;
            });
        }
        if !names.is_empty() {
            self.events.info(format!("asked ahead, side by side: {}", names.join("; "))).await;
        }
    }

    /// Takes note of a question that is to be asked ahead `at` this build directory; `None` when its answer
    /// is known or under way.
    async fn plan(self: &Arc<Shared>, asked: &Asked, at: &Path) -> Accepted<Option<Planned>> {
        let Some(question) = Question::recognise(asked) else { return Ok(None) };
        let Looked { inputs, found, why, .. } = self.look_at(at, asked, &question).await?;
        let mut progress = lock(&self.progress);
        let key = inputs.key();
        if found.is_some() || progress.asked.contains_key(&key) {
            return Ok(None);
        }
        let (done, under_way) = watch::channel(());
        let name = question.name.clone();
        let inputs_of = inputs.clone();
        let (recipes, in_vain, outcomes) = (None, None, Vec::new());
        let foreseen = Foreseen { name, inputs: inputs_of, under_way, why, recipes, in_vain, outcomes };
        progress.asked.insert(key, foreseen);
        Ok(Some(Planned { asked: asked.clone(), question, inputs, done }))
    }

    /// Asks some questions one after another in a room of their own. After one that could not be asked the
    /// rest is not asked.
    async fn lane(
        self: &Arc<Shared>,
        room: Room,
        lane: Vec<Planned>,
        if_first_fails: Option<Asked>,
        stop: &Interrupt,
    ) {
        let mut trouble = None;
        let mut last = None;
        for (place, planned) in lane.into_iter().enumerate() {
            if let Some(refusal) = &trouble {
                self.in_vain(&planned.inputs.key(), Refusal::clone(refusal));
                continue;
            }
            let (question, inputs) = (planned.question.clone(), planned.inputs.clone());
            match self.ask_ahead(planned, Some(&room), stop).await {
                Ok(false) if place == 0 => {
                    let planned = if_first_fails.clone().map(|asked| {
                        let done = self.under_way_again(&inputs.key());
                        Planned { asked, question, inputs, done }
                    });
                    last = planned;
                }
                Ok(_) => {}
                Err(refusal) => trouble = Some(refusal),
            }
        }
        if let Some(planned) = last.filter(|_| trouble.is_none()) {
            let _ = self.ask_ahead(planned, Some(&room), stop).await;
        }
        self.ahead.clear(room).await;
    }

    /// Asks BitBake; whether it ended well.
    async fn ask_ahead(
        self: &Arc<Shared>,
        planned: Planned,
        room: Option<&Room>,
        stop: &Interrupt,
    ) -> Accepted<bool> {
        let Planned { asked, question, inputs, done } = planned;
        let key = inputs.key();
        let at = room.map_or(&*self.place.build, Room::path).to_owned();
        let restored = self.restore_ahead(&key, &at, &inputs).await;
        let ran = match self.ahead.ask(&asked, &question.name, room, stop).await {
            Ok(ran) => ran,
            Err(refusal) => {
                self.in_vain(&key, refusal.clone());
                return Err(refusal);
            }
        };
        let is_well = ran.outcome.end == End::Exited(0);
        if restored && !is_well {
            lock(&self.ledger).failed_with_cache();
        }
        if let Some(foreseen) = lock(&self.progress).asked.get_mut(&key) {
            foreseen.recipes = parses::count(&ran.outcome).or(foreseen.recipes);
        }
        let (argv, outcome, seconds) = (asked.argv.clone(), ran.outcome.clone(), ran.seconds);
        let answered = Answered { at, asked, inputs, question, ran, is_first: false, restored };
        let shared = self.clone();
        let kept = spawn_blocking(move || shared.keep(&answered)).await;
        match kept.unwrap_or_else(|error| Err(Refusal(error.to_string()))) {
            Ok(Kept::Whole) => {}
            Ok(Kept::Answer(refusal)) => {
                self.add_to_why(&key, &format!("its parse cache was not kept: {refusal}"));
            }
            Ok(Kept::Nothing(why)) => {
                if let Some(foreseen) = lock(&self.progress).asked.get_mut(&key) {
                    foreseen.outcomes.push(FreshOutcome { argv, outcome, seconds, why });
                }
            }
            Err(refusal) => {
                self.in_vain(&key, refusal.clone());
                return Err(refusal);
            }
        }
        drop(done);
        Ok(is_well)
    }

    /// A question of these inputs is asked once more, in other words: whoever asks so waits for it.
    fn under_way_again(&self, key: &Key) -> watch::Sender<()> {
        let (done, under_way) = watch::channel(());
        if let Some(foreseen) = lock(&self.progress).asked.get_mut(key) {
            foreseen.under_way = under_way;
        }
        done
    }

    /// What was parsed before is not parsed again ahead either.
    async fn restore_ahead(self: &Arc<Shared>, key: &Key, at: &Path, inputs: &Inputs) -> bool {
        let (shared, at, inputs) = (self.clone(), at.to_owned(), inputs.clone());
        let restored = spawn_blocking(move || shared.restore(&at, &inputs)).await;
        match restored {
            Ok(Restored::Refused(refusal)) => {
                self.add_to_why(key, &format!("the stored parse cache is not used: {refusal}"));
                false
            }
            Ok(restored) => restored == Restored::Put,
            Err(_) => false,
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
