//! The starter script with real BitBake: only the signature files differ, because they are empty.

use std::os::unix::fs::PermissionsExt;

use build_agent_tests::{Part, is_left_to_the_long_run, repository, skip_without};

use crate::signature_cache::Narrow;
use crate::{BITBAKE, OE_CORE, POKY};

/// Computes the signatures of the world four times in one build directory, and stores the results of each in a
/// directory of that name below the current one. `$1` is the starter, `$2` the argument after `-S`.
const ASK: &str = r#"
results=$PWD
starter=$1
handler=$2
cd "$BUILDDIR"
bitbake=$(command -v bitbake)
ask() {
    name=$1
    shift
    mkdir "$results/$name"
    "$@" -k -S "$handler" world > "$results/$name/console" 2>&1
    echo $? > "$results/$name/status"
    tries=0
    while [ -e bitbake.lock ] && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
    mv locked-sigs.inc "$results/$name/"
    find tmp*/stamps -name '*.sig*data*' | sort > "$results/$name/names"
    find tmp*/stamps -name '*.sig*data*' -size +0 | sort > "$results/$name/written"
    find cache tmp*/cache -name 'bb_*' | sort > "$results/$name/caches"
    rm -rf tmp*/stamps
}
discard() { /usr/bin/env python3 "$starter" --discard-signature-files -- "$@"; }
ask plain-cold "$bitbake"
ask plain "$bitbake"
ask discarded discard "$bitbake"
rm -rf cache tmp*/cache
ask discarded-cold discard "$bitbake"
"#;

const NAMES: [&str; 4] = ["plain-cold", "plain", "discarded", "discarded-cold"];

/// Releases that know only overrides with underscores.
const UNDERSCORES: [&str; 3] = ["dunfell", "gatesgarth", "hardknott"];

/// Releases that write `locked-sigs.inc` for `-S none`; later ones do so for `-S lockedsigs`.
const UNTIL_LANGDALE: [&str; 6] = ["dunfell", "gatesgarth", "hardknott", "honister", "kirkstone", "langdale"];

/// Plain BitBake, and BitBake with empty signature files, with and without parse caches.
fn assert_only_signature_files_differ(test: &str, releases: &[&str]) {
    for release in releases {
        let Some(narrow) = Narrow::with(test, &[POKY, OE_CORE, BITBAKE]) else { return };
        println!("{release}");
        // Fetched before BitBake parses; otherwise BitBake prints an error.
        let remove = if UNDERSCORES.contains(release) { "_remove" } else { ":remove" };
        narrow.write_manifest_for(release, &format!("INHERIT{remove} = \"uninative\"\n"), "");
        let directory = narrow.0.directory.path();
        let at = |path: &str| directory.join("results").join(path);
        std::fs::create_dir(at("")).unwrap();
        std::fs::set_permissions(at(""), PermissionsExt::from_mode(0o777)).unwrap();
        let script = repository().join("agent/crates/yocto/src/bitbake_starter.py");
        std::fs::copy(script, at("starter.py")).unwrap();
        std::fs::write(at("ask"), ASK).unwrap();
        let (results, starter) = (at("").display().to_string(), at("starter.py").display().to_string());
        let handler = if UNTIL_LANGDALE.contains(release) { "none" } else { "lockedsigs" };
        let command = format!("cd {results} && sh ./ask {starter} {handler}");
        narrow.0.call(&["shell", "--", "sh", "-c", &command]).assert_code(&[0]);
        let text = |name: &str, file: &str| {
            let path = at(&format!("{name}/{file}"));
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        for (plain, discarded) in [("plain-cold", "discarded-cold"), ("plain", "discarded")] {
            for file in ["console", "status", "locked-sigs.inc", "names", "caches"] {
                assert_eq!(text(discarded, file), text(plain, file), "{release}: {file} of {discarded}");
            }
        }
        assert_eq!(text("plain", "status"), "0\n", "{release}: {}", text("plain", "console"));
        assert!(text("plain", "locked-sigs.inc").contains("base-files:do_"), "{release}");
        let lines = |name: &str, file: &str| text(name, file).lines().count();
        assert!(lines("plain", "names") > 10, "{release}: {}", text("plain", "names"));
        for name in NAMES {
            let written = if name.starts_with("plain") { lines(name, "names") } else { 0 };
            assert_eq!(lines(name, "written"), written, "{release}: {name}");
        }
        // The second one uses only the cache that the first one made, in both cases.
        for name in ["plain", "discarded"] {
            assert!(!text(name, "console").contains("Parsing of"), "{release}: {}", text(name, "console"));
        }
    }
}

#[test]
fn only_signature_files_differ() {
    assert_only_signature_files_differ("only_signature_files_differ", &["scarthgap"]);
}

/// Up to honister, signature files are pickles.
#[test]
fn only_signature_files_differ_in_other_releases() {
    let test = "only_signature_files_differ_in_other_releases";
    if is_left_to_the_long_run(test) {
        return;
    }
    let releases = ["hardknott", "honister", "kirkstone", "mickledore", "walnascar", "master"];
    assert_only_signature_files_differ(test, &releases);
}

/// BitBake of dunfell forks its server; later ones execute it.
#[test]
fn only_signature_files_differ_with_a_forked_server() {
    let test = "only_signature_files_differ_with_a_forked_server";
    if is_left_to_the_long_run(test) {
        return;
    }
    // Mirrors may lack some branches.
    let clone = tempfile::tempdir().unwrap();
    let mut git = std::process::Command::new("git");
    git.args(["clone", "--quiet", "--bare", "--depth", "1", "--branch", "dunfell", POKY]).arg(clone.path());
    if !git.status().unwrap().success() {
        return skip_without(Part::BitBake, test, "poky's branch dunfell cannot be cloned");
    }
    assert_only_signature_files_differ(test, &["dunfell"]);
}
