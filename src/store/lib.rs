//! Revisions, watch, the embedded engine
