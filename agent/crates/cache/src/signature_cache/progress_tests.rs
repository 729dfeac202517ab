use super::*;

/// Two worlds of 100 s side by side, and a parse that is waited for; the world with the layer is asked twice.
#[test]
fn what_was_waited_for_counts_against_what_was_asked_meanwhile() {
    let mut progress = Progress::default();
    progress.debt += 90.0;
    let answers = [(20.0, 10.0), (100.0, 0.0), (100.0, 0.0), (100.0, 0.0)];
    let saved = answers.map(|(seconds, waited)| progress.saved(seconds, waited));
    assert_eq!(saved, [0.0, 20.0, 100.0, 100.0]);
}

/// After an error `-k` makes a difference.
#[test]
fn a_failure_answers_its_own_call_alone() {
    let invocation = |words: &str| Invocation {
        argv: words.split_whitespace().map(Into::into).collect(),
        cwd: "/b".into(),
        umask: 0o22,
        joined: true,
        environment: Vec::new(),
    };
    let [lenient, strict] = [invocation("-k -S none world"), invocation("-S none world")];
    for (end, of_other) in [(ExitReason::Exited(0), true), (ExitReason::Exited(1), false)] {
        let outcome = BitbakeOutcome { end, stdout: Vec::new(), stderr: Vec::new(), signatures: None };
        let why = NotCacheable("why".into());
        let fresh = FreshOutcome { argv: lenient.argv.clone(), outcome, seconds: 1.0, why };
        assert!(fresh.answers(&lenient));
        assert_eq!(fresh.answers(&strict), of_other);
    }
}

#[test]
fn a_question_is_of_its_kind_by_what_sets_it_apart_from_the_first() {
    let invocation = |words: &str, more: &[(&str, &str)]| Invocation {
        argv: words.split_whitespace().map(Into::into).collect(),
        cwd: "/b".into(),
        umask: 0o22,
        joined: true,
        environment: [("BB_SIGNATURE_HANDLER", "OEBasicHash")]
            .iter()
            .chain(more)
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    };
    let world = "-S lockedsigs world";
    let (machine, class) = (("MACHINE", "a"), ("INHERIT", "yocto-check-layer"));
    // Those of the first question, and of all others.
    for own in [&[][..], &[("MACHINE", "own")], &[("MACHINE", "own"), ("INHERIT", "own")]] {
        let mut progress = Progress::default();
        let with = |more: &[(&'static str, &'static str)]| {
            let kept = own.iter().filter(|(name, _)| more.iter().all(|(other, _)| name != other));
            kept.chain(more).copied().collect::<Vec<_>>()
        };
        for (words, more, wanted) in [
            ("-p", &[][..], Kind::Parses),
            (world, &[], Kind::Base),
            (world, &[machine], Kind::Machine),
            ("-k -S lockedsigs world", &[machine], Kind::Machine),
            ("-p", &[], Kind::Parses),
            ("-k -S lockedsigs world", &[], Kind::World),
            (world, &[], Kind::World),
            (world, &[class], Kind::Class),
        ] {
            let invocation = invocation(words, &with(more));
            let query = CacheableQuery::recognise(&invocation).unwrap();
            assert_eq!(progress.note(&invocation, &query).0, wanted, "{own:?} {words} {more:?}");
        }
    }
}
