//! Which queries came so far in one run of the tool, of which kind each is, and what their answers save.

use std::time::Duration;

use agent_yocto::check_layer::Kind;

use super::{CacheableQuery, Invocation};

#[derive(Debug, Default)]
pub struct QueryLog {
    /// The first query for signatures.
    first: Option<Invocation>,
    /// How many queries came.
    count: usize,
    /// Seconds that were waited for, which cached answers have not made up for yet.
    debt: f64,
}

impl QueryLog {
    /// `wasted` must be made up for before anything is saved.
    pub fn after(wasted: Duration) -> QueryLog {
        QueryLog { debt: wasted.as_secs_f64(), ..QueryLog::default() }
    }

    /// Records a query; returns its kind, and whether it was the very first.
    pub fn record(&mut self, invocation: &Invocation, query: &CacheableQuery) -> (Kind, bool) {
        self.count += 1;
        let is_first = self.count == 1;
        (self.kind(invocation, query), is_first)
    }

    /// The first query for signatures, without the layer.
    pub fn first(&self) -> Option<&Invocation> {
        self.first.as_ref()
    }

    fn kind(&mut self, invocation: &Invocation, query: &CacheableQuery) -> Kind {
        let first = match &self.first {
            None if query.leaves_signatures => {
                self.first = Some(invocation.clone());
                return Kind::Base;
            }
            first => first.as_ref(),
        };
        let differs = |name| first.is_some_and(|first| invocation.variable(name) != first.variable(name));
        match (query.leaves_signatures, differs("INHERIT"), differs("MACHINE")) {
            (false, ..) => Kind::Parses,
            (true, true, _) => Kind::Class,
            (true, false, true) => Kind::Machine,
            (true, false, false) => Kind::World,
        }
    }

    /// Records a wait that brought no answer.
    pub fn add_debt(&mut self, waited: Duration) {
        self.debt += waited.as_secs_f64();
    }

    /// The seconds that an answer saves, when BitBake took so many for it and it was `waited` for. What
    /// was waited for one answer counts against the next ones, because BitBake worked on them meanwhile.
    pub fn saved(&mut self, seconds: f64, waited: Duration) -> f64 {
        let balance = seconds - waited.as_secs_f64() - self.debt;
        self.debt = (-balance).max(0.0);
        balance.max(0.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Two worlds of 100 s in parallel, and a parse that is waited for; the world with the layer is queried twice.
    #[test]
    fn a_wait_counts_against_the_answers_that_bitbake_made_meanwhile() {
        let mut queries = QueryLog::default();
        queries.add_debt(Duration::from_secs(90));
        let answers = [(20.0, 10), (100.0, 0), (100.0, 0), (100.0, 0)];
        let saved = answers.map(|(seconds, waited)| queries.saved(seconds, Duration::from_secs(waited)));
        assert_eq!(saved, [0.0, 20.0, 100.0, 100.0]);
    }

    #[test]
    fn the_kind_of_a_query_is_what_differs_from_the_first() {
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
        // Those of the first query, and of all others.
        for own in [&[][..], &[("MACHINE", "own")], &[("MACHINE", "own"), ("INHERIT", "own")]] {
            let mut queries = QueryLog::default();
            let with = |more: &[(&'static str, &'static str)]| {
                let same = own.iter().filter(|(name, _)| more.iter().all(|(other, _)| name != other));
                same.chain(more).copied().collect::<Vec<_>>()
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
                assert_eq!(queries.record(&invocation, &query).0, wanted, "{own:?} {words} {more:?}");
            }
        }
    }
}
