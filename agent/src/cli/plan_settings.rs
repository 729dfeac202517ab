//! All settings of a job as JSON, with the defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{CheckScope, Destination, Ptest, RepoSource, Settings, TestTarget};

/// What a job would do and with what, for programs.
pub fn as_json(settings: &Settings) -> Value {
    json!({
        "config": {
            "machines": settings.config.machines,
            "distro": settings.config.distro,
            "local_conf": settings.config.local_conf,
            "bblayers_conf": settings.config.bblayers_conf,
            "multiconfigs": settings.config.multiconfigs,
            "env": settings.config.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            "templateconf": settings.templateconf.as_ref().map(|template| {
                json!({ "repo": template.repo, "path": template.path })
            }),
        },
        "buildtools": settings.buildtools.as_ref().map(|buildtools| {
            json!({ "url": buildtools.url.as_str(), "sha256": buildtools.sha256 })
        }),
        "repos": settings.repos.iter().map(repo).collect::<Vec<_>>(),
        "bblayers": bblayers(settings),
        "check": check(settings),
        "build": {
            "targets": settings.build.targets,
            "changed": settings.build.changed,
            "fresh": settings.build.fresh,
        },
        "test": {
            "images": settings.test.images,
            "suites": settings.test.suites,
            "ptest": match &settings.test.ptest {
                Ptest::Off => json!("off"),
                Ptest::Changed => json!("changed"),
                Ptest::Recipes(recipes) => json!(recipes),
            },
            "target": match &settings.test.target {
                TestTarget::Qemu => "qemu".to_owned(),
                TestTarget::Ssh { host, port } => format!("ssh://root@{host}:{port}"),
            },
            "timeout_seconds": seconds(settings.test.timeout),
        },
        "device": settings.device.as_ref().map(|device| json!({
            "pool": device.pool,
            "image": device.image,
            "machine": device.machine,
            "tests": device.tests.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "suites": device.suites,
            "required": device.required,
        })),
        "artifacts": {
            "destination": match &settings.artifacts.destination {
                Destination::Directory(directory) => directory.display().to_string(),
                Destination::S3 { bucket, prefix } => format!("s3://{bucket}/{prefix}"),
            },
            "rules": settings.artifacts.rules.iter().map(|rule| json!({
                "include": rule.include, "exclude": rule.exclude, "required": rule.required,
            })).collect::<Vec<_>>(),
        },
        "github": settings.github.as_ref().map(|github| json!({ "repository": github.repository })),
        "limits": {
            "job_seconds": seconds(settings.limits.job),
            "stall_seconds": seconds(settings.limits.stall),
            "grace_seconds": seconds(settings.limits.grace),
            "log_bytes": settings.limits.log,
        },
        "trusted": settings.cache.trust.is_trusted(),
        "build_user": settings.build_user,
    })
}

fn repo(repo: &crate::config::Repo) -> Value {
    let mut value = json!({ "name": repo.name, "layers": repo.layers });
    match &repo.source {
        RepoSource::Path(path) => value["path"] = json!(path),
        RepoSource::Git(source) => {
            value["url"] = json!(agent_git::display_url(&source.url));
            value["branch"] = json!(source.wanted.branch());
            value["tag"] = json!(source.wanted.tag());
            value["commit"] = json!(source.locked.as_deref().or(source.wanted.commit()));
            value["patches"] = repo.patches.iter().map(|patch| patch.name.as_str()).collect();
            value["signers"] = repo.signers.iter().map(|signer| signer.name.as_str()).collect();
            value["submodules"] = json!(repo.submodules);
            value["lfs"] = json!(repo.lfs);
        }
    }
    value
}

fn check(settings: &Settings) -> Value {
    let check = &settings.check;
    let scope = |scope: CheckScope| match scope {
        CheckScope::Off => "off",
        CheckScope::Changed => "changed",
        CheckScope::All => "all",
    };
    json!({
        "yocto_check_layer": check.yocto_check_layer,
        "bitbake_layers": check.bitbake_layers.iter().map(|words| words.join(" ")).collect::<Vec<_>>(),
        "machines": check.machines,
        "parse_machines": check.parse_machines,
        "templateconf": check.templateconf,
        "oelint": scope(check.oelint),
        "patches": scope(check.patches),
        "cve": scope(check.cve),
        "known_failures": check.known_failures.iter().map(|one| json!({
            "test": one.test, "reason": one.reason, "expires": one.expires,
        })).collect::<Vec<_>>(),
    })
}

fn seconds(time: Duration) -> u64 {
    time.as_secs()
}

/// The layers of BBLAYERS in their order: repository and path. In the manifest's order, OE-Core's layer comes first, which
/// only the checkout finds.
fn bblayers(settings: &Settings) -> Vec<Value> {
    let order = &settings.layer_order;
    let of_repos = settings.repos.iter().flat_map(|repo| {
        repo.layers.iter().map(|layer| (order.of_repo(&repo.name, layer), repo.name.as_str(), layer.clone()))
    });
    let under_test = settings.layers.iter().map(|layer| {
        let inner = layer.strip_prefix(&settings.checkout).unwrap_or(layer);
        (order.of_checkout(layer, inner), order.checkout.as_str(), inner.to_owned())
    });
    let mut layers: Vec<_> = of_repos.chain(under_test).collect();
    layers.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    layers.into_iter().map(|(_, repo, layer)| json!({ "repo": repo, "layer": layer })).collect()
}
