//! What the benchmark says: its numbers as values, as `results.json`, and as the table of `RESULTS.md`. No I/O.

pub(crate) mod render;
pub(crate) mod results;
pub(crate) mod statistics;
