//! Compiles the .proto files in pure Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=cri_v1.proto");
    println!("cargo:rerun-if-changed=containerd_events.proto");
    let files = protox::compile(["cri_v1.proto", "containerd_events.proto"], ["."])?;
    // Clients only: the runtime is the server. Map fields are BTreeMaps, so that what is sent (and golden files) has one order.
    tonic_prost_build::configure().build_server(false).btree_map(".").compile_fds(files)?;
    Ok(())
}
