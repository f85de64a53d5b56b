//! Workload, endpoint, namespace, identity and node controllers
