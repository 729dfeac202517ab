//! The agent's own test of OE-Core's test runner: it runs ptests one by one, and watches each.

use serde::Serialize;

/// The name of the suite; also the name of its file, without `.py`.
pub const SUITE: &str = "build_agent_ptest";

/// The suite of OE-Core that runs all ptests at once. Up to walnascar it waits for them without a limit.
pub const OE_SUITE: &str = "ptest";

/// The suite's code. It works with every release.
pub const CODE: &str = include_str!("build_agent_ptest.py");

/// The plan of the suite, in a file beside its code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The ptests by the names of their directories; `None`: all that the image has.
    pub ptests: Option<Vec<String>>,
    /// Seconds without output after which a ptest is stopped.
    pub silence: u64,
    /// Where the logs go, and where the console's log is.
    pub logs: String,
}

/// The variable with the path of the plan's file, if it is not in the directory of the code.
pub const PLAN_VARIABLE: &str = "BUILD_AGENT_PTEST_PLAN";

/// The name of the plan's file.
pub const PLAN: &str = "build_agent_ptest.plan";

/// The suites that run: the agent's own instead of OE-Core's for ptests.
pub fn effective(suites: &[String]) -> Vec<String> {
    let own = |suite: &String| if suite == OE_SUITE { SUITE.to_owned() } else { suite.clone() };
    suites.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_suite_replaces_oe_cores() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(effective(&words(&["ping", "ptest", "ptests"])), words(&["ping", SUITE, "ptests"]));
        assert_eq!(effective(&[]), Vec::<String>::new());
    }
}
