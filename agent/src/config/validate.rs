//! Validates the manifest's sections except `[repos]`: rules that types cannot express.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_artifacts::store::artifact_pattern::{artifact_pattern, excludes_all};
use agent_cache::bucket::endpoint::{PORT, PORTS};
use agent_objects::Prices;
use agent_types::base_result::FailOn;
use agent_types::tiers::Access;

use super::manifest::{
    CacheAccess, FailOnWord, LayerOrderWord, UnvalidatedAppId, UnvalidatedManifest,
    UnvalidatedReverseDependencies,
};
use super::paths::ProjectRoot;
use super::problem::{Diagnostic, KeyPath};
use super::rules::Rules;
use super::settings::{
    ArtifactRule, Buildtools, CostSettings, Destination, DeviceTests, GitHub, GitHubApp, HashServer, Hook,
    LayerOrder, Limits, ReverseDependencies, TemplateConf, Test,
};
use super::shared::RawCache;
use super::validator::Validator;
use super::{
    address, bitbake_variables, buildtools, device_section, hooks, requests, templateconf, tests_section,
    values,
};

/// The validated sections. A default replaces an invalid value; it is never used, because problems end the
/// reading.
#[derive(Debug)]
pub struct Sections {
    pub name: String,
    pub layers: Vec<PathBuf>,
    /// The layers under test, their names and priorities in the order of the layers.
    pub layer_order: LayerOrder,
    pub machines: Vec<String>,
    pub distro: Option<String>,
    pub local_conf: String,
    pub templateconf: Option<TemplateConf>,
    pub buildtools: Option<Buildtools>,
    pub bblayers_conf: String,
    pub multiconfigs: Vec<String>,
    pub env: Vec<(String, String)>,
    pub bitbake_layers: Vec<Vec<String>>,
    pub check_machines: Vec<String>,
    pub max_parallel_bitbakes: Option<NonZeroUsize>,
    /// Absolute.
    pub known_failures: Option<PathBuf>,
    pub parse_machines: Vec<String>,
    pub cve_database: Option<PathBuf>,
    pub hooks: Vec<Hook>,
    pub targets: Vec<String>,
    pub test: Test,
    pub device: Option<DeviceTests>,
    pub changed: bool,
    pub reverse_dependencies: ReverseDependencies,
    pub destination: Option<Destination>,
    pub kms_key_id: Option<String>,
    pub rules: Vec<ArtifactRule>,
    pub fail_on: FailOn,
    pub report_url: Option<String>,
    pub github: Option<GitHub>,
    pub limits: Limits,
    pub cost: CostSettings,
    pub cache: RawCache,
}

fn section(name: &str) -> KeyPath {
    KeyPath::root().key(name)
}

/// Validates every section; relative paths of `--set` start at `cwd`.
pub fn validate(
    check: &mut Validator,
    raw: &UnvalidatedManifest,
    project_root: &ProjectRoot,
    cwd: &Path,
) -> Sections {
    let name =
        check.one(&section("name"), raw.name.as_ref(), |text| values::name(text).map(|()| text.to_owned()));
    let machines = machines(check, "config", raw.config.machines.as_ref())
        .unwrap_or_else(|| vec!["qemux86-64".to_owned()]);
    let under_test = layers(check, raw, project_root);
    let layer_name = check.one(&section("layer").key("name"), raw.layer.name.as_ref(), owned(values::name));
    let task = check.one(&section("build").key("task"), raw.build.task.as_ref(), requests::task);
    let targets =
        check.list(&section("build").key("targets"), raw.build.targets.as_ref(), owned(requests::target));
    let multiconfigs = match &raw.config.multiconfigs {
        Some(_) => check.list(
            &section("config").key("multiconfigs"),
            raw.config.multiconfigs.as_ref(),
            owned(values::conf_name),
        ),
        None => requests::multiconfigs(&targets),
    };
    Sections {
        layer_order: LayerOrder {
            by_name: raw.config.layer_order == Some(LayerOrderWord::Name),
            checkout: layer_name.or_else(|| name.clone()).unwrap_or_default(),
            priorities: BTreeMap::new(),
            under_test: under_test.iter().filter(|(_, priority)| *priority != 0).cloned().collect(),
        },
        layers: under_test.into_iter().map(|(layer, _)| layer).collect(),
        bblayers_conf: check
            .one(
                &section("config").key("bblayers_conf"),
                raw.config.bblayers_conf.as_ref(),
                owned(values::conf_lines),
            )
            .unwrap_or_default(),
        multiconfigs,
        env: bitbake_variables::validate(check, raw),
        name: name.unwrap_or_default(),
        distro: check.one(
            &section("config").key("distro"),
            raw.config.distro.as_ref(),
            owned(values::conf_name),
        ),
        local_conf: check
            .one(
                &section("config").key("local_conf"),
                raw.config.local_conf.as_ref(),
                owned(values::conf_lines),
            )
            .unwrap_or_default(),
        templateconf: templateconf::validate(check, raw, project_root, |text, root| {
            inside(text, root, |path| path.is_dir(), "no such directory")
        }),
        buildtools: buildtools::validate(check, raw),
        bitbake_layers: check.list(
            &section("check").key("bitbake_layers"),
            raw.check.bitbake_layers.as_ref(),
            requests::bitbake_layers,
        ),
        check_machines: check.list(
            &section("check").key("machines"),
            raw.check.machines.as_ref(),
            owned(values::conf_name),
        ),
        max_parallel_bitbakes: max_parallel_bitbakes(check, raw),
        known_failures: check.one(
            &section("check").key("known_failures"),
            raw.check.known_failures.as_ref(),
            |text| known_failures(text, project_root),
        ),
        parse_machines: check.list(
            &section("check").key("parse_machines"),
            raw.check.parse_machines.as_ref(),
            owned(values::conf_name),
        ),
        cve_database: check.one(
            &section("check").key("cve_database"),
            raw.check.cve_database.as_ref(),
            requests::database,
        ),
        hooks: hooks::validate(check, raw),
        targets: requests::with_task(targets, task.as_deref()),
        test: tests_section::validate(check, raw),
        device: device_section::validate(check, raw, &machines),
        machines,
        changed: raw.build.changed.unwrap_or(false),
        reverse_dependencies: reverse_dependencies(check, raw),
        destination: destination(check, raw, project_root, cwd),
        kms_key_id: check.one(
            &section("artifacts").key("kms_key_id"),
            raw.artifacts.kms_key_id.as_ref(),
            |text| match text.is_empty() || text.contains(char::is_whitespace) {
                true => Err(Diagnostic::new("is no KMS key").hint("write its id, ARN or alias")),
                false => Ok(text.to_owned()),
            },
        ),
        rules: rules(check, raw),
        fail_on: match raw.report.fail_on.unwrap_or_default() {
            FailOnWord::All => FailOn::All,
            FailOnWord::New => FailOn::New,
        },
        report_url: check.one(&section("report").key("url"), raw.report.url.as_ref(), address::web_page),
        github: github(check, raw),
        limits: limits(check, raw),
        cost: cost(check, raw),
        cache: cache(check, raw),
    }
}

/// Turns a rule that only checks into one that returns the text.
fn owned(rule: impl Fn(&str) -> Result<(), Diagnostic>) -> impl Fn(&str) -> Result<String, Diagnostic> {
    move |text| rule(text).map(|()| text.to_owned())
}

fn max_parallel_bitbakes(check: &mut Validator, raw: &UnvalidatedManifest) -> Option<NonZeroUsize> {
    let number = raw.check.max_parallel_bitbakes?;
    let most = usize::try_from(number).ok().and_then(NonZeroUsize::new);
    if most.is_none() {
        let mistake = Diagnostic::new(format!("is {number}")).hint("1 means one after another");
        check.value(&section("check").key("max_parallel_bitbakes"), mistake);
    }
    most
}

fn reverse_dependencies(check: &mut Validator, raw: &UnvalidatedManifest) -> ReverseDependencies {
    let path = section("build").key("reverse_dependencies");
    let Some(value) = &raw.build.reverse_dependencies else { return ReverseDependencies::Layer };
    if raw.build.changed != Some(true) {
        let mistake = Diagnostic::new("has no effect without `changed = true`");
        check.value(&path, mistake.hint("add `changed = true` to [build], or leave the key out"));
    }
    match value {
        UnvalidatedReverseDependencies::Word(word) if word == "all" => ReverseDependencies::All,
        UnvalidatedReverseDependencies::Word(_) => ReverseDependencies::Layer,
        UnvalidatedReverseDependencies::AtMost(most) => match u64::try_from(*most) {
            Ok(most) => ReverseDependencies::AtMost(most),
            Err(_) => {
                let mistake = Diagnostic::new(format!("is {most}"));
                check
                    .value(&path, mistake.hint("write \"layer\", \"all\", or the highest number of recipes"));
                ReverseDependencies::Layer
            }
        },
    }
}

fn layers(
    check: &mut Validator,
    raw: &UnvalidatedManifest,
    project_root: &ProjectRoot,
) -> Vec<(PathBuf, i64)> {
    let path = section("layer").key("paths");
    // Without a layer, nothing would be checked, and a check of nothing must not pass.
    if raw.check.yocto_check_layer != Some(false) {
        check.not_empty(
            &path,
            raw.layer.paths.as_ref(),
            "write [\".\"] when the checkout itself is the layer; a job that only builds needs [check] \
             yocto_check_layer = false",
        );
    }
    let layer = |text: &str| {
        let layer = inside(text, project_root, |path| path.is_dir(), "no such directory")?;
        values::layer_path(&layer)?;
        Ok(layer)
    };
    if !check.has(&path) {
        return check.one(&path, Some(&".".to_owned()), layer).map(|layer| (layer, 0)).into_iter().collect();
    }
    let mut layers = check.layers(&path, raw.layer.paths.as_ref(), layer);
    // Logs and build directories have the name of the layer's directory.
    for index in (1..layers.len()).rev() {
        let name = layers[index].0.file_name();
        if layers[..index].iter().any(|(other, _)| other.file_name() == name) {
            let message = format!("two layers have directories with the name {:?}", name.unwrap_or_default());
            check.value(&path, Diagnostic::new(message).hint("check them in two jobs"));
            layers.remove(index);
        }
    }
    layers
}

/// The file with the known failures. If the rules come from the base of a change, the path is followed there.
fn known_failures(text: &str, project_root: &ProjectRoot) -> Result<PathBuf, Diagnostic> {
    if let Rules::OfBase(_) = &project_root.rules {
        let path = below_checkout(text, project_root)?;
        return match project_root.rules_file(&path).is_file() {
            true => Ok(path),
            false => Err(Diagnostic::new(format!("`{text}`: no such file in the base of this change"))),
        };
    }
    inside(text, project_root, |path| path.is_file(), "no such file")
}

/// A path of the manifest that must be in the checkout (or next to a manifest outside of it), also after
/// links are resolved.
fn inside(
    text: &str,
    project_root: &ProjectRoot,
    exists: fn(&Path) -> bool,
    missing: &str,
) -> Result<PathBuf, Diagnostic> {
    let path = below_checkout(text, project_root)?;
    if !exists(&path) {
        return Err(
            Diagnostic::new(format!("`{text}`: {missing}")).hint(format!("looked for {}", path.display()))
        );
    }
    match path.canonicalize() {
        Ok(real) if real.starts_with(&project_root.checkout) => Ok(real),
        _ => Err(outside(text, "is a link that leads out of", project_root)),
    }
}

/// The path that a key names, without reading the disk.
pub fn below_checkout(text: &str, project_root: &ProjectRoot) -> Result<PathBuf, Diagnostic> {
    if text.is_empty() {
        return Err(Diagnostic::new("is empty"));
    }
    let base = if project_root.base.starts_with(&project_root.checkout) {
        &project_root.base
    } else {
        &project_root.checkout
    };
    let path = values::normal(&base.join(text));
    match path.starts_with(&project_root.checkout) {
        true => Ok(path),
        false => Err(outside(text, "lies outside", project_root)),
    }
}

fn outside(text: &str, how: &str, project_root: &ProjectRoot) -> Diagnostic {
    Diagnostic::new(format!("`{text}` {how} the checkout under test"))
        .hint(format!("the checkout is {}", project_root.checkout.display()))
}

fn machines(check: &mut Validator, table: &str, raw: Option<&Vec<String>>) -> Option<Vec<String>> {
    let path = section(table).key("machines");
    check.not_empty(&path, raw, "name a machine, or omit the key for qemux86-64");
    raw.map(|_| check.list(&path, raw, owned(values::conf_name)))
}

fn destination(
    check: &mut Validator,
    raw: &UnvalidatedManifest,
    project_root: &ProjectRoot,
    cwd: &Path,
) -> Option<Destination> {
    let path = section("artifacts").key("destination");
    let base = if check.place(&path).is_flag() { cwd } else { &project_root.base };
    check.one(&path, raw.artifacts.destination.as_ref(), |text| address::destination(text, base))
}

fn rules(check: &mut Validator, raw: &UnvalidatedManifest) -> Vec<ArtifactRule> {
    let mut rules = Vec::new();
    for (index, raw) in raw.artifacts.rules.iter().flatten().enumerate() {
        let path = section("artifacts").key("rules").index(index);
        let pattern = |text: &str| artifact_pattern(text).map(|_| text.to_owned());
        let include = check.one(&path.key("include"), raw.include.as_ref(), pattern);
        let exclude = check.list(&path.key("exclude"), raw.exclude.as_ref(), pattern);
        if let Some(include) = include {
            if let Some(all) = exclude.iter().find(|exclude| excludes_all(&include, exclude)) {
                let mistake = Diagnostic::new(format!("`{all}` excludes all that the rule includes"));
                check.value(&path.key("exclude"), mistake.hint("exclude less, or remove the rule"));
            }
            rules.push(ArtifactRule { include, exclude, required: raw.required.unwrap_or(false) });
        }
    }
    rules
}

fn github(check: &mut Validator, raw: &UnvalidatedManifest) -> Option<GitHub> {
    let raw = raw.github.as_ref()?;
    let path = section("github");
    let repository =
        check.one(&path.key("repository"), raw.repository.as_ref(), owned(values::github_repository));
    let token_secret =
        check.one(&path.key("token_secret"), raw.token_secret.as_ref(), owned(values::secret_name));
    let name = check.one(&path.key("name"), raw.name.as_ref(), owned(values::result_name));
    let id = raw.app_id.as_ref().map(|id| match id {
        UnvalidatedAppId::Number(number) => number.to_string(),
        UnvalidatedAppId::ClientId(text) => text.clone(),
    });
    let id = check.one(&path.key("app_id"), id.as_ref(), owned(values::app_id));
    let key_secret =
        check.one(&path.key("app_key_secret"), raw.app_key_secret.as_ref(), owned(values::secret_name));
    let has = [check.has(&path.key("app_id")), check.has(&path.key("app_key_secret"))];
    let lonely = match has {
        [true, false] => Some(["app_id", "app_key_secret"]),
        [false, true] => Some(["app_key_secret", "app_id"]),
        _ => None,
    };
    if let Some([given, missing]) = lonely {
        let mistake = Diagnostic::new(format!("has no effect without `{missing}`"));
        check.value(&path.key(given), mistake.hint("a GitHub App needs both its id and its key"));
    }
    let mut report = raw.report.clone().unwrap_or_default();
    let all = report.clone();
    let mut place = 0;
    // GitHub would get the same thing twice.
    report.retain(|one| {
        place += 1;
        !all[..place - 1].contains(one)
    });
    Some(GitHub {
        repository: repository?,
        token_secret,
        report,
        comment: raw.comment.unwrap_or_default(),
        name,
        app: id.zip(key_secret).map(|(id, key_secret)| GitHubApp { id, key_secret }),
    })
}

fn limits(check: &mut Validator, raw: &UnvalidatedManifest) -> Limits {
    let path = section("limits");
    let log = check.one(&path.key("log"), raw.limits.log.as_ref(), values::size).unwrap_or(2 << 30);
    let mut limit = |key: &str, text: Option<&String>, default: u64| {
        check.one(&path.key(key), text, values::duration).unwrap_or(Duration::from_secs(default))
    };
    let limits = Limits {
        job: limit("job", raw.limits.job.as_ref(), 4 * 3600),
        stall: limit("stall", raw.limits.stall.as_ref(), 20 * 60),
        grace: limit("grace", raw.limits.grace.as_ref(), 60),
        log,
    };
    if limits.grace >= limits.job {
        let written = if check.has(&path.key("grace")) { "grace" } else { "job" };
        let message = format!(
            "grace ({}) must be shorter than job ({})",
            humantime::format_duration(limits.grace),
            humantime::format_duration(limits.job)
        );
        check.value(
            &path.key(written),
            Diagnostic::new(message).hint("grace is the last part of the job's time"),
        );
    }
    limits
}

fn cost(check: &mut Validator, raw: &UnvalidatedManifest) -> CostSettings {
    let path = section("cost");
    let mut price = |path: KeyPath, usd: Option<f64>| {
        let usd = usd?;
        if usd.is_finite() && usd >= 0.0 {
            return Some(usd);
        }
        check.value(&path, Diagnostic::new("a price must not be negative"));
        None
    };
    let mut per_minute = BTreeMap::new();
    for (name, usd) in raw.cost.per_minute.iter().flatten() {
        per_minute.extend(price(path.key("per_minute").key(name), Some(*usd)).map(|usd| (name.clone(), usd)));
    }
    let efs_read_gb = price(path.key("efs_read_gb"), raw.cost.efs_read_gb);
    let efs_write_gb = price(path.key("efs_write_gb"), raw.cost.efs_write_gb);
    let nat_gb = price(path.key("nat_gb"), raw.cost.nat_gb);
    let compute_type =
        check.one(&path.key("compute_type"), raw.cost.compute_type.as_ref(), owned(values::name));
    CostSettings { compute_type, per_minute, efs_read_gb, efs_write_gb, nat_gb }
}

fn cache(check: &mut Validator, raw: &UnvalidatedManifest) -> RawCache {
    const DAY: u64 = 86400;
    let path = section("cache");
    let cache = &raw.cache;
    let share = check.one(&path.key("share"), cache.share.as_ref(), values::share);
    let mut age = |key: &str, text: Option<&String>, days: u64| {
        check.one(&path.key(key), text, values::duration).unwrap_or(Duration::from_secs(days * DAY))
    };
    let downloads_max_age = age("downloads_max_age", cache.downloads_max_age.as_ref(), 60);
    let sstate_max_age = age("sstate_max_age", cache.sstate_max_age.as_ref(), 30);
    let defaults = Prices::default();
    let mut price = |key: &str, usd: Option<f64>, default: f64| {
        let is_price = usd.is_none_or(|usd| usd >= 0.0);
        if !is_price {
            check.value(&path.key("prices").key(key), Diagnostic::new("a price must not be negative"));
        }
        usd.filter(|_| is_price).unwrap_or(default)
    };
    let prices = Prices {
        thousand_writes: price("thousand_writes", cache.prices.thousand_writes, defaults.thousand_writes),
        thousand_reads: price("thousand_reads", cache.prices.thousand_reads, defaults.thousand_reads),
        gb_month: price("gb_month", cache.prices.gb_month, defaults.gb_month),
    };
    let server = check.one(&path.key("hash_server"), cache.hash_server.as_ref(), values::hash_server);
    RawCache {
        share,
        access: match cache.access {
            None | Some(CacheAccess::Auto | CacheAccess::ReadWrite) => Access::ReadWrite,
            Some(CacheAccess::ReadOnly) => Access::ReadOnly,
            Some(CacheAccess::Off) => Access::Off,
        },
        asks_to_write: cache.access == Some(CacheAccess::ReadWrite),
        downloads_max_age,
        sstate_max_age,
        hash_server: server.unwrap_or(HashServer::Off),
        prices,
        endpoint_port: endpoint_port(check, raw),
    }
}

/// Some ports after it must exist, too: they are tried if it is used.
fn endpoint_port(check: &mut Validator, raw: &UnvalidatedManifest) -> u16 {
    let Some(number) = raw.cache.endpoint_port else { return PORT };
    let port = u16::try_from(number).ok().filter(|port| (1024..=u16::MAX - PORTS + 1).contains(port));
    if port.is_none() {
        let mistake = Diagnostic::new(format!("`{number}` is not a port that the agent may use"))
            .hint(format!("use a number from 1024 to {}", u16::MAX - PORTS + 1));
        check.value(&section("cache").key("endpoint_port"), mistake);
    }
    port.unwrap_or(PORT)
}
