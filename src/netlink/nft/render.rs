//! A transaction as text that `nft -f` loads.
#![deny(clippy::disallowed_methods)]

use std::fmt::Write as _;

use super::model::{
    Chain, Change, Data, DataType, Element, Family, HookKind, HookPoint, Key, Reject, Set, SetKind,
    Statement, Transaction, Value, Verdict,
};

impl Transaction {
    /// One command a line.
    #[must_use]
    pub fn render(&self) -> String {
        let family = match self.table.family {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        };
        let table = format!("{family} {}", self.table.name);
        let mut text = String::new();
        for change in &self.changes {
            line(&mut text, &table, family, change);
        }
        text
    }
}

fn line(text: &mut String, table: &str, family: &str, change: &Change) {
    let command = match change {
        Change::AddTable => format!("add table {table}"),
        Change::DeleteTable => format!("delete table {table}"),
        Change::AddChain(added) => format!("add chain {table} {}{}", added.name, hook(added)),
        Change::FlushChain(name) => format!("flush chain {table} {name}"),
        Change::DeleteChain(name) => format!("delete chain {table} {name}"),
        Change::AddRule(rule) => {
            let statements: Vec<String> = rule.statements.iter().map(|s| statement(family, s)).collect();
            format!("add rule {table} {} {}", rule.chain, statements.join(" "))
        }
        Change::AddSet(added) => add_set(table, family, added),
        Change::FlushSet(name) => format!("flush set {table} {name}"),
        Change::DeleteSet(name) => format!("delete set {table} {name}"),
        Change::AddElements { set, elements } => {
            format!("add element {table} {set} {{ {} }}", list(elements))
        }
        Change::DeleteElements { set, elements } => {
            format!("delete element {table} {set} {{ {} }}", list(elements))
        }
    };
    text.push_str(&command);
    text.push('\n');
}

fn hook(chain: &Chain) -> String {
    let Some(hook) = chain.hook else { return String::new() };
    let kind = match hook.kind {
        HookKind::Filter => "filter",
        HookKind::Nat => "nat",
    };
    let point = match hook.point {
        HookPoint::Prerouting => "prerouting",
        HookPoint::Input => "input",
        HookPoint::Forward => "forward",
        HookPoint::Output => "output",
        HookPoint::Postrouting => "postrouting",
    };
    format!(" {{ type {kind} hook {point} priority {} ; }}", hook.priority)
}

fn type_name(family: &str, data: DataType) -> &'static str {
    match (data, family) {
        (DataType::Address, "ip") => "ipv4_addr",
        (DataType::Address, _) => "ipv6_addr",
        (DataType::Proto, _) => "inet_proto",
        (DataType::Port, _) => "inet_service",
        (DataType::Mark, _) => "mark",
        // What nft itself calls the type of `numgen`.
        (DataType::Number, _) => "typeof numgen random mod 65536",
    }
}

fn types(family: &str, types: &[DataType]) -> String {
    types.iter().map(|data| type_name(family, *data)).collect::<Vec<_>>().join(" . ")
}

fn add_set(table: &str, family: &str, set: &Set) -> String {
    let word = if matches!(set.kind, SetKind::Set) { "set" } else { "map" };
    // A key of numbers has no type name, only an expression that is of it; then the data need one too.
    let numbered = set.key == [DataType::Number];
    let key = types(family, &set.key);
    let (key, data) = match (&set.kind, numbered) {
        (SetKind::Set, _) => (format!("type {key}"), String::new()),
        (SetKind::VerdictMap, false) => (format!("type {key}"), " : verdict".to_string()),
        (SetKind::VerdictMap, true) => (key, " : verdict".to_string()),
        (SetKind::Map(data), false) => (format!("type {key}"), format!(" : {}", types(family, data))),
        (SetKind::Map(data), true) => (key, format!(" : {}", typeof_data(family, data))),
    };
    let mut flags = Vec::new();
    if set.intervals {
        flags.push("interval");
    }
    if set.timeout.is_some() {
        flags.extend(["dynamic", "timeout"]);
    }
    let mut text = format!("add {word} {table} {} {{ {key}{data} ;", set.name);
    if !flags.is_empty() {
        // Writing to a String cannot fail, here and below.
        let _ok = write!(text, " flags {} ;", flags.join(","));
    }
    if let Some(timeout) = set.timeout {
        let _ok = write!(text, " timeout {}s ;", timeout.as_secs());
    }
    text + " }"
}

fn typeof_data(family: &str, data: &[DataType]) -> String {
    let expression = |data: &DataType| match data {
        DataType::Address => format!("{family} daddr"),
        DataType::Proto => "meta l4proto".to_string(),
        DataType::Port => "th dport".to_string(),
        DataType::Mark => "meta mark".to_string(),
        DataType::Number => "numgen random mod 65536".to_string(),
    };
    data.iter().map(expression).collect::<Vec<_>>().join(" . ")
}

fn list(elements: &[Element]) -> String {
    elements.iter().map(element).collect::<Vec<_>>().join(", ")
}

fn element(element: &Element) -> String {
    let key = join(&element.key);
    match &element.value {
        Value::None => key,
        Value::Net(net) => net.to_string(),
        Value::Data(data) => format!("{key} : {}", join(data)),
        Value::Verdict(chosen) => format!("{key} : {}", verdict(chosen)),
    }
}

fn join(parts: &[Data]) -> String {
    parts.iter().map(|part| data(*part)).collect::<Vec<_>>().join(" . ")
}

fn data(data: Data) -> String {
    match data {
        Data::Address(address) => address.to_string(),
        Data::Proto(proto) => proto.name().to_string(),
        Data::Port(port) => port.to_string(),
        Data::Number(number) => number.to_string(),
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_string(),
        Verdict::Drop => "drop".to_string(),
        Verdict::Return => "return".to_string(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn key(family: &str, key: Key) -> String {
    match key {
        Key::Saddr => format!("{family} saddr"),
        Key::Daddr => format!("{family} daddr"),
        Key::L4Proto => "meta l4proto".to_string(),
        Key::Dport => "th dport".to_string(),
        Key::Mark => "meta mark".to_string(),
        Key::InputInterface => "iifname".to_string(),
        Key::OutputInterface => "oifname".to_string(),
        Key::Random(modulus) => format!("numgen random mod {modulus}"),
    }
}

fn keys(family: &str, keys: &[Key]) -> String {
    keys.iter().map(|part| key(family, *part)).collect::<Vec<_>>().join(" . ")
}

fn not(negate: bool) -> &'static str {
    if negate { "!= " } else { "" }
}

fn statement(family: &str, statement: &Statement) -> String {
    match statement {
        Statement::Is { key: part, value, negate } => {
            format!("{} {}{}", key(family, *part), not(*negate), data(*value))
        }
        Statement::InNet { key: part, net, negate } => {
            format!("{} {}{net}", key(family, *part), not(*negate))
        }
        Statement::Interface { key: part, name, negate } => {
            format!("{} {}\"{name}\"", key(family, *part), not(*negate))
        }
        Statement::InSet { keys: parts, set, negate } => {
            format!("{} {}@{set}", keys(family, parts), not(*negate))
        }
        Statement::DaddrIsLocal => "fib daddr type local".to_string(),
        Statement::SaddrIsLocal => "fib saddr type local".to_string(),
        Statement::CtState(bits) => format!("ct state {}", ct_states(*bits)),
        Statement::CtStatusDnat => "ct status dnat".to_string(),
        Statement::MarkMasked { mask, value, negate } => {
            let op = if *negate { "!=" } else { "==" };
            format!("meta mark & {mask:#010x} {op} {value:#010x}")
        }
        Statement::SetMark { keep, flip } => format!("meta mark set meta mark & {keep:#010x} ^ {flip:#010x}"),
        Statement::Do(chosen) => verdict(chosen),
        Statement::Vmap { keys: parts, map } => format!("{} vmap @{map}", keys(family, parts)),
        Statement::RandomVerdict(verdicts) => {
            let entries =
                verdicts.iter().enumerate().map(|(index, chosen)| format!("{index} : {}", verdict(chosen)));
            format!(
                "numgen random mod {} vmap {{ {} }}",
                verdicts.len(),
                entries.collect::<Vec<_>>().join(", ")
            )
        }
        Statement::Dnat { address, port } if address.is_ipv6() => format!("dnat to [{address}]:{port}"),
        Statement::Dnat { address, port } => format!("dnat to {address}:{port}"),
        Statement::DnatMap { keys: parts, map } => {
            format!("dnat {family} to {} map @{map}", keys(family, parts))
        }
        Statement::Masquerade { fully_random: true } => "masquerade fully-random".to_string(),
        Statement::Masquerade { fully_random: false } => "masquerade".to_string(),
        Statement::Update { set, keys: parts } => format!("update @{set} {{ {} }}", keys(family, parts)),
        Statement::Reject(Reject::PortUnreachable) => "reject".to_string(),
        Statement::Reject(Reject::TcpReset) => "reject with tcp reset".to_string(),
        Statement::Counter => "counter".to_string(),
    }
}

fn ct_states(bits: u32) -> String {
    let names = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    set.join(",")
}
