//! The Kubernetes API
