//! D-Bus, as much of it as systemd's manager and logind take. A D-Bus crate would bring 55 others.
//!
//! ```text
//!   cgroups/systemd ── blocking ──▶ /run/systemd/private ──▶ systemd's manager
//!   shutdown/logind ── connection ▶ /run/dbus/system_bus_socket ──▶ logind; signals, a file descriptor
//!                 both: message (pure) ◀─bytes─▶
//! ```
//!
//! Invariants:
//! - A signal says "look again", never what is so: on a bus, everybody may send one.
//! - Whatever bytes come in, they are refused or read; lengths are bounded before anything is allocated.

mod connection;
pub(crate) mod message;

use std::io;

pub(crate) use connection::{CallError, Connection, Handle};

/// The longest line of an authentication.
pub(crate) const LONGEST_LINE: usize = 512;

/// How a conversation begins. Who we are, the other side reads from the socket; the text only has to agree: the user's
/// number, its digits in hex.
pub(crate) fn greeting() -> String {
    let digits = nix::unistd::geteuid().to_string();
    let user: String = digits.bytes().map(|digit| format!("{digit:02x}")).collect();
    format!("\0AUTH EXTERNAL {user}\r\n")
}

pub(crate) fn wrong(error: message::Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
