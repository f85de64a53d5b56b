//! The gRPC protocols we speak that no crate carries: CRI v1 and containerd's event stream.
//!
//! Generated from the .proto files beside this one. In the kubelet these types stop at `src/kubelet/runtime/`.

/// `runtime.v1`: the Container Runtime Interface.
pub mod cri {
    #![allow(
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("runtime.v1");
}

/// `containerd.services.events.v1`: what happened to containers, as it happens.
pub mod containerd_events {
    #![allow(
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("containerd.services.events.v1");
}
