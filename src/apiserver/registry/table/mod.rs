//! The rows of the resource table.
