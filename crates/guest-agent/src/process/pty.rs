//! Terminals: a pair of which the agent keeps one end and the process gets the other. Knows nothing of processes.
//!
//! A terminal lives as long as its process, not as long as a client: losing the client hangs nothing up. When the
//! leader of the session ends, the kernel hangs up what it leaves in the foreground.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::users::User;

/// How many characters a terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// A new terminal of `user`: the agent's end and the process's. Needs no /dev/pts in sight.
pub fn open(size: Size, user: &User) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    resize(&ours, size)?;
    let mut modes = tcgetattr(&theirs)?;
    // Erasing takes away a character, not a byte of it.
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    // As after a login: its user may open it by name, which terminal multiplexers do.
    rustix::fs::fchown(&theirs, Some(user.uid), None)?;
    Ok((ours, theirs))
}

/// Gives a terminal another size. Its foreground is told (SIGWINCH) when that changes anything.
pub fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
