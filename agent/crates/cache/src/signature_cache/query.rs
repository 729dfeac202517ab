//! Which calls of `bitbake` can be answered.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// A call of `bitbake`, as the shim saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Without the program's name.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub umask: u32,
    /// Whether standard output and standard error are one stream.
    pub joined: bool,
    /// The whole environment that BitBake will get.
    pub environment: Vec<(OsString, OsString)>,
}

impl Invocation {
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }
}

/// A call whose answer depends on nothing but inputs that the agent can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheableQuery {
    /// For people: `signatures of the world, with INHERIT=yocto-check-layer`.
    pub name: String,
    /// Whether BitBake writes `locked-sigs.inc`; otherwise only its exit status is of use.
    pub leaves_signatures: bool,
}

impl CacheableQuery {
    /// The signatures of the world (`-S none` writes `locked-sigs.inc` up to langdale, `-S lockedsigs`
    /// from mickledore on), and whether all recipes parse. `None` for every other call; those are none
    /// of the agent's business.
    pub fn recognise(invocation: &Invocation) -> Option<CacheableQuery> {
        let words: Vec<&str> = invocation.argv.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
        let (mut name, leaves_signatures) = match decisive(&words) {
            // With a hash server's handler the signatures are the server's.
            ["-S", "none" | "lockedsigs", "world"]
                if invocation.variable("BB_SIGNATURE_HANDLER")? == "OEBasicHash" =>
            {
                ("signatures of the world".to_owned(), true)
            }
            ["-p"] => ("whether all recipes parse".to_owned(), false),
            _ => return None,
        };
        for variable in ["MACHINE", "INHERIT"] {
            if let Some(value) = invocation.variable(variable) {
                name += &format!(", with {variable}={}", value.as_encoded_bytes().escape_ascii());
            }
        }
        Some(CacheableQuery { name, leaves_signatures })
    }
}

/// The words on which an answer depends: all but `-k`.
///
/// It sets `halt` (`abort` up to gatesgarth) of BitBake's configuration, which is read where a provider
/// is missing (`TaskData.add_provider`, `remove_buildtarget`, `add_unresolved`), where no task is left to
/// run, and where one failed (`runqueue.py`); the same from dunfell to master. A missing provider gives
/// status 1 either way (`NoProvider` in `knotty.py`). Only a choice between providers at run time leaves
/// a target out with status 0, and says so: such an answer is not stored.
pub fn decisive<S: AsRef<OsStr>>(argv: &[S]) -> &[S] {
    match argv {
        [first, rest @ ..] if first.as_ref() == "-k" => rest,
        _ => argv,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
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

    #[test]
    fn only_the_world_as_a_whole_is_a_query() {
        let basic = ("BB_SIGNATURE_HANDLER", "OEBasicHash");
        let inherit = ("INHERIT", "yocto-check-layer");
        let machine = ("MACHINE", "qemuarm");
        let world = "signatures of the world";
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<String>);
        let table: [Case; 16] = [
            ("-S lockedsigs world", &[basic], Some(world.into())),
            ("-S none world", &[basic], Some(world.into())),
            ("-k -S lockedsigs world", &[basic], Some(world.into())),
            ("-S none world", &[basic, inherit], Some(format!("{world}, with INHERIT=yocto-check-layer"))),
            ("-S none world", &[machine, basic], Some(format!("{world}, with MACHINE=qemuarm"))),
            ("-S lockedsigs world", &[], None),
            ("-S lockedsigs world", &[("BB_SIGNATURE_HANDLER", "OEEquivHash")], None),
            ("-S printdiff world", &[basic], None),
            ("-S lockedsigs world zlib", &[basic], None),
            ("-S lockedsigs zlib", &[basic], None),
            ("-k -k -S none world", &[basic], None),
            ("world -S none", &[basic], None),
            ("-p", &[], Some("whether all recipes parse".into())),
            ("-p zlib", &[], None),
            ("-e", &[basic], None),
            ("", &[basic], None),
        ];
        for (words, environment, wanted) in table {
            let query = CacheableQuery::recognise(&invocation(words, environment));
            assert_eq!(query.map(|query| query.name), wanted, "{words} {environment:?}");
        }
    }
}
