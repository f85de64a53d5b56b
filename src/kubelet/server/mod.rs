//! The kubelet's HTTP server: logs, exec, port-forward, pods, health.
