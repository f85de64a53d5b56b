//! The memory allocator: jemalloc, told to be small.
//!
//! glibc's keeps what a burst took (measured: 43 MB for ever after a burst of parsed pods; jemalloc gives all but 6 back).

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two arenas (a node has few cores) and freed pages given back after a second, by a thread of jemalloc's own.
/// jemalloc reads its settings from this symbol before `main`.
#[expect(
    unsafe_code,
    reason = "a symbol by name cannot be had otherwise; it is a constant of the type that jemalloc reads"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8; 70] = b"narenas:2,background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";
