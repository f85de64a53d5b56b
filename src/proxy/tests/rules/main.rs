//! Rules for Services in each mode: what they are (golden), that a change leads to what writing anew would (simulated
//! kernels), and that packets go where they should (the real kernel, in network namespaces of the test's own; needs root).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod iptables;
mod models;
mod nftables;
mod table;
mod traffic;
