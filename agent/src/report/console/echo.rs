//! The terminal's echo of Ctrl-C. The two characters `^C` would wrap to the next line and leave a stale status line.

use std::io::{Stdout, stdout};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Control characters are not echoed as `^C` until this is dropped.
#[derive(Debug)]
pub struct WithoutControlEcho {
    before: Option<Termios>,
}

impl WithoutControlEcho {
    /// Of the terminal on standard output; without one, nothing is changed.
    pub fn new() -> WithoutControlEcho {
        let terminal = stdout();
        let before = in_foreground(&terminal).then(|| tcgetattr(&terminal).ok()).flatten();
        let before = before.filter(|settings| settings.local_flags.contains(LocalFlags::ECHOCTL));
        if let Some(settings) = &before {
            let mut without = settings.clone();
            without.local_flags.remove(LocalFlags::ECHOCTL);
            // It is for the display alone.
            let _ = tcsetattr(&terminal, SetArg::TCSANOW, &without);
        }
        WithoutControlEcho { before }
    }
}

impl Drop for WithoutControlEcho {
    fn drop(&mut self) {
        let terminal = stdout();
        if let Some(before) = self.before.take().filter(|_| in_foreground(&terminal)) {
            let _ = tcsetattr(&terminal, SetArg::TCSANOW, &before);
        }
    }
}

/// The kernel stops a background process that changes the terminal's settings.
fn in_foreground(terminal: &Stdout) -> bool {
    tcgetpgrp(terminal) == Ok(getpgrp())
}
