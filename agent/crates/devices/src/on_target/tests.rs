use std::sync::Mutex;

use super::*;

/// A console that says what the test lets it say.
struct Said {
    crash: Option<String>,
    lines: Vec<String>,
    begun: Mutex<u32>,
}

impl Console for Said {
    fn begin_unit(&self) {
        *self.begun.lock().unwrap() += 1;
    }

    fn crash(&self) -> Option<String> {
        self.crash.clone()
    }

    fn warnings(&self) -> Vec<String> {
        self.crash.is_none().then(|| "WARNING: CPU: 0 PID: 1 at x".to_owned()).into_iter().collect()
    }

    fn last_lines(&self) -> Vec<String> {
        self.lines.clone()
    }
}

fn said(crash: Option<&str>) -> Said {
    Said { crash: crash.map(str::to_owned), lines: vec!["[1.0] hello".into()], begun: Mutex::new(0) }
}

fn unit() -> Unit {
    Unit::new(Stage::Test, "commands image on board")
}

#[test]
fn a_crash_of_the_kernel_fails_the_unit_that_ran() {
    const PANIC: &str = "Kernel panic - not syncing: x";
    let crashed = || Outcome::Failed(format!("the kernel crashed: {PANIC}"));
    for (outcome, wanted) in [
        (Outcome::Passed, crashed()),
        (Outcome::Failed("status 1".into()), crashed()),
        (Outcome::TimedOut("silent".into()), crashed()),
        (Outcome::Cancelled("lost".into()), Outcome::Cancelled("lost".into())),
    ] {
        let (end, crash) = with_console(TestEnd::of(outcome.clone()), &unit(), Some(&said(Some(PANIC))));
        assert_eq!((end.outcome, crash.as_deref()), (wanted, Some(PANIC)), "{outcome:?}");
    }
    let (end, crash) = with_console(TestEnd::of(Outcome::Passed), &unit(), Some(&said(None)));
    assert_eq!((end.outcome, crash), (Outcome::Passed, None));
    assert_eq!(end.findings[0].message, "WARNING: CPU: 0 PID: 1 at x");
}

#[test]
fn the_end_of_the_console_is_at_the_top_of_a_failure() {
    let mut failed = TestEnd::failed("status 1");
    failed.excerpt = vec!["output".into()];
    let (end, _) = with_console(failed, &unit(), Some(&said(None)));
    assert_eq!(
        end.excerpt,
        ["--- the device's console ---", "[1.0] hello", "--- the test's output ---", "output"]
    );
    let (end, _) = with_console(TestEnd::failed("x"), &unit(), None);
    assert!(end.excerpt.is_empty());
}
