//! Connections of the real kernel, in a network namespace of the test's own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::UdpSocket, process::Command};

use netlink::{conntrack, route};

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_connection_is_found_by_what_was_dialled_and_forgotten_alone() {
    let namespace = std::thread::Builder::new().spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        route::Socket::open().unwrap().set_up(1).unwrap();
        run("nft add table ip t");
        run("nft add chain ip t out { type nat hook output priority -100 ; }");
        run("nft add rule ip t out ip daddr 127.0.0.9 udp dport 53 dnat to 127.0.0.1:5353");
        let server = UdpSocket::bind("127.0.0.1:5353").unwrap();
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for client in &clients {
            client.send_to(b"?", "127.0.0.9:53").unwrap();
            let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
            server.send_to(b"!", from).unwrap();
        }

        let mut socket = conntrack::Socket::open().unwrap();
        let dialled = |entry: &conntrack::Entry| {
            entry.protocol == 17 && entry.original.destination.to_string() == "127.0.0.9"
        };
        let entries = socket.entries(false, dialled).unwrap();
        assert_eq!(entries.len(), 2);
        assert!(entries.iter().all(|entry| entry.original.destination_port == 53));
        assert!(entries.iter().all(|entry| entry.reply.source_port == 5353));
        assert!(socket.delete(&entries[0]).unwrap());
        assert!(!socket.delete(&entries[0]).unwrap());
        assert_eq!(socket.entries(false, dialled).unwrap(), entries[1..]);
        assert!(socket.entries(true, |_| true).unwrap().is_empty());
    });
    if let Err(panic) = namespace.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}
