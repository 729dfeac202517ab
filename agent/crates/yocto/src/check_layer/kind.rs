//! The kinds of queries of yocto-check-layer to BitBake, and which of its tests depend on which.
//!
//! From `scripts/yocto-check-layer`, `scripts/lib/checklayer/__init__.py` and the cases beside it, dunfell to
//! master. `bitbake -e` (`test_show_environment`, `get_bb_var`) reads the configuration alone, and
//! `get_depgraph` only puts in order what a message lists: neither is a kind.

use std::collections::BTreeSet;

/// What BitBake is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The signatures of the world before the layer is added.
    Base,
    /// The same with the layer.
    World,
    /// Whether all recipes parse: `bitbake -p`.
    Parses,
    /// The world with `INHERIT=yocto-check-layer`.
    Class,
    /// The world for a MACHINE of `--machines`.
    Machine,
}

pub type Kinds = BTreeSet<Kind>;

/// Whether the signatures of two worlds differ: `test_signatures`, unless the second one failed.
const SIGNATURES: &str = "test_signatures";

/// Those that call `bitbake-diffsigs`, which reads the files that BitBake wrote beside its answers.
const COMPARE: [&str; 2] = [SIGNATURES, "test_machine_signatures"];

/// The tests of the cases `common.py`, `bsp.py` and `distro.py`. `test_world_inherit_class` came with langdale,
/// and to kirkstone; `test_patches_upstream_status` with mickledore, `test_security` with walnascar; the others ask
/// the same in all releases.
const RESTS_ON: [(&str, &[Kind]); 15] = [
    ("test_bsp_defines_machines", &[]),
    ("test_bsp_no_set_machine", &[]),
    ("test_distro_defines_distros", &[]),
    ("test_distro_no_set_distros", &[]),
    ("test_layerseries_compat", &[]),
    ("test_machine_signatures", &[Kind::Machine]),
    ("test_machine_world", &[Kind::Machine]),
    ("test_parse", &[Kind::Parses]),
    ("test_patches_upstream_status", &[]),
    ("test_readme", &[]),
    ("test_security", &[]),
    ("test_show_environment", &[]),
    (SIGNATURES, &[Kind::Base, Kind::World]),
    ("test_world", &[Kind::World]),
    ("test_world_inherit_class", &[Kind::Class]),
];

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Base, Kind::World, Kind::Parses, Kind::Class, Kind::Machine];

    fn words(self) -> &'static str {
        match self {
            Kind::Base => "the world without the layer",
            Kind::World => "the world with the layer",
            Kind::Parses => "whether all recipes parse",
            Kind::Class => "the world with the class",
            Kind::Machine => "the world of each machine",
        }
    }
}

/// The kinds on which the failure of a test rests: all, of a test that is not known.
pub fn depends_on(test: &str, message: &str) -> Kinds {
    let known = RESTS_ON.iter().find(|(name, _)| *name == test);
    let kinds = known.map_or(&Kind::ALL[..], |(_, kinds)| kinds);
    let nothing_to_compare = test == SIGNATURES && message.lines().any(has_no_signatures);
    kinds.iter().copied().filter(|kind| !(nothing_to_compare && *kind == Kind::Base)).collect()
}

/// Whether the message of a failed test tells what `bitbake-diffsigs` found in files of signatures.
pub fn uses_sigdata(test: &str, message: &str) -> bool {
    COMPARE.contains(&test) && !message.lines().any(has_no_signatures)
}

/// How `get_signatures` ends that got none. Lines of what it compares are indented.
fn has_no_signatures(line: &str) -> bool {
    let said = line.strip_prefix("RuntimeError: ").unwrap_or_default();
    said.starts_with("Generating signatures failed.") || said.starts_with("Can't load signatures from ")
}

/// `the world without the layer, the world with the layer and whether all recipes parse`
pub fn in_words(kinds: &Kinds) -> String {
    if Kind::ALL.iter().all(|kind| kinds.contains(kind)) {
        return "everything".into();
    }
    let words: Vec<_> = kinds.iter().map(|kind| kind.words()).collect();
    match words.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Base, Class, Machine, Parses, World};

    #[test]
    fn what_a_failure_rests_on() {
        let changed = "AssertionError: Adding layer meta-x changed signatures.\n2 signatures changed\n";
        let failed =
            "Traceback (most recent call last):\nRuntimeError: Generating signatures failed. This might\n";
        let empty = "RuntimeError: Can't load signatures from /b/locked-sigs.inc";
        let quoted = "AssertionError: changed signatures.\n      RuntimeError: Generating signatures failed.";
        let table: [(&str, &str, &[Kind]); 12] = [
            ("test_readme", "", &[]),
            ("test_show_environment", "RuntimeError: x", &[]),
            ("test_parse", "", &[Parses]),
            ("test_world", failed, &[World]),
            ("test_world_inherit_class", failed, &[Class]),
            ("test_machine_world", failed, &[Machine]),
            ("test_signatures", changed, &[Base, World]),
            ("test_signatures", failed, &[World]),
            ("test_signatures", empty, &[World]),
            ("test_signatures", quoted, &[Base, World]),
            ("test_signatures", "", &[Base, World]),
            ("test_of_tomorrow", failed, &Kind::ALL),
        ];
        for (test, message, wanted) in table {
            assert_eq!(depends_on(test, message), wanted.iter().copied().collect(), "{test}: {message}");
        }
    }

    #[test]
    fn what_a_failure_compares() {
        for (test, message, wanted) in [
            ("test_signatures", "AssertionError: Adding layer meta-x changed signatures.", true),
            ("test_signatures", "RuntimeError: Generating signatures failed. This might", false),
            ("test_machine_signatures", "AssertionError: The machines have conflicting signatures", true),
            ("test_machine_signatures", "RuntimeError: Can't load signatures from /b/locked-sigs.inc", false),
            ("test_machine_world", "", false),
            ("test_world", "", false),
            ("test_of_tomorrow", "", false),
        ] {
            assert_eq!(uses_sigdata(test, message), wanted, "{test}: {message}");
        }
    }

    #[test]
    fn kinds_are_a_list_for_people() {
        let table: [(&[Kind], &str); 4] = [
            (&[Parses], "whether all recipes parse"),
            (&[World, Base], "the world without the layer and the world with the layer"),
            (
                &[Class, Base, World],
                "the world without the layer, the world with the layer and the world with the class",
            ),
            (&[Machine, Class, Parses, World, Base], "everything"),
        ];
        for (kinds, wanted) in table {
            assert_eq!(in_words(&kinds.iter().copied().collect()), wanted);
        }
    }
}
