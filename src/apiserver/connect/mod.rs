//! Connections to nodes, pods and services: log, exec, attach, port-forward, proxy.
