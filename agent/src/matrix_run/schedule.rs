//! Runs all cells, with a limit for those that run in parallel, and a time limit for all of them.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use agent_process::{Interrupted, Runner};

use super::child::{CellChild, CellEnd};
use super::console::Console;

/// The interval between updates of the console.
const TICK: Duration = Duration::from_millis(500);

/// The start or the end of a cell, by its index.
enum CellEvent {
    Started(usize),
    Ended(usize, CellEnd),
}

/// Runs the cells to their ends, in their order. A cell that fails does not stop the others. After the `deadline` no cell
/// starts; one that starts earlier has the time that is left as its limit.
pub async fn run_all(
    cells: &[CellChild],
    parallel: usize,
    deadline: Option<Instant>,
    runner: &Runner,
    console: &mut Console,
) -> Vec<CellEnd> {
    let (events, mut received) = mpsc::unbounded_channel();
    let work = stream::iter(cells.iter().enumerate()).for_each_concurrent(parallel, |(index, cell)| {
        let events = events.clone();
        async move {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let out_of_time = left.is_some_and(|left| left.is_zero()).then_some(Interrupted::OutOfTime);
            let end = match runner.interrupt.state().or(out_of_time) {
                Some(why) => CellEnd::NotStarted(why),
                None => {
                    // The receiver is there until all cells have ended.
                    let _ = events.send(CellEvent::Started(index));
                    CellEnd::Ended(cell.run(left, runner).await)
                }
            };
            let _ = events.send(CellEvent::Ended(index, end));
        }
    });
    let mut work = std::pin::pin!(work);
    let stop = async {
        runner.interrupt.cancelled().await;
        runner.interrupt.signal_name().unwrap_or("cancelled")
    };
    let mut stop = std::pin::pin!(stop);
    let mut ends: Vec<Option<CellEnd>> = cells.iter().map(|_| None).collect();
    let mut tick = tokio::time::interval(TICK);
    let (mut is_over, mut is_stopping) = (false, false);
    while !is_over || !received.is_empty() {
        tokio::select! {
            biased;
            Some(event) = received.recv() => match event {
                CellEvent::Started(index) => console.started(index),
                CellEvent::Ended(index, end) => {
                    console.ended(index, &end);
                    ends[index] = Some(end);
                }
            },
            signal = &mut stop, if !is_stopping => {
                is_stopping = true;
                console.stopping(signal);
            }
            () = &mut work, if !is_over => is_over = true,
            _ = tick.tick() => console.tick(),
        }
    }
    // Each cell has sent its end.
    ends.into_iter().map(|end| end.unwrap_or(CellEnd::NotStarted(Interrupted::Cancelled))).collect()
}
