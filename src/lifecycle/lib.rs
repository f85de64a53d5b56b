//! Supervisor, readiness, shutdown, backoff, clock
