//! How much BitBake runs at the same time: as much as the processors and the memory of the machine allow.
//!
//! BitBake counts the processors of the host, and knows neither a CPU quota nor a memory limit. None of the variables
//! here enters the hash of a task.

use std::fmt::Write;

use agent_types::release::Release;

use super::conf_syntax::Variables;

const GIB: u64 = 1 << 30;

/// A compiler that gets too little memory is killed, so the limits are cautious: a build runs several recipes at the
/// same time, and each of them starts so many compilers.
const BYTES_PER_JOB: u64 = 4 * GIB;
/// The same for the recipes of [`HEAVY`].
const BYTES_PER_HEAVY_JOB: u64 = 8 * GIB;
/// Of any task.
const BYTES_PER_TASK: u64 = 2 * GIB;
/// Of one compiler on average, if several recipes compile: not all of their jobs run all the time.
const BYTES_PER_COMPILER: u64 = GIB / 2;
/// BitBake's parsers.
const BYTES_PER_PARSER: u64 = GIB / 2;

/// Recipes whose compilers or linkers take several GiB each. Each name stands for its native and nativesdk variants,
/// too.
const HEAVY: [&str; 22] = [
    "chromium-ozone-wayland",
    "chromium-x11",
    "clang",
    "firefox",
    "llvm",
    "llvm-project",
    "mongodb",
    "mozjs-102",
    "mozjs-115",
    "mozjs-128",
    "mozjs-91",
    "nodejs",
    "onnxruntime",
    "pytorch",
    "qtwebengine",
    "rust",
    "rust-llvm",
    "tensorflow",
    "tensorflow-lite",
    "webkitgtk",
    "webkitgtk3",
    "wpewebkit",
];

/// What a build may use of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Processors, a CPU quota taken into account; at least one.
    pub cores: usize,
    /// The memory of the machine or the limit of the control group, whichever is less; `None`: unknown.
    pub bytes: Option<u64>,
    /// Whether the limit of the control group is less than the memory of the machine, which programs see.
    pub is_limited: bool,
}

/// How much runs at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallelism {
    pub resources: Resources,
    /// `BB_NUMBER_THREADS`: tasks.
    pub tasks: usize,
    /// `BB_NUMBER_PARSE_THREADS`
    pub parsers: usize,
    /// `-j` of `PARALLEL_MAKE`: compilers of one recipe.
    pub jobs: usize,
    /// `-j` of heavy recipes.
    pub heavy_jobs: usize,
    /// `do_compile[number_threads]`: recipes that compile.
    pub compiling: usize,
}

impl Parallelism {
    pub fn of(resources: Resources) -> Parallelism {
        let cores = resources.cores.max(1);
        let at_most = |bytes_each: u64| match resources.bytes {
            // Rounded: a machine sold with 8 GiB has a little less.
            Some(bytes) => usize::try_from((bytes + bytes_each / 2) / bytes_each).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let fitting = |bytes_each: u64| at_most(bytes_each).clamp(1, cores);
        let (tasks, jobs) = (fitting(BYTES_PER_TASK), fitting(BYTES_PER_JOB));
        Parallelism {
            resources,
            tasks,
            parsers: fitting(BYTES_PER_PARSER),
            jobs,
            heavy_jobs: fitting(BYTES_PER_HEAVY_JOB).min(jobs),
            compiling: at_most(BYTES_PER_COMPILER * jobs as u64).clamp(1, tasks),
        }
    }

    /// After a task was killed because memory ran out.
    #[must_use]
    pub fn halved(self) -> Parallelism {
        let half = |number: usize| (number / 2).max(1);
        Parallelism {
            tasks: half(self.tasks),
            jobs: half(self.jobs),
            heavy_jobs: half(self.heavy_jobs),
            compiling: half(self.compiling),
            ..self
        }
    }

    /// Half of it, and of what the configuration allows if that is less. `None`: BitBake did not run more at the same time
    /// than that. `of`: the values that BitBake uses.
    pub fn for_retry<'a>(self, of: impl Fn(&str) -> Option<&'a str>) -> Option<Parallelism> {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number > 0);
        let tasks = of(TASKS).and_then(number).unwrap_or(self.tasks);
        let jobs = of(JOBS).and_then(|make| number(make.trim().strip_prefix("-j")?)).unwrap_or(self.jobs);
        let allowed = Parallelism {
            tasks: self.tasks.min(tasks),
            jobs: self.jobs.min(jobs),
            heavy_jobs: self.heavy_jobs.min(jobs),
            compiling: self.compiling.min(tasks),
            ..self
        };
        let less = allowed.halved();
        // A configuration can use more than the machine has memory for.
        (less != allowed || less.tasks < tasks || less.jobs < jobs).then_some(less)
    }

    /// For people: `2 tasks, 1 of them compiles with -j 4`.
    pub fn describe(self) -> String {
        let Parallelism { tasks, jobs, heavy_jobs, .. } = self;
        let heavy =
            if heavy_jobs < jobs { format!(" (-j {heavy_jobs} for heavy recipes)") } else { String::new() };
        format!("BB_NUMBER_THREADS {tasks}, PARALLEL_MAKE -j {jobs}{heavy}")
    }

    /// The values that BitBake uses if nothing overrides them.
    pub fn expected(self) -> [(&'static str, String); 2] {
        [(TASKS, self.tasks.to_string()), (JOBS, format!("-j {}", self.jobs))]
    }

    /// The lines of `local.conf`, without the variables that the manifest sets. In some classes of older releases, the
    /// hashes of tasks depend on `BB_NUMBER_THREADS`; the flag prevents that.
    pub fn render(self, release: &Release, manifest: &str) -> String {
        let mut text = format!(
            "{TASKS} ?= \"{}\"\n\
             {TASKS}[vardepvalue] = \"1\"\n\
             BB_NUMBER_PARSE_THREADS ?= \"{}\"\n\
             {JOBS} ?= \"-j {}\"\n",
            self.tasks, self.parsers, self.jobs
        );
        let manifest = Variables::parse(manifest);
        let is_set = |name: &str| manifest.names().any(|set| set == name);
        // A cap for a recipe must not be more than the manifest allows for all.
        let is_capped = self.heavy_jobs < self.jobs && !is_set(JOBS);
        text += &self.caps(release, if is_capped { &HEAVY[..] } else { &[] }, self.heavy_jobs);
        if self.compiling < self.tasks && !is_set(TASKS) {
            let _ = writeln!(text, "do_compile[number_threads] = \"{}\"", self.compiling);
        }
        if let Some(bytes) = self.resources.bytes.filter(|_| self.resources.is_limited) {
            // Half of the memory, as OE-Core has it: xz itself sees the memory of the host.
            let mib = bytes / 2 / (1 << 20);
            let _ = writeln!(text, "XZ_MEMLIMIT ?= \"{mib}MiB\"");
            // Before kirkstone they are part of hashes.
            if !release.bitbake.starts_with("1.") {
                let threads = self.resources.cores.max(2);
                let _ = write!(text, "XZ_THREADS ?= \"{threads}\"\nZSTD_THREADS ?= \"{threads}\"\n");
            }
        }
        text
    }

    /// The file that is read after the whole configuration for one more attempt. `killed`: recipes that need more
    /// memory than they had; they get half of `jobs` again.
    pub fn render_retry(self, release: &Release, killed: &[String]) -> String {
        let Parallelism { tasks, jobs, heavy_jobs, compiling, .. } = self;
        let mut text = format!(
            "# Written by build-agent: a task was killed because memory ran out.\n\
             {TASKS} = \"{tasks}\"\n\
             {JOBS} = \"-j {jobs}\"\n\
             do_compile[number_threads] = \"{compiling}\"\n"
        );
        text += &self.caps(release, &HEAVY, heavy_jobs.min(jobs));
        let separator = release.overrides.separator();
        for recipe in killed.iter().filter(|name| is_plain(name)) {
            let least = if HEAVY.contains(&base_name(recipe)) { heavy_jobs } else { jobs };
            let _ = writeln!(text, "{JOBS}{separator}pn-{recipe} = \"-j {least}\"");
        }
        text
    }

    fn caps(self, release: &Release, recipes: &[&str], jobs: usize) -> String {
        let separator = release.overrides.separator();
        let mut text = String::new();
        for recipe in recipes {
            for name in [(*recipe).to_owned(), format!("{recipe}-native"), format!("nativesdk-{recipe}")] {
                let _ = writeln!(text, "{JOBS}{separator}pn-{name} = \"-j {jobs}\"");
            }
        }
        text
    }
}

const TASKS: &str = "BB_NUMBER_THREADS";
const JOBS: &str = "PARALLEL_MAKE";

/// The name of the recipe of which this is a variant.
fn base_name(recipe: &str) -> &str {
    let name = recipe.strip_prefix("nativesdk-").unwrap_or(recipe);
    name.strip_suffix("-native").unwrap_or(name)
}

/// Whether it can be part of a variable's name. Layer code can choose any PN.
fn is_plain(recipe: &str) -> bool {
    !recipe.is_empty()
        && recipe.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(cores: usize, gib: f64) -> Parallelism {
        let bytes = Some((gib * GIB as f64) as u64);
        Parallelism::of(Resources { cores, bytes, is_limited: false })
    }

    #[test]
    fn memory_and_processors_limit_what_runs_at_the_same_time() {
        // Cores and GiB; tasks, parsers, jobs, jobs of heavy recipes, recipes that compile.
        let table = [
            // CodeBuild: small, medium, large, 2xlarge.
            (2, 3.8, [2, 2, 1, 1, 2]),
            (4, 7.2, [4, 4, 2, 1, 4]),
            (8, 15.0, [8, 8, 4, 2, 8]),
            (72, 144.0, [72, 72, 36, 18, 8]),
            // A container with a memory limit on a large host.
            (64, 64.0, [32, 64, 16, 8, 8]),
            (64, 4.0, [2, 8, 1, 1, 2]),
            (64, 0.25, [1, 1, 1, 1, 1]),
            // Much memory.
            (4, 512.0, [4, 4, 4, 4, 4]),
            (1, 64.0, [1, 1, 1, 1, 1]),
        ];
        for (cores, gib, wanted) in table {
            let Parallelism { tasks, parsers, jobs, heavy_jobs, compiling, .. } = of(cores, gib);
            assert_eq!([tasks, parsers, jobs, heavy_jobs, compiling], wanted, "{cores} cores, {gib} GiB");
        }
        let unknown = Parallelism::of(Resources { cores: 0, bytes: None, is_limited: false });
        assert_eq!((unknown.tasks, unknown.jobs, unknown.heavy_jobs, unknown.compiling), (1, 1, 1, 1));
    }

    #[test]
    fn half_is_at_least_one() {
        let halved = of(72, 144.0).halved();
        assert_eq!((halved.tasks, halved.jobs, halved.heavy_jobs, halved.compiling), (36, 18, 9, 4));
        let least = of(1, 1.0);
        assert_eq!(least.halved(), least);
    }

    #[test]
    fn a_retry_runs_half_of_what_machine_and_configuration_allow() {
        let large = of(8, 15.0);
        let least = of(1, 1.0);
        for (ours, threads, make, wanted) in [
            (large, None, None, Some((4, 2, 1, 4))),
            (large, Some("2"), Some("-j 1"), Some((1, 1, 1, 1))),
            (large, Some("64"), Some("-j 64"), Some((4, 2, 1, 4))),
            (large, Some("0"), Some("-j3 -l 2"), Some((4, 2, 1, 4))),
            (large, Some(" 6 "), Some(" -j3"), Some((3, 1, 1, 3))),
            (large, Some("1"), Some("-j 1"), None),
            (least, None, None, None),
            (least, Some("1"), Some("-j 2"), Some((1, 1, 1, 1))),
            (least, Some("4"), Some("-j 1"), Some((1, 1, 1, 1))),
        ] {
            let found = ours.for_retry(|name| if name == TASKS { threads } else { make });
            let found = found.map(|less| (less.tasks, less.jobs, less.heavy_jobs, less.compiling));
            assert_eq!(found, wanted, "{threads:?} {make:?}");
        }
    }

    #[test]
    fn the_configuration_has_the_syntax_of_the_release() {
        for (release, wanted) in [
            ("dunfell", "PARALLEL_MAKE_pn-llvm-native = \"-j 2\"\n"),
            ("scarthgap", "PARALLEL_MAKE:pn-llvm = \"-j 2\"\n"),
        ] {
            let text = of(8, 15.0).render(Release::find(release).unwrap(), "");
            assert!(text.contains(wanted), "{release}: {text}");
            for line in ["BB_NUMBER_THREADS ?= \"8\"\n", "PARALLEL_MAKE ?= \"-j 4\"\n"] {
                assert!(text.starts_with("BB_NUMBER_THREADS") && text.contains(line), "{text}");
            }
            assert!(!text.contains("XZ_"), "{text}");
        }
    }

    #[test]
    fn values_of_the_manifest_are_not_overridden() {
        let release = Release::find("scarthgap").unwrap();
        for (manifest, has_caps, limits_compiling) in [
            ("", true, true),
            ("PARALLEL_MAKE = \"-j 2\"", false, true),
            ("PARALLEL_MAKE:pn-foo = \"-j 2\"", false, true),
            ("BB_NUMBER_THREADS = \"2\"", true, false),
            ("# PARALLEL_MAKE = \"-j 2\"", true, true),
        ] {
            let text = of(72, 144.0).render(release, manifest);
            assert_eq!(text.contains(":pn-"), has_caps, "{manifest}: {text}");
            assert_eq!(
                text.contains("do_compile[number_threads] = \"8\""),
                limits_compiling,
                "{manifest}: {text}"
            );
        }
        let text = of(4, 512.0).render(release, "");
        assert!(!text.contains(":pn-") && !text.contains("number_threads]"), "nothing to limit: {text}");
    }

    #[test]
    fn compression_sees_the_limit_of_the_container() {
        let resources = Resources { cores: 1, bytes: Some(4 * GIB), is_limited: true };
        let render = |release: &str| Parallelism::of(resources).render(Release::find(release).unwrap(), "");
        assert!(render("honister").ends_with("XZ_MEMLIMIT ?= \"2048MiB\"\n"));
        let text = render("scarthgap");
        assert!(
            text.ends_with("XZ_MEMLIMIT ?= \"2048MiB\"\nXZ_THREADS ?= \"2\"\nZSTD_THREADS ?= \"2\"\n"),
            "{text}"
        );
    }

    #[test]
    fn a_retry_overrides_the_configuration() {
        let killed = ["hello".to_owned(), "llvm-native".into(), "evil\" x".into(), "${X}".into()];
        let text = of(8, 15.0).halved().render_retry(Release::find("kirkstone").unwrap(), &killed);
        for line in [
            "BB_NUMBER_THREADS = \"4\"\n",
            "PARALLEL_MAKE = \"-j 2\"\n",
            "do_compile[number_threads] = \"4\"\n",
            "PARALLEL_MAKE:pn-clang = \"-j 1\"\n",
            "PARALLEL_MAKE:pn-hello = \"-j 2\"\n",
            "PARALLEL_MAKE:pn-llvm-native = \"-j 1\"\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("evil") && !text.contains("${X}"), "{text}");
    }
}
