//! Matrices and the cells that they mean.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::super::tree::parse;
use super::*;

fn read(text: &str) -> (Vec<Cell>, String) {
    let (matrix, problems) = matrix(text);
    (matrix.cells, problems)
}

fn matrix(text: &str) -> (Matrix, String) {
    let mut problems = Problems::default();
    let tree = parse("f", text, &mut problems).unwrap();
    let matrix = super::read(tree.child(KEY).unwrap(), &mut problems);
    (matrix, problems.to_string())
}

/// `id: key=value …` of each cell.
fn shown(text: &str) -> Vec<String> {
    let (cells, said) = read(&format!("[matrix]\n{text}"));
    assert!(said.starts_with("0 problems"), "{text}: {said}");
    let one = |cell: &Cell| format!("{}: {}", cell.id, cell.shown().replace('"', ""));
    cells.iter().map(one).collect()
}

#[test]
fn each_combination_is_a_cell_except_the_excluded_ones() {
    let text = "machine = ['qemux86-64', 'raspberrypi4-64']\nrelease = ['kirkstone', 'scarthgap']\n\
                exclude = [{ machine = 'raspberrypi4-64', release = 'kirkstone' }]\n";
    assert_eq!(
        shown(text),
        [
            "kirkstone_qemux86_64: machine = qemux86-64, release = kirkstone",
            "scarthgap_qemux86_64: machine = qemux86-64, release = scarthgap",
            "scarthgap_raspberrypi4_64: machine = raspberrypi4-64, release = scarthgap",
        ]
    );
    let part = "machine = ['a', 'b']\nrelease = ['kirkstone', 'scarthgap']\nexclude = [{ machine = 'a' }]\n";
    assert_eq!(shown(part).len(), 2, "an excluded element may name a part of the axes");
}

/// The example of GitHub's documentation, with machines for fruits and releases for animals.
#[test]
fn include_means_what_it_means_in_github_actions() {
    let text = "machine = ['apple', 'pear']\nrelease = ['kirkstone', 'scarthgap']\n[[matrix.include]]\n\
                'limits.job' = 'green'\n[[matrix.include]]\n'limits.job' = 'pink'\nrelease = 'kirkstone'\n\
                [[matrix.include]]\nmachine = 'apple'\n'limits.log' = 'circle'\n[[matrix.include]]\n\
                machine = 'banana'\n[[matrix.include]]\nmachine = 'banana'\nrelease = 'kirkstone'\n";
    assert_eq!(
        shown(text),
        [
            "kirkstone_apple: machine = apple, release = kirkstone, limits.job = pink, limits.log = circle",
            "scarthgap_apple: machine = apple, release = scarthgap, limits.job = green, limits.log = circle",
            "kirkstone_pear: machine = pear, release = kirkstone, limits.job = pink",
            "scarthgap_pear: machine = pear, release = scarthgap, limits.job = green",
            "banana: machine = banana",
            "kirkstone_banana: machine = banana, release = kirkstone",
        ]
    );
    let alone = "include = [{ machine = 'a' }, { machine = 'b', release = 'scarthgap' }]\n";
    assert_eq!(shown(alone), ["a: machine = a", "scarthgap_b: machine = b, release = scarthgap"]);
}

#[test]
fn the_limit_of_all_cells_is_not_an_axis() {
    for (text, wanted) in [("", None), ("limit = '90m'\n", Some(90 * 60))] {
        let (matrix, said) = matrix(&format!("[matrix]\nmachine = ['a']\n{text}"));
        assert!(said.starts_with("0 problems"), "{said}");
        assert_eq!((matrix.cells.len(), matrix.limit), (1, wanted.map(Duration::from_secs)));
    }
}

#[test]
fn identifiers_are_valid_readable_and_unique() {
    for (text, wanted) in [
        ("release = ['scarthgap']\n", &["scarthgap"][..]),
        ("'repos.meta-x.branch' = ['main', 'next/5.0']\nmachine = ['m']\n", &["m_main", "m_next_5_0"]),
        ("distro = ['cells']\n", &["cells_68591307"]),
        ("target = ['core-image-minimal', 'virtual/kernel']\n", &["core_image_minimal", "virtual_kernel"]),
        ("'repos.bitbake.branch' = ['2.8']\n", &["cell_2_8"]),
        ("'build.targets' = [['a', 'b'], ['c']]\n", &["a_b", "c"]),
        ("'check.oelint' = ['off']\n'limits.x' = [1, true]\n", &["off_1", "off_true"]),
    ] {
        let ids: Vec<String> = read(&format!("[matrix]\n{text}")).0.into_iter().map(|cell| cell.id).collect();
        assert_eq!(ids, wanted, "{text}");
    }
    let alike = format!("machine = ['a-b', 'a_b', 'merge', '{}', 'plain']\n", "x".repeat(90));
    let (cells, _) = read(&format!("[matrix]\n{alike}"));
    let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(ids.last(), Some(&"plain"));
    assert!(ids[0].starts_with("a_b_") && ids[1].starts_with("a_b_") && ids[0] != ids[1], "{ids:?}");
    assert!(ids[2].starts_with("merge_") && ids[3].len() == 48, "{ids:?}");
    assert_eq!(read(&format!("[matrix]\n{alike}")).0, cells, "stable");
    let valid = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    assert!(ids.iter().all(|id| valid(id)), "{ids:?}");
}

#[test]
fn mistakes_have_their_position() {
    for (text, wanted) in [
        ("", "f:1:1: [matrix]: has no cell"),
        ("machine = []", "f:2:11: [matrix] machine: is empty"),
        (
            "machine = 'a'",
            "f:2:11: [matrix] machine: must be a list of values, not a string\n  hint: put it in brackets: ['a']",
        ),
        ("machine = ['a', 'a']", "f:2:17: [matrix] machine: \"a\" is listed twice"),
        ("machine = [1]", "f:2:12: [matrix] machine: a value must be a string, not an integer"),
        (
            "machines = ['a']",
            "f:2:1: [matrix] machines: `machines` is not an axis\n  hint: did you mean `machine`?",
        ),
        ("exclud = [{ machine = 'a' }]", "`exclud` is not an axis\n  hint: did you mean `exclude`?"),
        ("name = ['a']", "`name` is not an axis\n  hint: "),
        ("repos.x.branch = ['a']", "f:2:1: [matrix] repos: `repos` is not an axis"),
        ("'matrix.x' = ['a']", "is a key of the matrix itself"),
        (
            "'a.b' = [{ c = 1 }]",
            "a value must be a string, an integer, true, false or a list of strings, not a table",
        ),
        ("machine = ['a']\nexclude = [{ machine = 'a' }]", "f:1:1: [matrix]: has no cell"),
        (
            "machine = ['qemuarm']\nexclude = [{ machine = 'qemuarn' }]",
            "f:3:24: [matrix] exclude: `machine` has no value \"qemuarn\"\n  hint: did you mean \"qemuarm\"?",
        ),
        (
            "machine = ['a']\nexclude = [{ distro = 'x' }]",
            "f:3:23: [matrix] exclude: `distro` is not an axis of this matrix\n  hint: the axes are: machine",
        ),
        ("limit = 8", "f:2:9: [matrix] limit: must be a duration in quotes, not an integer"),
        ("limit = ['8h']", "f:2:9: [matrix] limit: must be a duration in quotes, not a list"),
        ("limit = '8'", "f:2:9: [matrix] limit: `8` is not a duration"),
        ("limits = '8h'", "`limits` is not an axis\n  hint: did you mean `limit`?"),
        ("machine = ['a']\nexclude = [{}]", "an element is empty"),
        ("machine = ['a']\ninclude = ['a']", "an element must be a table, not a string"),
        ("machine = ['a']\ninclude = { machine = 'b' }", "must be a list of tables, not a table"),
        (
            "machine = ['a']\n'config.machines' = [['b']]",
            "[matrix] \"config.machines\": sets the same key as `machine`",
        ),
        (
            "machine = ['a']\ninclude = [{ machine = 'b' }, { machine = 'b' }]",
            "f:3:43: [matrix]: this cell is there twice",
        ),
    ] {
        let (_, said) = read(&format!("[matrix]\n{text}\n"));
        assert!(said.contains(wanted), "{text}\n{said}");
    }
    let many = |axes: usize| -> String {
        let values: Vec<String> = (0..10).map(|value| format!("'v{value}'")).collect();
        (0..axes).map(|axis| format!("'a.k{axis}' = [{}]\n", values.join(", "))).collect()
    };
    assert!(read(&format!("[matrix]\n{}", many(3))).1.contains("has 1000 cells; at most 256 are allowed"));
    assert!(read(&format!("[matrix]\n{}", many(60))).1.contains("has more than 4096 combinations"));
}

#[test]
fn a_flag_does_not_override_a_value_of_the_cell() {
    let mut problems = Problems::default();
    let text = "[matrix]\n'repos.x.branch' = ['a']\n[repos.x]\nbranch = 'b'\n";
    let mut tree = parse("f", text, &mut problems).unwrap();
    let cell = super::read(tree.child(KEY).unwrap(), &mut problems).cells.remove(0);
    overlay(&mut tree, &cell, &mut problems);
    super::super::flags::apply(&mut tree, &["repos.x.branch=c".to_owned()], &mut problems);
    reject_flags(&tree, &cell, &mut problems);
    let message = problems.to_string();
    assert!(message.contains("--set 'matrix.\"repos.x.branch\"=[…]'"), "{message}");
}

/// A generator of numbers, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    /// Some of the keys, each with one of its values.
    fn some(&mut self, keys: &[(&str, usize)]) -> Vec<Setting> {
        let mut settings = Vec::new();
        for (key, values) in keys {
            if self.below(2) == 0 {
                let value = format!("v{}", self.below(*values));
                let place = super::super::problem::Place::Flag("test".into());
                let node = Node { place, text: String::new(), value: Value::String(value) };
                settings.push(Setting { key: (*key).to_owned(), node });
            }
        }
        settings
    }
}

type Plain = std::collections::BTreeMap<String, String>;

fn plain(settings: &[Setting]) -> Plain {
    let text = |setting: &Setting| setting.node.as_text().unwrap().to_owned();
    settings.iter().map(|setting| (setting.key.clone(), text(setting))).collect()
}

/// GitHub's description, one sentence after the other, with plain maps.
fn described(axes: &[(&str, usize)], exclude: &[Plain], include: &[Plain]) -> Vec<Plain> {
    let mut all: Vec<(Plain, Plain)> = vec![Default::default()];
    for (key, values) in axes {
        let with = |(original, _): &(Plain, Plain)| {
            let original = original.clone();
            (0..*values).map(move |value| {
                let mut original = original.clone();
                original.insert((*key).to_owned(), format!("v{value}"));
                (original, Plain::new())
            })
        };
        all = all.iter().flat_map(with).collect();
    }
    if axes.is_empty() {
        all.clear();
    }
    // "An excluded configuration only has to be a partial match for it to be excluded."
    all.retain(|(original, _)| {
        !exclude.iter().any(|gone| gone.iter().all(|(key, value)| original.get(key) == Some(value)))
    });
    let mut new = Vec::new();
    for object in include {
        let mut is_added = false;
        for (original, added) in &mut all {
            // "… added to each of the matrix combinations if none of the key:value pairs overwrite any of the original
            // matrix values." "… added matrix values can be overwritten."
            let overwrites =
                object.iter().any(|(key, value)| original.get(key).is_some_and(|known| known != value));
            if !overwrites {
                is_added = true;
                added.extend(object.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        // "If the object cannot be added to any of the matrix combinations, a new matrix combination will be created."
        if !is_added {
            new.push(object.clone());
        }
    }
    let merged = all.into_iter().map(|(original, added)| added.into_iter().chain(original).collect());
    merged.chain(new).collect()
}

#[test]
fn random_matrices_mean_what_github_describes() {
    let mut numbers = Numbers(7);
    let (mut extended, mut new) = (0, 0);
    for _ in 0..2000 {
        let names = ["machine", "release", "distro"];
        let axes: Vec<(&str, usize)> =
            names.iter().take(numbers.below(4)).map(|name| (*name, 1 + numbers.below(3))).collect();
        let other = [("limits.job", 2), ("limits.log", 2)];
        let exclude: Vec<_> = (0..numbers.below(3)).map(|_| numbers.some(&axes)).collect();
        let exclude: Vec<_> = exclude.into_iter().filter(|one| !one.is_empty()).collect();
        let wider: Vec<(&str, usize)> =
            axes.iter().map(|(key, values)| (*key, values + 1)).chain(other).collect();
        let include: Vec<_> = (0..numbers.below(4)).map(|_| numbers.some(&wider)).collect();
        let include: Vec<_> = include.into_iter().filter(|one| !one.is_empty()).collect();
        let values = |(key, values): &(&str, usize)| combine::Axis {
            key: (*key).to_owned(),
            values: (0..*values)
                .map(|value| Node {
                    place: super::super::problem::Place::Flag("test".into()),
                    text: String::new(),
                    value: Value::String(format!("v{value}")),
                })
                .collect(),
        };
        let read: Vec<_> = axes.iter().map(values).collect();
        let found = combine::combine(&read, &exclude, &include).unwrap();
        extended += found.iter().filter(|one| !one.is_added && one.settings.len() > axes.len()).count();
        new += found.iter().filter(|one| one.is_added).count();
        let found: Vec<Plain> = found.iter().map(|one| plain(&one.settings)).collect();
        let plains = |all: &[Vec<Setting>]| all.iter().map(|one| plain(one)).collect::<Vec<_>>();
        assert_eq!(
            found,
            described(&axes, &plains(&exclude), &plains(&include)),
            "{axes:?} {exclude:?} {include:?}"
        );
    }
    assert!(extended > 100 && new > 100, "the cases are too simple: {extended} {new}");
}
