//! The gRPC protocols we speak that no crate carries
