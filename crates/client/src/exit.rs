//! How a command ended, as the server's words for it are understood.

/// Signals by the names that the contract's `status` has for them, as in `signal: killed`.
const SIGNALS: [(&str, u8); 15] = [
    ("hangup", 1),
    ("interrupt", 2),
    ("quit", 3),
    ("illegal instruction", 4),
    ("trace/breakpoint trap", 5),
    ("aborted", 6),
    ("bus error", 7),
    ("floating point exception", 8),
    ("killed", 9),
    ("user defined signal 1", 10),
    ("segmentation fault", 11),
    ("user defined signal 2", 12),
    ("broken pipe", 13),
    ("alarm clock", 14),
    ("terminated", 15),
];

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself. 127 when there is no such program.
    Code(i32),
    /// By this signal.
    Signal(u8),
}

impl Exit {
    pub(crate) fn from_frame(exit_code: i32, status: &str) -> Self {
        signal(status).map_or(Self::Code(exit_code), Self::Signal)
    }

    /// What a shell would show: a signal as 128 and its number. A code that no process can have is 255.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
            Self::Signal(signal) => 128 + signal % 128,
        }
    }
}

fn signal(status: &str) -> Option<u8> {
    let name = status.strip_prefix("signal: ")?;
    let known = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| name.strip_prefix("signal ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_128_and_its_number() {
        for (code, status, shell) in [
            (0, "exit status 0", 0),
            (7, "exit status 7", 7),
            (137, "", 137),
            (-1, "signal: killed", 137),
            (-1, "signal: segmentation fault", 139),
            (-1, "signal: signal 31", 159),
            (-1, "signal: of another kind", 255),
            (-1, "", 255),
            (300, "", 255),
        ] {
            assert_eq!(Exit::from_frame(code, status).shell_code(), shell, "{code} {status}");
        }
    }
}
