//! A runtime that keeps state, for simulations.
