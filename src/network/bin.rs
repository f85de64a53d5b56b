//! `coracle-cni` as a binary of its own. `coracle` does the same when called by that name; this one is for
//! tests, and for hosts where the agent's binary is not where the runtime can start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    network::plugin::main()
}
