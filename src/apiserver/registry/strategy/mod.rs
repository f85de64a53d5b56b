//! What is particular to each kind: defaults, validation, status reset, warnings.
