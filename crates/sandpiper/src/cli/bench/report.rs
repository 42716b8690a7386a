//! The report of a benchmark: a row for each thing, what it is compared with, and which promises were kept.

use std::io;

use serde::Serialize;

use super::environment::Environment;
use super::figures::Figures;
use super::promises::{self, Outcome};
use crate::console::output;

/// What can be measured: the name of a row, for programs and for comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    Boot,
    MonitorStart,
    Restore,
    RestoreToOutput,
    Jail,
    Fence,
    Confinement,
    Pool,
    PoolToOutput,
    ConfinementPooled,
    Exec,
    ExecInGuest,
    FirstPause,
    LaterPause,
    Resume,
    ResumeToOutput,
    Snapshot,
    ForkOne,
    ForkTen,
    CreatesOneByOne,
    CreatesByTwo,
    CreatesByFour,
    CreatesByEight,
    Burst,
    BurstFailures,
    MemoryIdle,
    CpuIdle,
    PythonCreate,
    PythonCreateByEight,
    PythonUpload,
    PythonDownload,
    PythonStreams,
    PythonStreamsLost,
    JavascriptCreate,
    JavascriptCreateByEight,
    JavascriptUpload,
    JavascriptDownload,
    JavascriptStreams,
    JavascriptStreamsLost,
    CopyInGuest,
}

/// One thing that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub key: Key,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Everything that a benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    template: String,
    rows: Vec<Row>,
    pub promises: Vec<Outcome>,
    environment: Environment,
}

impl Key {
    fn describe(self) -> &'static str {
        match self {
            Self::Boot => "cold boot to running",
            Self::MonitorStart => "monitor started to its first answer",
            Self::Restore => "create to running, restored",
            Self::RestoreToOutput => "create to first command's output, restored",
            Self::Jail => "jail's part of that, at most",
            Self::Fence => "fence's part of that",
            Self::Confinement => "both together",
            Self::ConfinementPooled => "jail and fence, warm pool",
            Self::Pool => "create to running, warm pool",
            Self::PoolToOutput => "create to first command's output, warm pool",
            Self::Exec => "exec of true through REST",
            Self::ExecInGuest => "the same inside the guest",
            Self::FirstPause => "first pause",
            Self::LaterPause => "later pauses",
            Self::Resume => "resume to running",
            Self::ResumeToOutput => "resume to first command's output",
            Self::Snapshot => "snapshot of a running sandbox",
            Self::ForkOne => "fork, one child",
            Self::ForkTen => "fork, ten children",
            Self::CreatesOneByOne => "creates, one after another",
            Self::CreatesByTwo => "creates, 2 at a time",
            Self::CreatesByFour => "creates, 4 at a time",
            Self::CreatesByEight => "creates, 8 at a time",
            Self::Burst => "create to running, all at once",
            Self::BurstFailures => "failures among these",
            Self::MemoryIdle => "memory of an idle sandbox",
            Self::CpuIdle => "processor of an idle sandbox",
            Self::PythonCreate => "Python: create to first command's output",
            Self::PythonCreateByEight => "Python: the same, 8 at a time",
            Self::PythonUpload => "Python: a file sent",
            Self::PythonDownload => "Python: a file fetched",
            Self::PythonStreams => "Python: streams held at once",
            Self::PythonStreamsLost => "Python: lost among these",
            Self::JavascriptCreate => "JavaScript: create to first command's output",
            Self::JavascriptCreateByEight => "JavaScript: the same, 8 at a time",
            Self::JavascriptUpload => "JavaScript: a file sent",
            Self::JavascriptDownload => "JavaScript: a file fetched",
            Self::JavascriptStreams => "JavaScript: streams held at once",
            Self::JavascriptStreamsLost => "JavaScript: lost among these",
            Self::CopyInGuest => "the file copied inside the guest",
        }
    }

    /// What it cannot be quicker than, or what it saves.
    fn compared_with(self) -> Option<Self> {
        match self {
            Self::Exec => Some(Self::ExecInGuest),
            Self::Restore => Some(Self::MonitorStart),
            Self::Jail | Self::Fence | Self::Confinement => Some(Self::Restore),
            Self::RestoreToOutput
            | Self::Pool
            | Self::PoolToOutput
            | Self::FirstPause
            | Self::LaterPause
            | Self::Resume
            | Self::ResumeToOutput
            | Self::Snapshot
            | Self::ForkOne
            | Self::ForkTen
            | Self::Burst
            | Self::PythonCreate
            | Self::PythonCreateByEight
            | Self::JavascriptCreate
            | Self::JavascriptCreateByEight => Some(Self::Boot),
            Self::PythonUpload | Self::PythonDownload | Self::JavascriptUpload | Self::JavascriptDownload => {
                Some(Self::CopyInGuest)
            }
            _ => None,
        }
    }
}

impl Report {
    /// Puts the parts together.
    pub fn new(template: &str, rows: Vec<Row>, environment: Environment) -> Self {
        let promises = promises::check(&rows, environment.accelerator());
        Self { template: template.to_owned(), rows, promises, environment }
    }

    /// For people.
    pub fn print(&self, with_promises: bool) -> io::Result<()> {
        print_rows(&self.rows)?;
        if with_promises {
            output::line("")?;
            output::table(["PROMISED", "AT MOST", "MEASURED", ""], self.promises.iter().map(Outcome::show))?;
        }
        output::line(format_args!("template {}; {}", self.template, self.environment))
    }
}

/// A table of rows, for people.
pub fn print_rows(rows: &[Row]) -> io::Result<()> {
    let shown = rows.iter().map(|row| show(rows, row));
    output::table(["MEASURED", "RUNS", "MEDIAN", "MIN", "P99", "MAX", "COMPARED WITH", "RATIO"], shown)
}

fn show(rows: &[Row], row: &Row) -> [String; 8] {
    let figures = &row.figures;
    let show = |value| figures.unit.show(value);
    let limit = row.key.compared_with().and_then(|key| find(rows, key).map(|limit| (key, limit)));
    let (with, ratio) = limit.map_or_else(Default::default, |(key, limit)| {
        (key.describe().to_owned(), show_ratio(figures.median / limit.median.max(f64::MIN_POSITIVE)))
    });
    [
        row.key.describe().to_owned(),
        figures.runs.to_string(),
        show(figures.median),
        show(figures.min),
        show(figures.p99),
        show(figures.max),
        with,
        ratio,
    ]
}

/// The figures of a thing, if it was measured.
pub fn find(rows: &[Row], key: Key) -> Option<&Figures> {
    rows.iter().find(|row| row.key == key).map(|row| &row.figures)
}

/// Small ones as a fraction, as people think of them.
pub fn show_ratio(ratio: f64) -> String {
    if ratio < 0.67 && ratio > 0.0 { format!("1/{:.0}", 1.0 / ratio) } else { format!("{ratio:.2} ×") }
}

/// What a thing is, in words.
pub fn describe(key: Key) -> &'static str {
    key.describe()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::bench::figures::Unit;

    fn row(key: Key, milliseconds: f64) -> Row {
        Row { key, figures: Figures::single(Unit::Milliseconds, milliseconds) }
    }

    #[test]
    fn a_thing_stands_beside_what_it_is_compared_with() {
        let rows = vec![row(Key::Boot, 2400.0), row(Key::Pool, 30.0), row(Key::Exec, 9.0), row(Key::ExecInGuest, 4.5)];
        let shown: Vec<_> = rows.iter().map(|row| show(&rows, row)[6..].to_vec()).collect();
        assert_eq!(shown[1], ["cold boot to running", "1/80"]);
        assert_eq!(shown[2], ["the same inside the guest", "2.00 ×"]);
        assert_eq!(shown[0], ["", ""]);
    }

    #[test]
    fn programs_find_rows_by_stable_names() {
        let report = Report::new("minimal", vec![row(Key::ForkTen, 1.0)], Environment::default());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["rows"][0]["key"], &json["rows"][0]["median"]), (&json!("fork_ten"), &json!(1.0)));
        assert!(json["environment"].is_object() && json["promises"].is_array());
    }
}
