//! What was found, for people and for programs.

use serde::Serialize;

use super::Finding;
use super::claims::Claim;
use crate::console::output;

/// What became of every claim that was tested.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all of them hold.
    pub passed: bool,
    pub claims: Vec<Row>,
}

/// What became of one.
#[derive(Debug, Serialize)]
pub struct Row {
    pub id: &'static str,
    pub claim: &'static str,
    /// How it was tested.
    pub how: &'static str,
    pub result: Verdict,
    /// What was seen, or what went wrong.
    pub found: String,
    /// With what switched off, or what done beside, the same test is shown to fail.
    pub shown_to_fail: Option<&'static str>,
}

/// Whether a claim holds. One that could not be tested does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    Untested,
}

impl Row {
    /// What became of `claim`.
    pub fn new(claim: &'static Claim, finding: anyhow::Result<Finding>) -> Self {
        let (result, found) = match finding {
            Ok(Finding::Holds(found)) => (Verdict::Pass, found),
            Ok(Finding::Broken(found)) => (Verdict::Fail, found),
            Err(error) => (Verdict::Untested, format!("could not be tested: {error:#}")),
        };
        let Claim { id, claim, how, fails, .. } = claim;
        Self { id, claim, how, result, found, shown_to_fail: *fails }
    }
}

impl Report {
    /// Of these claims.
    pub fn new(claims: Vec<Row>) -> Self {
        Self { passed: claims.iter().all(|row| row.result == Verdict::Pass), claims }
    }

    /// Prints a table.
    pub fn print(&self) -> std::io::Result<()> {
        let row = |row: &Row| {
            let result = match row.result {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::Untested => "UNTESTED",
            };
            let shown = row.shown_to_fail.unwrap_or("by comparison");
            [row.id, row.claim, row.how, result, &row.found, shown].map(str::to_owned)
        };
        output::table(["NAME", "CLAIM", "HOW", "RESULT", "FOUND", "SHOWN TO FAIL"], self.claims.iter().map(row))?;
        let failed = self.claims.iter().filter(|row| row.result != Verdict::Pass).count();
        output::line(match failed {
            0 => format!("All {} claims hold.", self.claims.len()),
            failed => format!("{failed} of {} claims do not hold or could not be tested.", self.claims.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::CLAIMS;
    use super::*;

    #[test]
    fn what_could_not_be_tested_does_not_pass() {
        let holds = || Row::new(&CLAIMS[0], Ok(Finding::Holds("seen".to_owned())));
        assert!(Report::new(vec![holds()]).passed);
        for finding in [Ok(Finding::Broken("a hole".to_owned())), Err(anyhow::anyhow!("no way"))] {
            let report = Report::new(vec![holds(), Row::new(&CLAIMS[1], finding)]);
            assert!(!report.passed);
            assert_ne!(serde_json::to_value(&report).unwrap()["claims"][1]["result"], "pass");
        }
    }
}
