//! Everything that is printed for people or programs: lines, tables, JSON.
//!
//! Writing goes through `Result`, not `println!`, because a closed pipe is an ordinary end and no panic.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints one line.
pub fn line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints one JSON value.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string_pretty(value)?)?)
}

/// Prints a table: framed on a terminal, bare columns elsewhere.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> io::Result<()> {
    let style = if io::stdout().is_terminal() { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING };
    line(render(style, header, rows))
}

/// Whether what goes to standard error is read by a program.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on notes look like lines of a log in JSON.
pub fn write_notes_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Whether notes are JSON.
pub fn notes_are_json() -> bool {
    AS_JSON.load(Ordering::Relaxed)
}

/// Tells something on standard error. That nobody reads there is no reason to stop, and cleaning up must go on:
/// `eprintln!` would panic.
pub fn note(text: impl Display) {
    tell("INFO", text);
}

/// Tells of a failure on standard error.
pub fn note_failure(text: impl Display) {
    tell("ERROR", text);
}

fn tell(level: &str, text: impl Display) {
    let line = if notes_are_json() { as_json(level, &text.to_string()) } else { text.to_string() };
    let _ = io::stderr().write_all((line + "\n").as_bytes());
}

fn as_json(level: &str, text: &str) -> String {
    let timestamp = jiff::Timestamp::now().to_string();
    serde_json::json!({"timestamp": timestamp, "level": level, "message": text, "target": "sandpiper"}).to_string()
}

/// One of our standard streams as a file of tokio's, for exact bytes in either direction.
pub fn as_file(stream: impl AsFd) -> io::Result<tokio::fs::File> {
    let descriptor = stream.as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(descriptor.into()))
}

fn render<const N: usize>(style: &str, header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(style).set_header(header);
    if style != presets::NOTHING {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_programs_has_no_frame_and_no_trailing_spaces() {
        let text = render(presets::NOTHING, ["ID", "STATUS"], [["sb1".into(), "running".into()]]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["ID", "STATUS"], ["sb1", "running"]]);
        assert!(text.lines().all(|line| line == line.trim_end()));
    }
}
