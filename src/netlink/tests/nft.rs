//! Transactions against the real kernel, each test in a network namespace of its own. Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test fails by panicking; one list shows one of everything"
)]

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Duration,
};

use netlink::nft::{
    Chain, Change, Data, DataType, Element, Family, HookKind, HookPoint, Key, Monitor, Proto, Reject, Rule,
    Set, SetKind, Socket, Statement, TableName, Transaction, Verdict, ct_state,
};

/// Runs a test on a thread in a fresh network namespace, which ends with the thread.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().expect("nft is installed");
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn table() -> TableName {
    TableName { family: Family::Ip, name: "test".into() }
}

fn address(last: u8) -> Data {
    Data::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

/// One of every statement, set and element.
fn everything() -> Transaction {
    let set = |name: &str, key: &[DataType], kind| Set {
        name: name.into(),
        key: key.to_vec(),
        kind,
        timeout: None,
        intervals: false,
    };
    let key = [DataType::Address, DataType::Proto, DataType::Port];
    let keys = vec![Key::Daddr, Key::L4Proto, Key::Dport];
    let mut changes = vec![
        Change::AddTable,
        Change::AddChain(Chain::hooked("entry", HookKind::Nat, HookPoint::Prerouting, -100)),
        Change::AddChain(Chain::hooked("filtering", HookKind::Filter, HookPoint::Forward, 0)),
        Change::AddChain(Chain::hooked("leaving", HookKind::Nat, HookPoint::Postrouting, 100)),
        Change::AddChain(Chain::plain("a")),
        Change::AddChain(Chain::plain("b")),
        Change::AddSet(set("services", &key, SetKind::VerdictMap)),
        Change::AddSet(set("pairs", &[DataType::Address, DataType::Address], SetKind::Set)),
        Change::AddSet(set(
            "endpoints",
            &[DataType::Address],
            SetKind::Map(vec![DataType::Address, DataType::Port]),
        )),
        Change::AddSet(Set { intervals: true, ..set("nets", &[DataType::Address], SetKind::Set) }),
        Change::AddSet(Set {
            timeout: Some(Duration::from_secs(60)),
            ..set("seen", &[DataType::Address], SetKind::Set)
        }),
        Change::AddElements {
            set: "services".into(),
            elements: vec![Element::verdict(
                [address(1), Data::Proto(Proto::Tcp), Data::Port(80)],
                Verdict::Goto("a".into()),
            )],
        },
        Change::AddElements {
            set: "pairs".into(),
            elements: vec![Element::member([address(1), address(2)])],
        },
        Change::AddElements {
            set: "endpoints".into(),
            elements: vec![Element::mapping([address(9)], [address(3), Data::Port(8080)])],
        },
        Change::AddElements {
            set: "nets".into(),
            elements: vec![Element::net("10.9.0.0/16".parse().unwrap())],
        },
    ];
    let net = "10.0.0.0/9".parse().unwrap();
    let rules = [
        Rule::new(
            "entry",
            [Statement::DaddrIsLocal, Statement::Vmap { keys: keys.clone(), map: "services".into() }],
        ),
        Rule::new("entry", [Statement::Vmap { keys, map: "services".into() }]),
        Rule::new("a", [Statement::RandomVerdict(vec![Verdict::Goto("b".into()), Verdict::Return])]),
        Rule::new("b", [Statement::Update { set: "seen".into(), keys: vec![Key::Saddr] }]),
        Rule::new(
            "b",
            [
                Statement::is(Key::L4Proto, Data::Proto(Proto::Tcp)),
                Statement::Dnat { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)), port: 8080 },
            ],
        ),
        Rule::new(
            "a",
            [
                Statement::is(Key::L4Proto, Data::Proto(Proto::Udp)),
                Statement::DnatMap { keys: vec![Key::Saddr], map: "endpoints".into() },
            ],
        ),
        Rule::new("filtering", [Statement::CtState(ct_state::INVALID), Statement::Do(Verdict::Drop)]),
        Rule::new("filtering", [Statement::CtStatusDnat, Statement::Counter, Statement::Do(Verdict::Accept)]),
        Rule::new(
            "filtering",
            [
                Statement::InNet { key: Key::Saddr, net, negate: true },
                Statement::SetMark { keep: 0xffff_bfff, flip: 0x4000 },
            ],
        ),
        Rule::new(
            "filtering",
            [
                Statement::InSet { keys: vec![Key::Daddr], set: "nets".into(), negate: true },
                Statement::Do(Verdict::Accept),
            ],
        ),
        Rule::new(
            "filtering",
            [
                Statement::Interface { key: Key::InputInterface, name: "lo".into(), negate: true },
                Statement::Reject(Reject::PortUnreachable),
            ],
        ),
        Rule::new(
            "filtering",
            [Statement::is(Key::L4Proto, Data::Proto(Proto::Tcp)), Statement::Reject(Reject::TcpReset)],
        ),
        Rule::new(
            "leaving",
            [
                Statement::MarkMasked { mask: 0x4000, value: 0x4000, negate: false },
                Statement::SaddrIsLocal,
                Statement::Masquerade { fully_random: true },
            ],
        ),
        Rule::new(
            "leaving",
            [
                Statement::InSet { keys: vec![Key::Saddr, Key::Daddr], set: "pairs".into(), negate: false },
                Statement::Masquerade { fully_random: false },
            ],
        ),
    ];
    changes.extend(rules.into_iter().map(Change::AddRule));
    Transaction { table: table(), changes }
}

/// Lines of a listing without what differs by kernel object: flags that only netlink users leave out.
fn listed() -> Vec<String> {
    nft(&["list", "table", "ip", "test"])
        .lines()
        .map(|line| line.trim().to_string())
        .filter(|line| !line.starts_with("size "))
        .collect()
}

#[test]
fn the_messages_make_what_the_text_makes() {
    in_namespace(async || {
        let transaction = everything();
        Socket::open().unwrap().commit(&transaction).await.unwrap();
        let by_messages = listed();
        nft(&["delete", "table", "ip", "test"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), transaction.render()).unwrap();
        nft(&["-f", file.path().to_str().unwrap()]);
        assert_eq!(by_messages, listed());
    });
}

#[test]
fn a_refused_change_is_named_and_nothing_is_made() {
    in_namespace(async || {
        let transaction = Transaction {
            table: table(),
            changes: vec![
                Change::AddTable,
                Change::AddChain(Chain::plain("a")),
                Change::AddRule(Rule::new("a", [Statement::jump("nowhere")])),
            ],
        };
        let error = Socket::open().unwrap().commit(&transaction).await.unwrap_err();
        assert!(error.to_string().contains("add rule ip test a jump nowhere"), "{error}");
        assert!(error.is_out_of_step());
        assert_eq!(nft(&["list", "tables"]), "");
    });
}

#[test]
fn thousands_of_elements_go_in_one_transaction() {
    in_namespace(async || {
        let mut socket = Socket::open().unwrap();
        let services = Set {
            name: "services".into(),
            key: vec![DataType::Address, DataType::Proto, DataType::Port],
            kind: SetKind::VerdictMap,
            timeout: None,
            intervals: false,
        };
        let element = |n: u16| {
            let [a, b] = n.to_be_bytes();
            let service = Data::Address(IpAddr::V4(Ipv4Addr::new(10, 96, a, b)));
            Element::verdict([service, Data::Proto(Proto::Tcp), Data::Port(80)], Verdict::Goto("a".into()))
        };
        let changes = vec![
            Change::AddTable,
            Change::AddChain(Chain::plain("a")),
            Change::AddSet(services),
            Change::AddElements { set: "services".into(), elements: (0..20_000).map(element).collect() },
        ];
        socket.commit(&Transaction { table: table(), changes }).await.unwrap();
        let state = socket.state(&table()).await.unwrap().unwrap();
        assert_eq!(state.sets["services"], 20_000);
        assert_eq!(state.chains["a"], 0);
    });
}

#[test]
fn the_state_of_no_table_is_none() {
    in_namespace(async || {
        assert_eq!(Socket::open().unwrap().state(&table()).await.unwrap(), None);
    });
}

#[test]
fn only_a_change_by_somebody_else_is_foreign() {
    in_namespace(async || {
        let mut socket = Socket::open().unwrap();
        let mut monitor = Monitor::open("test", &socket).unwrap();
        socket.commit(&everything()).await.unwrap();
        nft(&["add", "table", "ip", "another"]);
        let silence = tokio::time::timeout(Duration::from_millis(200), monitor.foreign_change()).await;
        assert!(silence.is_err(), "our own change and another table are not foreign changes");
        nft(&["flush", "table", "ip", "test"]);
        tokio::time::timeout(Duration::from_secs(5), monitor.foreign_change()).await.unwrap().unwrap();
    });
}
