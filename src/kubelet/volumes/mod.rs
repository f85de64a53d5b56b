//! Volumes of pods: what is mounted where, and its content kept current.
