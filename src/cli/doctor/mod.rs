//! `coracle doctor`: is this machine ready for Coracle, and if not, which command mends it.
//!
//! ```text
//!   machine ──observe──▶ Facts ──plan (pure)──▶ Findings ──▶ text
//! ```

mod observe;
mod plan;
mod settings;

use std::fmt;

pub use observe::{Questions, observe};
pub use plan::{Cgroups, Facts, Finding, Outcome, examine};
pub use settings::{Clock, Driver, Runtime, Settings};

/// The findings as a screen; `quiet` leaves out what is well.
#[derive(Debug)]
pub struct Screen<'a> {
    pub findings: &'a [Finding],
    pub quiet: bool,
}

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in self.findings {
            let (mark, text, mend) = match &finding.outcome {
                Outcome::Well(text) if !self.quiet => ("ok  ", text, None),
                Outcome::Well(_) => continue,
                Outcome::Warning { what, mend } => ("warn", what, Some(mend)),
                Outcome::Broken { what, mend } => ("FAIL", what, Some(mend)),
            };
            writeln!(f, "{mark}  {:<10}  {text}", finding.name)?;
            if let Some(mend) = mend {
                writeln!(f, "                  mend: {mend}")?;
            }
        }
        Ok(())
    }
}

/// Whether something is broken: warnings are not.
#[must_use]
pub fn is_broken(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| matches!(finding.outcome, Outcome::Broken { .. }))
}
