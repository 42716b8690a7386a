//! How a template's build is shown: a bar on a terminal, one line a step elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use host_agent::template::{Progress, Step};
use indicatif::{ProgressBar, ProgressStyle};
use model::TemplateName;

use super::output::{note, notes_are_json};

const PARTS: u64 = 1000;
const TICK: Duration = Duration::from_millis(120);
const STYLE: &str = "{spinner} {prefix} {bar:20} {percent:>3}% {elapsed:>4} {wide_msg}";

/// Shows one build on standard error. The bar goes away with it.
#[derive(Debug)]
pub struct BuildProgress {
    template: TemplateName,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines,
}

impl BuildProgress {
    /// For a build that begins now.
    pub fn new(template: &TemplateName) -> Self {
        let display = if std::io::stderr().is_terminal() && !notes_are_json() {
            Display::Bar(bar(template))
        } else {
            Display::Lines
        };
        Self { template: template.clone(), display }
    }
}

fn bar(template: &TemplateName) -> ProgressBar {
    let bar = ProgressBar::new(PARTS).with_prefix(template.to_string());
    if let Ok(style) = ProgressStyle::with_template(STYLE) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

impl Progress for BuildProgress {
    fn step(&self, step: Step) {
        match &self.display {
            Display::Bar(bar) => {
                bar.set_position(0);
                bar.set_message(step.label());
            }
            Display::Lines => note(format_args!("{}: {step}", self.template)),
        }
    }

    fn fraction(&self, fraction: f32) {
        if let Display::Bar(bar) = &self.display {
            bar.set_position((f64::from(fraction.clamp(0.0, 1.0)) * PARTS as f64) as u64);
        }
    }

    fn detail(&self, line: &str) {
        if let Display::Bar(bar) = &self.display {
            bar.set_message(line.chars().filter(|one| !one.is_control()).collect::<String>());
        }
    }
}

impl Drop for BuildProgress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}
