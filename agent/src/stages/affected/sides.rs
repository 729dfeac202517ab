//! The task lists of base and head on one machine: from the signature cache, or from BitBake, in parallel if the
//! machine allows it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_cache::signature_cache::{
    BitbakeRunner, CacheResult, Concurrency, Invocation, NotCacheable, Place, Replaced, Side, SideInputs,
    TASK_LIST, TaskFiles, TaskQueries, TaskRun, WrittenConf,
};
use agent_process::{Environment, Interrupted};
use agent_types::error::{Class, Error, Result};
use agent_types::events::{CacheOutcome, CacheQuery, EventKind};
use agent_types::release::Release;
use agent_yocto::signatures::{Query, TaskList};

use super::super::blocking;
use super::super::check_layer::{close_queries, open_queries, place};
use super::super::cleanup::ServerEnd;
use super::{Base, Search};

/// The query for the tasks of one side.
struct SideQuery {
    side: Side,
    conf: WrittenConf,
    query_file: PathBuf,
    /// `None`: the cache cannot be used for these inputs.
    inputs: Option<SideInputs>,
}

/// The result of a lookup in the signature cache.
enum Lookup {
    Hit(Vec<u8>),
    /// With the reason.
    Miss(String),
}

/// The task lists of base and head; `None` if they are the same; otherwise why one of them is missing.
type Lists = std::result::Result<Option<(TaskList, TaskList)>, String>;

/// The task lists of base and head.
///
/// # Errors
/// When the job is stopped, or the machine cannot do its part.
pub async fn task_lists(search: &Search<'_>, top: &Path, base: &Base, machine: &str) -> Result<Lists> {
    let machine = MachineComparison {
        search,
        top,
        base,
        machine,
        build: search.settings.paths.affected().join("build"),
    };
    machine.task_lists().await
}

struct MachineComparison<'a> {
    search: &'a Search<'a>,
    top: &'a Path,
    base: &'a Base,
    machine: &'a str,
    /// The build directory that both sides see.
    build: PathBuf,
}

impl MachineComparison<'_> {
    async fn task_lists(&self) -> Result<Lists> {
        let queries = match self.queries().await {
            Ok(queries) => queries,
            Err(NotCacheable(why)) => {
                return Err(Error::machine(format!("the signature cache cannot be used: {why}")));
            }
        };
        let lists = self.lists(&queries).await;
        close_queries(&queries, self.search.runner).await;
        lists
    }

    async fn lists(&self, queries: &Arc<TaskQueries>) -> Result<Lists> {
        let head = self.head(queries).await?;
        let before = self.base_side(queries).await?;
        let same = head
            .inputs
            .as_ref()
            .zip(before.inputs.as_ref())
            .is_some_and(|(one, other)| one.key() == other.key());
        if same {
            // The same inputs have the same tasks.
            let message = "no file that BitBake reads changed, so no task changes";
            self.search.runner.events.info(message).await;
            return Ok(Ok(None));
        }
        let [head_answer, base_answer] =
            [self.lookup(queries, &head).await?, self.lookup(queries, &before).await?];
        let (head_answer, base_answer) = match (head_answer, base_answer) {
            (Lookup::Miss(why_head), Lookup::Miss(why_base)) => {
                self.query_both(queries, (&head, why_head), (&before, why_base)).await
            }
            (Lookup::Miss(why), Lookup::Hit(found)) => {
                (self.query_head(queries, &head, why).await, Ok(found))
            }
            (Lookup::Hit(found), Lookup::Miss(why)) => {
                (Ok(found), self.query_base(queries, &before, why).await)
            }
            (Lookup::Hit(one), Lookup::Hit(other)) => (Ok(one), Ok(other)),
        };
        if let Some(why) = self.search.runner.interrupt.state() {
            let class = match why {
                Interrupted::Cancelled => Class::Cancelled,
                Interrupted::OutOfTime => Class::OutOfTime,
            };
            return Err(Error::new(class, format!("the job was stopped before it knew {}", super::UNIT)));
        }
        let of = |what: &str, NotCacheable(why): NotCacheable| {
            format!("cannot get the tasks of the {what}: {why}")
        };
        let (head, before) = match (head_answer, base_answer) {
            (Ok(head), Ok(before)) => (head, before),
            (Err(why), _) => return Ok(Err(of("head", why))),
            (_, Err(why)) => return Ok(Err(of("base", why))),
        };
        let parse = move || {
            let parse = |bytes: &[u8]| TaskList::parse(bytes).map_err(|error| error.message);
            // Layer code can write to the file as well: an invalid file is not an error of the agent.
            Ok(parse(&before).and_then(|before| Ok(Some((before, parse(&head)?)))))
        };
        blocking(&self.search.runner.interrupt, "the task lists were read", parse).await
    }

    async fn queries(&self) -> CacheResult<Arc<TaskQueries>> {
        let (settings, configured) = (self.search.settings, self.search.configured);
        open_queries(settings, configured, &self.place(None), "affected").await
    }

    fn place(&self, replaced: Option<Replaced>) -> Place {
        Place { replaced, ..place(self.search.settings, self.search.configured, &self.build) }
    }

    /// The head, in the build directory itself.
    async fn head(&self, queries: &Arc<TaskQueries>) -> Result<SideQuery> {
        let settings = self.search.settings;
        let conf = self.search.configured.signatures_conf(settings, &self.build, &settings.layers)?;
        self.search.configured.empty_with(settings, &self.build, &conf, self.search.runner).await?;
        self.side_query(queries, "head", conf, self.place(None), self.top.to_owned()).await
    }

    /// The base, which BitBake sees at the path of the head.
    async fn base_side(&self, queries: &Arc<TaskQueries>) -> Result<SideQuery> {
        let settings = self.search.settings;
        let directory = fs_err::canonicalize(&self.base.directory)?;
        let has = |layer: &&PathBuf| {
            let inner = layer.strip_prefix(self.top).unwrap_or(Path::new(""));
            directory.join(inner).join("conf/layer.conf").is_file()
        };
        let layers: Vec<PathBuf> = settings.layers.iter().filter(has).cloned().collect();
        let conf = self.search.configured.signatures_conf(settings, &self.build, &layers)?;
        let replaced = Replaced { directory: directory.clone(), seen_at: self.top.to_owned() };
        let place = self.place(Some(replaced));
        // Where the agent's own directories are mounted.
        if let Some(replaced) = &place.replaced {
            for (_, inner) in replaced.own_below(&place.own) {
                fs_err::create_dir_all(inner)?;
            }
        }
        self.side_query(queries, "base", conf, place, directory).await
    }

    async fn side_query(
        &self,
        queries: &Arc<TaskQueries>,
        side: &str,
        conf: WrittenConf,
        place: Place,
        directory: PathBuf,
    ) -> Result<SideQuery> {
        let settings = self.search.settings;
        let query = Query {
            layers: settings.layers.clone(),
            targets: settings.compared_targets(),
            output: TASK_LIST.to_owned(),
        };
        let text = serde_json::to_vec(&query)
            .map_err(|error| Error::internal("cannot write the query for tasks").because(&error))?;
        let query_file = settings.paths.affected().join(format!("query-{side}.json"));
        fs_err::write(&query_file, &text)?;
        fs_err::set_permissions(&query_file, PermissionsExt::from_mode(0o644))?;
        // The inputs are read from the directory of the configuration.
        let at = settings.paths.affected().join(format!("conf-{side}"));
        fs_err::create_dir_all(at.join("conf"))?;
        fs_err::write(at.join("conf/bblayers.conf"), &conf.bblayers)?;
        fs_err::write(at.join("conf/local.conf"), &conf.local)?;
        let side = Side {
            place,
            at,
            invocation: self.invocation(),
            top: (self.top.to_owned(), directory),
            query: text,
            name: format!("tasks of the world and the layer, with MACHINE={}", self.machine),
        };
        let (reading, queries) = (side.clone(), queries.clone());
        let read = move || Ok(queries.inputs(&reading));
        let inputs = blocking(&self.search.runner.interrupt, "the layers were read", read).await?;
        let inputs = match inputs {
            Ok(inputs) => Some(inputs).filter(|_| settings.check.signature_cache),
            Err(NotCacheable(why)) => {
                let message = format!("{}: the signature cache is not used: {why}", super::UNIT);
                self.search.runner.events.info(message).await;
                None
            }
        };
        Ok(SideQuery { side, conf, query_file, inputs })
    }

    fn invocation(&self) -> Invocation {
        let configured = self.search.configured;
        let mut environment: Environment = configured.environment(&self.build);
        environment.set("MACHINE", self.machine).set("BB_SIGNATURE_HANDLER", "OEBasicHash");
        let list = Release::environment_allow_list(&configured.tools.bitbake_version);
        let mut names = environment.get(list).unwrap_or_default().to_owned();
        names.push(" BB_SIGNATURE_HANDLER");
        environment.set(list, names);
        Invocation {
            argv: ["-k", "-S", "none", "world"].map(Into::into).to_vec(),
            cwd: fs_err::canonicalize(&self.build).unwrap_or_else(|_| self.build.clone()),
            umask: 0o022,
            joined: true,
            environment: environment
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    async fn lookup(&self, queries: &Arc<TaskQueries>, query: &SideQuery) -> Result<Lookup> {
        let Some(inputs) = query.inputs.clone() else {
            return Ok(Lookup::Miss("the signature cache is not used".to_owned()));
        };
        let (queries, side) = (queries.clone(), query.side.clone());
        let find = move || Ok(queries.find(&side, &inputs));
        match blocking(&self.search.runner.interrupt, "the cache was read", find).await? {
            Ok(found) => {
                self.report(query, CacheOutcome::Hit, None, None).await;
                Ok(Lookup::Hit(found))
            }
            Err(why) => Ok(Lookup::Miss(why)),
        }
    }

    async fn report(
        &self,
        query: &SideQuery,
        outcome: CacheOutcome,
        why: Option<String>,
        run: Option<&TaskRun>,
    ) {
        let side = if query.side.place.replaced.is_some() { "base" } else { "head" };
        let query = CacheQuery {
            query: format!("{} ({side})", query.side.name),
            outcome,
            why,
            seconds_saved: None,
            recipes: run.and_then(|run| run.recipes),
            rerun: 0,
        };
        self.search.runner.events.emit(EventKind::CacheQuery { unit: self.search.unit.clone(), query }).await;
    }

    /// Runs BitBake for both sides, in parallel if the machine allows it.
    async fn query_both(
        &self,
        queries: &Arc<TaskQueries>,
        (head, why_head): (&SideQuery, String),
        (base, why_base): (&SideQuery, String),
    ) -> (CacheResult<Vec<u8>>, CacheResult<Vec<u8>>) {
        let bitbake = self.bitbake(base);
        match bitbake.concurrency(2).await {
            Concurrency::Parallel(_) => {
                tokio::join!(
                    self.query_head(queries, head, why_head),
                    self.query_base(queries, base, why_base)
                )
            }
            Concurrency::Serial(_) => {
                let base = self.query_base(queries, base, why_base).await;
                // Without the base, the head has no use.
                match base {
                    Err(why) => (
                        Err(NotCacheable("BitBake did not run, because the base has no tasks".into())),
                        Err(why),
                    ),
                    base => (self.query_head(queries, head, why_head).await, base),
                }
            }
        }
    }

    fn bitbake(&self, query: &SideQuery) -> BitbakeRunner {
        let search = self.search;
        let side = if query.side.place.replaced.is_some() { "base" } else { "head" };
        let (user, work) = (search.configured.user.as_ref(), &search.settings.paths.work);
        let scratch = search.settings.paths.affected().join(format!("scratch-{side}"));
        let files = TaskFiles { query: query.query_file.clone(), answer: TASK_LIST };
        let most = search.settings.check.max_parallel_bitbakes;
        BitbakeRunner::new(search.runner, &query.side.place, user, scratch, work, "", most).for_tasks(
            &search.unit,
            &format!("affected-{side}-{}", self.machine),
            files,
        )
    }

    async fn query_head(
        &self,
        queries: &Arc<TaskQueries>,
        query: &SideQuery,
        why: String,
    ) -> CacheResult<Vec<u8>> {
        let bitbake = self.bitbake(query);
        let side = Side { at: self.build.clone(), ..query.side.clone() };
        let stop = bitbake.interrupt();
        let run = queries.ask(&side, query.inputs.as_ref(), None, &bitbake, &stop).await;
        let user = self.search.configured.user.as_ref();
        let server = ServerEnd::stop(&self.build, user, self.search.runner).await;
        server.report(&self.search.runner.events).await;
        self.report_miss(query, why, run).await
    }

    async fn query_base(
        &self,
        queries: &Arc<TaskQueries>,
        query: &SideQuery,
        why: String,
    ) -> CacheResult<Vec<u8>> {
        let bitbake = self.bitbake(query);
        let scratch_dir = bitbake.scratch_dir_with(&query.conf)?;
        let side = Side { at: scratch_dir.path().to_owned(), ..query.side.clone() };
        let stop = bitbake.interrupt();
        let run = queries.ask(&side, query.inputs.as_ref(), Some(&scratch_dir), &bitbake, &stop).await;
        bitbake.clear(scratch_dir).await;
        self.report_miss(query, why, run).await
    }

    async fn report_miss(
        &self,
        query: &SideQuery,
        why: String,
        run: CacheResult<TaskRun>,
    ) -> CacheResult<Vec<u8>> {
        let run = run?;
        let why = match &run.not_stored {
            Some(NotCacheable(reason)) => format!("{why}; the new answer was not stored: {reason}"),
            None => why,
        };
        self.report(query, CacheOutcome::Miss, Some(why), Some(&run)).await;
        Ok(run.tasks)
    }
}
