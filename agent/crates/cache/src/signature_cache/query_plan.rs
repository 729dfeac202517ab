//! Predicts which queries yocto-check-layer will make next, word for word.
//!
//! From `get_signatures` and the cases in `scripts/lib/checklayer` of the releases, in the order of their
//! tests: for a BSP layer the world of each machine (twice each), then whether all recipes parse, the world
//! (twice), and from langdale on, and in kirkstone, the world with the class `yocto-check-layer`. Before
//! all of them it asks for the world without the layer, in the same environment. A wrong guess costs time
//! and is never an answer: answers are found by their inputs.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{CacheableQuery, Invocation, query};
use agent_fs::read;

/// The variables that set a query for signatures apart from a plain call. The second is the list of
/// variables that BitBake takes from its environment, and its name up to honister.
const OF_SIGNATURES: [&str; 3] =
    ["BB_SIGNATURE_HANDLER", "BB_ENV_PASSTHROUGH_ADDITIONS", "BB_ENV_EXTRAWHITE"];

/// What decides the queries, besides those that came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryPlan {
    /// Whether it asks for the world with the class as well.
    pub with_class: bool,
    /// Those that it was given; none for a layer that is no BSP.
    pub machines: Vec<String>,
}

/// What follows a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Layer(Box<OfLayer>),
    /// The same of all machines, this one among them.
    Machines(Vec<Invocation>),
}

/// What is asked when the layer has been added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfLayer {
    /// With `-k`, as it is asked first.
    pub world: Invocation,
    /// Without it.
    pub strict_world: Invocation,
    /// The first of them.
    pub parse: Invocation,
    pub class: Option<Invocation>,
}

impl QueryPlan {
    /// For the check of one layer.
    pub fn read(oe_core: &Path, machines: &[String]) -> QueryPlan {
        let with_class = tool_says(oe_core, "cases/common.py", "INHERIT=\"yocto-check-layer\"");
        QueryPlan { with_class, machines: machines.to_vec() }
    }

    /// `first` is the first query for signatures, without the layer.
    pub fn next(&self, invocation: &Invocation, first: &Invocation) -> Option<Next> {
        // A prefetched query has one stream, and the agent's own umask and place.
        if (first.umask, &first.cwd, first.joined) != (invocation.umask, &invocation.cwd, true)
            || !invocation.joined
        {
            return None;
        }
        if !CacheableQuery::recognise(invocation)?.leaves_signatures {
            return Some(self.of_layer(invocation.clone(), first));
        }
        let machine = invocation.variable("MACHINE")?;
        if self.machines.len() < 2 || !self.machines.iter().any(|known| machine == known.as_str()) {
            return None;
        }
        let of = |machine: &String| with(invocation.clone(), "MACHINE", OsStr::new(machine));
        Some(Next::Machines(self.machines.iter().map(of).collect()))
    }

    fn of_layer(&self, parse: Invocation, first: &Invocation) -> Next {
        let strict_world = world(&parse, first);
        let class = self.with_class.then(|| class(&strict_world));
        let mut world = strict_world.clone();
        world.argv.insert(0, "-k".into());
        Next::Layer(Box::new(OfLayer { world, strict_world, parse, class }))
    }
}

/// Whether a file of the tool's library holds these words.
pub fn tool_says(oe_core: &Path, file: &str, words: &str) -> bool {
    let text = read::whole(&oe_core.join("scripts/lib/checklayer").join(file), 1 << 20);
    text.is_ok_and(|text| text.windows(words.len()).any(|window| window == words.as_bytes()))
}

/// `bitbake -S … world` in the environment of another call.
fn world(other: &Invocation, first: &Invocation) -> Invocation {
    let argv = query::decisive(&first.argv).to_vec();
    let world = Invocation { argv, ..other.clone() };
    OF_SIGNATURES.into_iter().fold(world, |world, name| match first.variable(name) {
        Some(value) => with(world, name, value),
        None => world,
    })
}

/// `BB_ENV_PASSTHROUGH_ADDITIONS="$BB_ENV_PASSTHROUGH_ADDITIONS INHERIT" INHERIT="yocto-check-layer"` as
/// the shell takes it: dash and bash assign from left to right, so that it adds to what stands before.
fn class(world: &Invocation) -> Invocation {
    let list = world.environment.iter().find(|(name, value)| {
        OF_SIGNATURES[1..].iter().any(|list| name == list)
            && value.as_encoded_bytes().ends_with(OF_SIGNATURES[0].as_bytes())
    });
    let mut class = world.clone();
    if let Some((name, value)) = list {
        let mut longer = value.clone();
        longer.push(" INHERIT");
        class = with(class, name, &longer);
    }
    with(class, "INHERIT", OsStr::new("yocto-check-layer"))
}

fn with(mut invocation: Invocation, name: impl Into<OsString>, value: &OsStr) -> Invocation {
    let name = name.into();
    match invocation.environment.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value.to_owned(),
        None => invocation.environment.push((name, value.to_owned())),
    }
    invocation
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::*;

    fn invocation(words: &str, environment: &[(&str, &str)]) -> Invocation {
        Invocation {
            argv: words.split_whitespace().map(Into::into).collect(),
            cwd: "/b".into(),
            umask: 0o22,
            joined: true,
            environment: environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        }
    }

    fn plan(machines: &[&str]) -> QueryPlan {
        let machines = machines.iter().map(|name| (*name).to_owned()).collect();
        QueryPlan { with_class: true, machines }
    }

    fn variables(invocation: &Invocation) -> BTreeMap<OsString, OsString> {
        invocation.environment.iter().cloned().collect()
    }

    fn of_layer(next: Option<Next>) -> OfLayer {
        let Some(Next::Layer(of_layer)) = next else { panic!("{next:?}") };
        *of_layer
    }

    /// The shell itself says what the tool's command lines make of the environment.
    #[test]
    fn the_world_and_the_class_are_predicted_as_the_shell_would_call_them() {
        let before = "BB_ENV_PASSTHROUGH_ADDITIONS=\"$BB_ENV_PASSTHROUGH_ADDITIONS BB_SIGNATURE_HANDLER\" \
                      BB_SIGNATURE_HANDLER=\"OEBasicHash\"";
        let class_too = "BB_ENV_PASSTHROUGH_ADDITIONS=\"$BB_ENV_PASSTHROUGH_ADDITIONS INHERIT\" \
                         INHERIT=\"yocto-check-layer\"";
        for own in [Some("HOME SSH"), Some(""), None] {
            let seen = |prefix: &str| {
                let mut shell = Command::new("/bin/sh");
                shell.env_clear().env("PATH", "/usr/bin:/bin").args(["-c", &format!("{prefix} env -0")]);
                shell.envs(own.map(|own| ("BB_ENV_PASSTHROUGH_ADDITIONS", own)));
                let text = String::from_utf8(shell.output().unwrap().stdout).unwrap();
                let pairs = text.split_terminator('\0').map(|line| line.split_once('=').unwrap());
                let own = ["PWD", "OLDPWD", "SHLVL", "_"];
                pairs
                    .filter(|(name, _)| !own.contains(name))
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect::<BTreeMap<OsString, OsString>>()
            };
            let of = |prefix: &str, words: &str| {
                let environment = seen(prefix).into_iter().collect();
                Invocation { environment, ..invocation(words, &[]) }
            };
            let first = of(before, "-S lockedsigs world");
            let parse = of("", "-p");
            let OfLayer { world, strict_world, class, .. } = of_layer(plan(&[]).next(&parse, &first));
            let class = class.unwrap();
            assert_eq!(variables(&world), seen(before), "{own:?}");
            assert_eq!(variables(&class), seen(&format!("{before} {class_too}")), "{own:?}");
            assert_eq!([&strict_world.argv, &class.argv], [&first.argv; 2]);
            assert_eq!(world.argv, invocation("-k -S lockedsigs world", &[]).argv);
            assert_eq!(variables(&world), variables(&strict_world));
        }
    }

    #[test]
    fn old_releases_have_another_list_and_no_class() {
        let first = invocation(
            "-k -S none world",
            &[("BB_ENV_EXTRAWHITE", "A BB_SIGNATURE_HANDLER"), ("BB_SIGNATURE_HANDLER", "OEBasicHash")],
        );
        let parse = invocation("-p", &[("BB_ENV_EXTRAWHITE", "A"), ("X", "1")]);
        let dunfell = QueryPlan::default();
        let OfLayer { world, strict_world, class, .. } = of_layer(dunfell.next(&parse, &first));
        assert_eq!(class, None);
        assert_eq!(strict_world.argv, invocation("-S none world", &[]).argv);
        let mut wanted = variables(&first);
        wanted.insert("X".into(), "1".into());
        assert_eq!(variables(&world), wanted);
    }

    #[test]
    fn machines_are_predicted_together() {
        let basic = ("BB_SIGNATURE_HANDLER", "OEBasicHash");
        let first = invocation("-S none world", &[basic]);
        let one = invocation("-k -S none world", &[basic, ("MACHINE", "a")]);
        let Some(Next::Machines(all)) = plan(&["b", "a"]).next(&one, &first) else { panic!() };
        let names: Vec<_> = all.iter().map(|invocation| invocation.variable("MACHINE").unwrap()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(all[1], one);
        for (machines, query) in [(&["a"][..], &one), (&["b", "c"], &one), (&["a", "b"], &first)] {
            assert_eq!(plan(machines).next(query, &first), None, "{machines:?}");
        }
    }

    #[test]
    fn another_way_of_calling_is_left_alone() {
        let first = invocation("-S none world", &[("BB_SIGNATURE_HANDLER", "OEBasicHash")]);
        let parse = invocation("-p", &[]);
        assert!(plan(&[]).next(&parse, &first).is_some());
        for other in [
            Invocation { joined: false, ..parse.clone() },
            Invocation { umask: 0o77, ..parse.clone() },
            Invocation { cwd: "/c".into(), ..parse.clone() },
        ] {
            assert_eq!(plan(&[]).next(&other, &first), None);
        }
    }
}
