use super::*;

fn key(name: &str) -> Key {
    let mut inputs = Inputs::default();
    inputs.add(name, b"");
    inputs.key()
}

fn beside_the_first() -> (Progress, Interrupt) {
    let stop = Interrupt::new(None);
    let beside = Some(Beside { first: key("first"), stop: stop.clone() });
    (Progress { beside, ..Progress::default() }, stop)
}

#[test]
fn what_runs_beside_the_first_question_ends_with_it_unless_it_is_kept() {
    for (question, kept, stopped) in
        [("first", false, true), ("first", true, false), ("other", false, false), ("other", true, false)]
    {
        let (mut progress, stop) = beside_the_first();
        progress.has_run(&key(question), 1.0, kept);
        assert_eq!(stop.state().is_some(), stopped, "{question} {kept}");
    }
}

/// Three worlds of 100 s side by side, and a parse that is waited for; the world with the layer is asked
/// twice.
#[test]
fn what_the_first_question_took_counts_against_what_ran_beside_it() {
    let (mut progress, _) = beside_the_first();
    progress.has_run(&key("first"), 100.0, true);
    let answers = [(20.0, 10.0), (100.0, 0.0), (100.0, 0.0), (100.0, 0.0)];
    let saved = answers.map(|(seconds, waited)| progress.saved(seconds, waited));
    assert_eq!(saved, [0.0, 10.0, 100.0, 100.0]);
    // Alone it costs the others nothing.
    let mut progress = Progress::default();
    progress.has_run(&key("first"), 100.0, true);
    assert_eq!(progress.saved(20.0, 10.0), 10.0);
}

#[test]
fn the_words_of_the_first_question_are_another_one_later() {
    let asked = Asked {
        argv: ["-S", "none", "world"].map(Into::into).to_vec(),
        cwd: "/b".into(),
        umask: 0o22,
        joined: true,
        environment: vec![("BB_SIGNATURE_HANDLER".into(), "OEBasicHash".into())],
    };
    let question = Question::recognise(&asked).unwrap();
    let mut progress = Progress::default();
    progress.note(&asked, &question);
    assert!(progress.first.is_some() && !progress.begun.contains(&Foresight::Beside));
    progress.note(&asked, &question);
    assert!(progress.begun.contains(&Foresight::Beside));
}

#[test]
fn a_question_is_of_its_kind_by_what_sets_it_apart_from_the_first() {
    let asked = |words: &str, more: &[(&str, &str)]| Asked {
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
            let asked = asked(words, &with(more));
            let question = Question::recognise(&asked).unwrap();
            assert_eq!(progress.note(&asked, &question), wanted, "{own:?} {words} {more:?}");
        }
    }
}
