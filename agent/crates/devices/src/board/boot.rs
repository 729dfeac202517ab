//! Waits until a device that was powered on answers ssh.

use std::path::Path;
use std::time::Duration;

use agent_process::Runner;
use agent_types::error::Result;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::board::console::Console;
use crate::board::program::boot_id;
use crate::board::{Board, SshAddress};
use crate::fence::Fence;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// For the first bytes of an ssh server.
const BANNER: Duration = Duration::from_secs(10);

/// How the wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootEnd {
    /// It answers.
    Up(SshAddress),
    /// It does not, and this is why.
    Down(String),
    /// The attempt has to stop, or the lease was lost.
    Stopped,
}

/// Waits for ssh, at most for `limit`. A crash of the kernel ends the wait.
///
/// # Errors
/// When the address is not known.
pub async fn wait(
    board: &dyn Board,
    console: &Console,
    limit: Duration,
    work: &Path,
    fence: &Fence,
    runner: &Runner,
) -> Result<BootEnd> {
    let address = board.address()?;
    let shown = humantime::format_duration(limit);
    let ended = tokio::select! {
        biased;
        () = fence.lost() => BootEnd::Stopped,
        _ = runner.interrupt.interrupted() => BootEnd::Stopped,
        line = console.crashed_line() => BootEnd::Down(format!("the kernel crashed: {line}")),
        how = board.off() => match crash_of(console).await {
            Some(line) => BootEnd::Down(format!("the kernel crashed: {line}")),
            None => BootEnd::Down(format!("the device turned itself off ({how})")),
        },
        () = answers(board, &address, work, runner) => BootEnd::Up(address.clone()),
        () = tokio::time::sleep(limit) => {
            let silent = if board.has_console() && console.bytes() == 0 { ", and its console is silent" } else { "" };
            let SshAddress { host, port, .. } = &address;
            BootEnd::Down(format!("it does not answer ssh at {host}:{port} within {shown}{silent}"))
        }
    };
    Ok(ended)
}

/// The crash of which the last lines may come a moment later than the end of the power.
async fn crash_of(console: &Console) -> Option<String> {
    timeout(Duration::from_millis(500), console.crashed_line()).await.ok()
}

/// Ends when the device logs root in, in another boot than the old one.
async fn answers(board: &dyn Board, address: &SshAddress, work: &Path, runner: &Runner) {
    loop {
        if has_ssh_server(address).await {
            let boot = boot_id(address, work, runner).await;
            if boot.is_some() && boot != board.old_boot() {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an ssh server answers there. A forwarded port accepts connections also while nobody answers behind it.
pub async fn has_ssh_server(address: &SshAddress) -> bool {
    let banner = async {
        let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await.ok()?;
        let mut start = [0; 4];
        stream.read_exact(&mut start).await.ok()?;
        Some(&start == b"SSH-")
    };
    timeout(BANNER, banner).await.ok().flatten().unwrap_or(false)
}
