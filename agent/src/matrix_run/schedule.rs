//! Runs all cells, with a limit for those that run in parallel.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use agent_process::{CommandOutcome, Runner};
use agent_types::error::Result;

use super::child::CellChild;
use super::console::Console;

/// The interval between updates of the console.
const TICK: Duration = Duration::from_millis(500);

/// The start or the end of a cell, by its index.
enum CellEvent {
    Started(usize),
    Ended(usize, Option<Result<CommandOutcome>>),
}

/// Runs the cells to their ends, in their order; `None` for those that did not start because of a stop. A cell that fails does not
/// stop the others.
pub async fn run_all(
    cells: &[CellChild],
    parallel: usize,
    runner: &Runner,
    console: &mut Console,
) -> Vec<Option<Result<CommandOutcome>>> {
    let (events, mut received) = mpsc::unbounded_channel();
    let work = stream::iter(cells.iter().enumerate()).for_each_concurrent(parallel, |(index, cell)| {
        let events = events.clone();
        async move {
            // The receiver is there until all cells have ended.
            if runner.interrupt.state().is_some() {
                let _ = events.send(CellEvent::Ended(index, None));
                return;
            }
            let _ = events.send(CellEvent::Started(index));
            let end = cell.run(runner).await;
            let _ = events.send(CellEvent::Ended(index, Some(end)));
        }
    });
    let mut work = std::pin::pin!(work);
    let mut ends: Vec<Option<Result<CommandOutcome>>> = cells.iter().map(|_| None).collect();
    let mut tick = tokio::time::interval(TICK);
    let mut is_over = false;
    while !is_over || !received.is_empty() {
        tokio::select! {
            biased;
            Some(event) = received.recv() => match event {
                CellEvent::Started(index) => console.started(index),
                CellEvent::Ended(index, end) => {
                    console.ended(index, end.as_ref());
                    ends[index] = end;
                }
            },
            () = &mut work, if !is_over => is_over = true,
            _ = tick.tick() => console.tick(),
        }
    }
    ends
}
