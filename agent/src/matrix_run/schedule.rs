//! Runs all cells, as many side by side as asked for.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use agent_process::{CommandOutcome, Runner};
use agent_types::error::Result;

use super::child::CellChild;
use super::console::Console;

/// Between two looks of the console at the cells.
const TICK: Duration = Duration::from_millis(500);

/// What happens to a cell, by its place.
enum News {
    Started(usize),
    Ended(usize, Option<Result<CommandOutcome>>),
}

/// Runs the cells to their ends, in their order; `None` for those that a stop kept from starting. A cell that fails does not
/// stop the others.
pub async fn run_all(
    cells: &[CellChild],
    at_once: usize,
    runner: &Runner,
    console: &mut Console,
) -> Vec<Option<Result<CommandOutcome>>> {
    let (news, mut received) = mpsc::unbounded_channel();
    let work = stream::iter(cells.iter().enumerate()).for_each_concurrent(at_once, |(place, cell)| {
        let news = news.clone();
        async move {
            // The receiver is there until all cells have ended.
            if runner.interrupt.state().is_some() {
                let _ = news.send(News::Ended(place, None));
                return;
            }
            let _ = news.send(News::Started(place));
            let end = cell.run(runner).await;
            let _ = news.send(News::Ended(place, Some(end)));
        }
    });
    let mut work = std::pin::pin!(work);
    let mut ends: Vec<Option<Result<CommandOutcome>>> = cells.iter().map(|_| None).collect();
    let mut tick = tokio::time::interval(TICK);
    let mut is_over = false;
    while !is_over || !received.is_empty() {
        tokio::select! {
            biased;
            Some(news) = received.recv() => match news {
                News::Started(place) => console.started(place),
                News::Ended(place, end) => {
                    console.ended(place, end.as_ref());
                    ends[place] = end;
                }
            },
            () = &mut work, if !is_over => is_over = true,
            _ = tick.tick() => console.tick(),
        }
    }
    ends
}
