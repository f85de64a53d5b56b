//! `coracle why pod/NAME`: what happened to an object, told in order and in plain words.
//!
//! ```text
//!   API ──observe──▶ Observed ──plan (pure)──▶ Story ──render──▶ text
//! ```

mod observe;
mod plan;

use std::{fmt, str::FromStr};

use crate::CommandError;
pub use observe::observe;
pub use plan::{Observed, Story, tell};

/// What the question is about. Pods first; more kinds follow with their own stories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Pod { name: String },
}

impl FromStr for Subject {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        match text.split_once('/') {
            Some(("pod" | "pods" | "po", name)) if !name.is_empty() => {
                Ok(Self::Pod { name: name.to_string() })
            }
            _ => Err(CommandError::BadReference { text: text.to_string() }),
        }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.headline)?;
        for line in &self.now {
            writeln!(f, "  {line}")?;
        }
        if !self.past.is_empty() {
            writeln!(f, "\nWhat happened, oldest first:")?;
            for (when, what) in &self.past {
                writeln!(f, "  {when:>8} ago  {what}")?;
            }
        }
        if let Some(mend) = &self.mend {
            writeln!(f, "\n{mend}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_as_kubectl_names_it() {
        for text in ["pod/web", "pods/web", "po/web"] {
            assert_eq!(text.parse::<Subject>().unwrap(), Subject::Pod { name: "web".into() });
        }
        for text in ["web", "pod/", "service/web", ""] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
