//! Links and routes of the real kernel, in a network namespace of the test's own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{process::Command, time::Duration};

use netlink::route::{Monitor, Route, Socket};

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// In a namespace with a link `up0` that has 192.0.2.1/24.
fn on_a_host<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        run("ip link add up0 type veth peer name far0");
        run("ip addr add 192.0.2.1/24 dev up0");
        for link in ["up0", "far0"] {
            run(&format!("ip link set {link} up"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    });
    thread.join().unwrap()
}

#[test]
fn somebody_elses_route_is_not_replaced_and_ours_is() {
    on_a_host(async || {
        run("ip route add 10.1.2.0/24 via 192.0.2.9");
        let mut socket = Socket::open().unwrap();
        let via = |net: &str, gateway: &str| Route::via(net.parse().unwrap(), gateway.parse().unwrap());
        let error = socket.set_route(&via("10.1.2.0/24", "192.0.2.2")).unwrap_err();
        assert_eq!(error.to_string(), "set route 10.1.2.0/24 via 192.0.2.2: somebody else's is there");
        for gateway in ["192.0.2.2", "192.0.2.2", "192.0.2.3"] {
            socket.set_route(&via("10.1.3.0/24", gateway)).unwrap();
        }
        let own = socket.own_routes().unwrap();
        assert_eq!(own.len(), 1, "{own:?}");
        assert_eq!(own[0].gateway, Some("192.0.2.3".parse().unwrap()));
    });
}

#[test]
fn what_cuts_a_way_is_heard_and_pods_that_come_and_go_are_not() {
    on_a_host(async || {
        let mut socket = Socket::open().unwrap();
        let route = Route::via("10.1.3.0/24".parse().unwrap(), "192.0.2.2".parse().unwrap());
        socket.set_route(&route).unwrap();
        let mut monitor = Monitor::open(|name| name.starts_with("pod")).unwrap();
        let heard = async |monitor: &mut Monitor| {
            tokio::time::timeout(Duration::from_millis(300), monitor.changed())
                .await
                .map(Result::unwrap)
                .is_ok()
        };
        // The link comes up a moment after it was told to.
        while heard(&mut monitor).await {}
        run("ip link add pod1 type veth peer name pod2");
        run("ip link set pod1 up");
        run("ip route add 10.1.0.5/32 dev pod1");
        run("ip link del pod1");
        assert!(!heard(&mut monitor).await);
        for command in [
            "ip route del 10.1.3.0/24",
            "ip link set up0 down",
            "ip link set up0 up",
            "ip addr add 192.0.2.7/24 dev up0",
        ] {
            run(command);
            assert!(heard(&mut monitor).await, "{command}");
            while heard(&mut monitor).await {}
        }
    });
}
