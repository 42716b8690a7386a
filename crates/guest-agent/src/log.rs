//! The agent's few words on the console. Knows nothing of levels or targets: what is not worth a line is not said.

use std::fmt::Display;
use std::io::Write;

/// Writes one line to the console. A console that cannot be written to is no reason to stop.
pub fn line(message: impl Display) {
    // One write, so that lines of the kernel do not fall in between.
    let text = format!("sandpiper: {message}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// An error with all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
