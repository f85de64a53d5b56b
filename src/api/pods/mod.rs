//! Rules about pods: what they ask for, how good their service is, and where they are in life.

mod qos;
mod resources;
mod status;

pub use qos::{QosClass, qos_class};
pub use resources::{Resources, is_sidecar, limits, read_list, requests, requests_or, requests_with_status};
pub use status::{
    HostPort, container, container_status, containers, host_ports, is_active, is_available, is_bound,
    is_mirror, is_ready, is_static, is_terminal, is_terminating, ready_since,
};
