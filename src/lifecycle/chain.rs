//! What went wrong, in one line.

use std::{error::Error, fmt};

/// An error with its causes, for people: `open the store: read a page: disk full`. In the log the causes of the field
/// `error` are shown by themselves; this is for events, conditions, answers and terminals.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the store")]
    struct Open(#[source] std::io::Error);

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = Open(std::io::Error::other("disk full"));
        assert_eq!(Chain(&error).to_string(), "open the store: disk full");
    }
}
