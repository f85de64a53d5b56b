//! Liveness, readiness and startup probes: measured here, judged by the worker.
