use agent_process::LineHandler;
use agent_types::events::{EventKind, Phase, Progress, Running, Unit};
use agent_yocto::check_layer::OutputParser;

/// Follows the tests of yocto-check-layer, and tells which one runs: each takes minutes.
pub struct Tests<'a> {
    unit: &'a Unit,
    total: usize,
    pub parser: OutputParser,
    running: Option<String>,
    started: usize,
}

impl Tests<'_> {
    pub fn new(unit: &Unit, total: usize, parser: OutputParser) -> Tests<'_> {
        Tests { unit, total, parser, running: None, started: 0 }
    }
}

impl LineHandler for Tests<'_> {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.parser.line(line);
        let running = self.parser.running();
        if running == self.running.as_deref() {
            return Vec::new();
        }
        self.running = running.map(str::to_owned);
        self.started += usize::from(self.running.is_some());
        let running = self.running.iter().map(|test| Running { name: test.clone(), seconds: 0 });
        vec![EventKind::Progress(Progress {
            done: self.started.saturating_sub(1) as u64,
            total: self.total as u64,
            running: running.collect(),
            ..Progress::new(self.unit, "", Phase::Tests)
        })]
    }

    fn status(&self) -> Option<String> {
        // Before the first test the world is asked for its signatures without the layer.
        let status = self.running.as_deref().unwrap_or("the signatures of the world without the layer");
        Some(format!("{}: {status}", self.unit.name))
    }
}
