//! A container's environment: env, envFrom, field and resource references.
