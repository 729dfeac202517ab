use super::*;

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
