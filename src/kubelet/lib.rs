//! Runs pods on this node
