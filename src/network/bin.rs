//! `coracle-cni` as a binary of its own. `coracle` does the same when called by that name; this one is small, so that it
//! starts in a third of the time, which every pod waits for.

use std::process::ExitCode;

fn main() -> ExitCode {
    network::plugin::main()
}
