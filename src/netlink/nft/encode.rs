//! A transaction as netlink messages.
//!
//! Constants are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`, named as there.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{
    Chain, Change, Data, DataType, Element, Family, HookKind, Key, Reject, Rule, Set, SetKind, Statement,
    TableName, Transaction, Value, Verdict,
};
use crate::wire::Writer;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

/// Messages of the subsystem (`enum nf_tables_msg_types`).
pub(super) mod message {
    pub(in super::super) const NEWTABLE: u16 = 0;
    pub(in super::super) const GETTABLE: u16 = 1;
    pub(in super::super) const DELTABLE: u16 = 2;
    pub(in super::super) const NEWCHAIN: u16 = 3;
    pub(in super::super) const GETCHAIN: u16 = 4;
    pub(in super::super) const DELCHAIN: u16 = 5;
    pub(in super::super) const NEWRULE: u16 = 6;
    pub(in super::super) const GETRULE: u16 = 7;
    pub(in super::super) const DELRULE: u16 = 8;
    pub(in super::super) const NEWSET: u16 = 9;
    pub(in super::super) const GETSET: u16 = 10;
    pub(in super::super) const DELSET: u16 = 11;
    pub(in super::super) const NEWSETELEM: u16 = 12;
    pub(in super::super) const GETSETELEM: u16 = 13;
    pub(in super::super) const DELSETELEM: u16 = 14;
    pub(in super::super) const NEWGEN: u16 = 15;
}

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// The table, set or chain that an attribute list is about; the same number in every kind of object.
pub(super) const ATTR_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_LIST_ELEM: u16 = 1;

/// `NFT_REG32_00`: registers of 4 bytes count from here; 0 is the verdict.
const REGISTER: u32 = 8;
const REGISTER_VERDICT: u32 = 0;
/// An attribute's length has 16 bits: elements are sent in lists well below that.
const ELEMENTS_BYTES: usize = 32 * 1024;

/// Numbers the messages of one batch, so that the kernel's answers name the change they are about.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// The sequence number of the begin message.
    pub(super) first: u32,
    /// The sequence number whose acknowledgement ends the batch.
    pub(super) last: u32,
    /// For each message after the begin, which change of the transaction it belongs to.
    pub(super) change_of: Vec<usize>,
}

/// One batch. `first` is the sequence number to start from.
pub(super) fn batch(transaction: &Transaction, first: u32) -> Batch {
    let mut encoder = Encoder {
        table: &transaction.table,
        batch: Batch { bytes: Vec::new(), first, last: first, change_of: Vec::new() },
        change: 0,
        sets: 0,
    };
    encoder.raw(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    for (index, change) in transaction.changes.iter().enumerate() {
        encoder.change = index;
        encoder.change(change);
    }
    encoder.acknowledge_last();
    encoder.raw(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    encoder.batch
}

/// A request outside of a batch.
pub(super) fn request(kind: u16, flags: u16, family: Family, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(
        &mut bytes,
        NFNL_SUBSYS_NFTABLES << 8 | kind,
        NLM_F_REQUEST | flags,
        sequence,
        &header(protocol(family), 0),
    );
    grow(&mut bytes, 0, attributes);
    bytes
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

/// `struct nlmsghdr` and a body; the length is corrected by `grow`.
fn append(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(body);
}

/// Appends to the message that starts at `start` and corrects its length.
fn grow(bytes: &mut Vec<u8>, start: usize, attributes: &[u8]) {
    bytes.extend_from_slice(attributes);
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// `NFPROTO_*`.
pub(super) fn protocol(family: Family) -> u8 {
    match family {
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

struct Encoder<'a> {
    table: &'a TableName,
    batch: Batch,
    change: usize,
    /// Anonymous sets made so far: their ids in this batch.
    sets: u32,
}

impl Encoder<'_> {
    fn raw(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let count = u32::try_from(self.batch.change_of.len()).unwrap_or(u32::MAX);
        let sequence = self.batch.first.wrapping_add(count);
        let start = self.batch.bytes.len();
        append(&mut self.batch.bytes, kind, flags, sequence, &header(family, resource));
        grow(&mut self.batch.bytes, start, attributes);
        if kind != NFNL_MSG_BATCH_END {
            self.batch.last = sequence;
        }
        self.batch.change_of.push(self.change);
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer)) {
        let mut writer = Writer::default();
        writer.text(ATTR_TABLE, &self.table.name);
        fill(&mut writer);
        let family = protocol(self.table.family);
        self.raw(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | flags, family, 0, &writer.finish());
    }

    /// Asks for an answer to the last change: the kernel answers once all are made, or refused.
    fn acknowledge_last(&mut self) {
        let mut start = 0;
        let mut last = 0;
        while start < self.batch.bytes.len() {
            last = start;
            let length = self.batch.bytes[start..start + 4].try_into().map_or(0, u32::from_ne_bytes);
            start += (length as usize).max(16);
        }
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let old = u16::from_ne_bytes([self.batch.bytes[last + 6], self.batch.bytes[last + 7]]);
        self.batch.bytes[last + 6..last + 8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AddTable => self.message(message::NEWTABLE, NLM_F_CREATE, |_| {}),
            Change::DeleteTable => self.message(message::DELTABLE, 0, |_| {}),
            Change::AddChain(chain) => self.message(message::NEWCHAIN, NLM_F_CREATE, |w| add_chain(w, chain)),
            Change::FlushChain(name) => self.message(message::DELRULE, 0, |w| {
                w.text(NFTA_RULE_CHAIN, name);
            }),
            Change::DeleteChain(name) => self.message(message::DELCHAIN, 0, |w| {
                w.text(NFTA_CHAIN_NAME, name);
            }),
            Change::AddRule(rule) => self.rule(rule),
            Change::AddSet(set) => {
                self.sets += 1;
                let (family, id) = (self.table.family, self.sets);
                self.message(message::NEWSET, NLM_F_CREATE, |w| add_set(w, family, set, id));
            }
            Change::FlushSet(name) => self.message(message::DELSETELEM, 0, |w| {
                w.text(NFTA_SET_ELEM_LIST_SET, name);
            }),
            Change::DeleteSet(name) => self.message(message::DELSET, 0, |w| {
                w.text(NFTA_SET_NAME, name);
            }),
            Change::AddElements { set, elements } => self.elements(message::NEWSETELEM, set, elements, None),
            Change::DeleteElements { set, elements } => {
                self.elements(message::DELSETELEM, set, elements, None)
            }
        }
    }

    /// `id` names an anonymous set of this batch.
    fn elements(&mut self, kind: u16, set: &str, elements: &[Element], id: Option<u32>) {
        const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
        let mut encoded = elements.iter().flat_map(encode_element).peekable();
        while encoded.peek().is_some() {
            let mut list = Vec::new();
            while let Some(bytes) = encoded.next_if(|next| list.len() + next.len() <= ELEMENTS_BYTES) {
                list.extend_from_slice(&bytes);
            }
            self.message(kind, NLM_F_CREATE, |w| {
                w.text(NFTA_SET_ELEM_LIST_SET, set);
                if let Some(id) = id {
                    w.u32(NFTA_SET_ELEM_LIST_SET_ID, id);
                }
                // Already a list of NFTA_LIST_ELEM.
                w.bytes(NFTA_SET_ELEM_LIST_ELEMENTS | 1 << 15, &list);
            });
        }
    }

    fn rule(&mut self, rule: &Rule) {
        const NFTA_RULE_EXPRESSIONS: u16 = 4;
        let mut expressions = Writer::default();
        for statement in &rule.statements {
            if let Statement::RandomVerdict(verdicts) = statement {
                let id = self.anonymous_map(verdicts);
                random_verdict(&mut expressions, verdicts.len(), id);
            } else {
                encode_statement(&mut expressions, self.table.family, statement);
            }
        }
        let expressions = expressions.finish();
        self.message(message::NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |w| {
            w.text(NFTA_RULE_CHAIN, &rule.chain);
            w.bytes(NFTA_RULE_EXPRESSIONS | 1 << 15, &expressions);
        });
    }

    /// The map of a `vmap { … }`: lives and dies with its rule.
    fn anonymous_map(&mut self, verdicts: &[Verdict]) -> u32 {
        self.sets += 1;
        let id = self.sets;
        let elements: Vec<Element> = (0_u32..)
            .zip(verdicts)
            .map(|(index, verdict)| Element::verdict([Data::Number(index)], verdict.clone()))
            .collect();
        self.message(message::NEWSET, NLM_F_CREATE, |w| {
            w.text(NFTA_SET_NAME, ANONYMOUS_MAP);
            w.u32(set::FLAGS, set::ANONYMOUS | set::CONSTANT | set::MAP);
            w.u32(set::KEY_TYPE, type_number(Family::Ip, DataType::Number)).u32(set::KEY_LEN, 4);
            w.u32(set::DATA_TYPE, set::DATA_VERDICT).u32(set::DATA_LEN, 0);
            w.u32(set::ID, id).bytes(set::USERDATA, &host_order_keys());
            w.nested(set::DESC, |desc| {
                desc.u32(1, u32::try_from(elements.len()).unwrap_or(u32::MAX));
            });
        });
        self.elements(message::NEWSETELEM, ANONYMOUS_MAP, &elements, Some(id));
        id
    }
}

const ANONYMOUS_MAP: &str = "__map%d";

/// Attributes and flags of a set (`enum nft_set_attributes`, `enum nft_set_flags`).
mod set {
    pub(super) const FLAGS: u16 = 3;
    pub(super) const KEY_TYPE: u16 = 4;
    pub(super) const KEY_LEN: u16 = 5;
    pub(super) const DATA_TYPE: u16 = 6;
    pub(super) const DATA_LEN: u16 = 7;
    pub(super) const DESC: u16 = 9;
    pub(super) const ID: u16 = 10;
    pub(super) const TIMEOUT: u16 = 11;
    pub(super) const USERDATA: u16 = 13;
    pub(super) const ANONYMOUS: u32 = 1;
    pub(super) const CONSTANT: u32 = 2;
    pub(super) const INTERVAL: u32 = 4;
    pub(super) const MAP: u32 = 8;
    pub(super) const FLAG_TIMEOUT: u32 = 0x10;
    pub(super) const EVAL: u32 = 0x20;
    pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
}

fn add_chain(writer: &mut Writer, chain: &Chain) {
    const NFTA_CHAIN_HOOK: u16 = 4;
    const NFTA_CHAIN_TYPE: u16 = 7;
    writer.text(NFTA_CHAIN_NAME, &chain.name);
    if let Some(hook) = chain.hook {
        writer.nested(NFTA_CHAIN_HOOK, |inner| {
            // Two's complement on the wire.
            inner.u32(1, hook.point as u32).u32(2, hook.priority.cast_unsigned());
        });
        let kind = match hook.kind {
            HookKind::Filter => "filter",
            HookKind::Nat => "nat",
        };
        writer.text(NFTA_CHAIN_TYPE, kind);
    }
}

/// Tells a listing that keys are numbers of the host's byte order (nft's NFTNL_UDATA_SET_KEYBYTEORDER).
fn host_order_keys() -> [u8; 6] {
    let host = 1_u32.to_ne_bytes();
    [0, 4, host[0], host[1], host[2], host[3]]
}

fn add_set(writer: &mut Writer, family: Family, added: &Set, id: u32) {
    let mut flags = 0;
    if added.intervals {
        flags |= set::INTERVAL;
    }
    if added.timeout.is_some() {
        flags |= set::FLAG_TIMEOUT | set::EVAL;
    }
    if !matches!(added.kind, SetKind::Set) {
        flags |= set::MAP;
    }
    writer.text(NFTA_SET_NAME, &added.name).u32(set::FLAGS, flags);
    writer.u32(set::KEY_TYPE, type_numbers(family, &added.key)).u32(set::KEY_LEN, length(family, &added.key));
    match &added.kind {
        SetKind::Set => {}
        SetKind::VerdictMap => {
            writer.u32(set::DATA_TYPE, set::DATA_VERDICT).u32(set::DATA_LEN, 0);
        }
        SetKind::Map(data) => {
            writer.u32(set::DATA_TYPE, type_numbers(family, data)).u32(set::DATA_LEN, length(family, data));
        }
    }
    writer.u32(set::ID, id);
    if matches!(added.key[..], [DataType::Number | DataType::Mark]) {
        writer.bytes(set::USERDATA, &host_order_keys());
    }
    if let Some(timeout) = added.timeout {
        writer.u64(set::TIMEOUT, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
}

/// nft's own numbers of types (`enum datatypes` in nft's datatype.h): only a listing reads them.
fn type_number(family: Family, data: DataType) -> u32 {
    match (data, family) {
        (DataType::Number, _) => 4,
        (DataType::Address, Family::Ip) => 7,
        (DataType::Address, Family::Ip6) => 8,
        (DataType::Proto, _) => 12,
        (DataType::Port, _) => 13,
        (DataType::Mark, _) => 19,
    }
}

fn type_numbers(family: Family, types: &[DataType]) -> u32 {
    types.iter().fold(0, |number, data| number << 6 | type_number(family, *data))
}

fn size(family: Family, data: DataType) -> u32 {
    match (data, family) {
        (DataType::Address, Family::Ip) | (DataType::Mark | DataType::Number, _) => 4,
        (DataType::Address, Family::Ip6) => 16,
        (DataType::Proto, _) => 1,
        (DataType::Port, _) => 2,
    }
}

/// The bytes of a key: exact for one part, each padded to a register for several.
fn length(family: Family, types: &[DataType]) -> u32 {
    match types {
        [one] => size(family, *one),
        many => many.iter().map(|data| size(family, *data).next_multiple_of(4)).sum(),
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn data_bytes(data: Data) -> Vec<u8> {
    match data {
        Data::Address(address) => address_bytes(address),
        Data::Proto(proto) => vec![proto as u8],
        Data::Port(port) => port.to_be_bytes().to_vec(),
        // Marks and random numbers are of the host's byte order in registers.
        Data::Number(number) => number.to_ne_bytes().to_vec(),
    }
}

fn concat(parts: &[Data]) -> Vec<u8> {
    if let [one] = parts {
        return data_bytes(*one);
    }
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&data_bytes(*part));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// One or, for a range, two entries of NFTA_LIST_ELEM.
fn encode_element(element: &Element) -> Vec<Vec<u8>> {
    const NFTA_SET_ELEM_KEY: u16 = 1;
    const NFTA_SET_ELEM_DATA: u16 = 2;
    const NFTA_SET_ELEM_FLAGS: u16 = 3;
    const INTERVAL_END: u32 = 1;
    let entry = |fill: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::default();
        writer.nested(NFTA_LIST_ELEM, fill);
        writer.finish()
    };
    match &element.value {
        Value::Net(net) => {
            let start = entry(&|w| {
                w.nested(NFTA_SET_ELEM_KEY, |key| value(key, &address_bytes(net.network())));
            });
            let mut entries = vec![start];
            // The end is the first address behind the range; a range up to the last address has none.
            if let Some(behind) = successor(*net) {
                entries.push(entry(&|w| {
                    w.nested(NFTA_SET_ELEM_KEY, |key| value(key, &address_bytes(behind)));
                    w.u32(NFTA_SET_ELEM_FLAGS, INTERVAL_END);
                }));
            }
            entries
        }
        other => vec![entry(&|w| {
            w.nested(NFTA_SET_ELEM_KEY, |key| value(key, &concat(&element.key)));
            match other {
                Value::Data(data) => {
                    w.nested(NFTA_SET_ELEM_DATA, |inner| value(inner, &concat(data)));
                }
                Value::Verdict(chosen) => {
                    w.nested(NFTA_SET_ELEM_DATA, |inner| verdict(inner, chosen));
                }
                Value::None | Value::Net(_) => {}
            }
        })],
    }
}

fn successor(net: IpNet) -> Option<IpAddr> {
    match net.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

/// NFTA_DATA_VALUE.
fn value(writer: &mut Writer, bytes: &[u8]) {
    writer.bytes(1, bytes);
}

/// NFTA_DATA_VERDICT.
fn verdict(writer: &mut Writer, chosen: &Verdict) {
    let (code, chain): (i32, Option<&str>) = match chosen {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    writer.nested(2, |inner| {
        inner.u32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            inner.text(2, chain);
        }
    });
}

/// NFTA_LIST_ELEM of one expression.
fn expression(writer: &mut Writer, name: &str, fill: impl FnOnce(&mut Writer)) {
    const NFTA_EXPR_NAME: u16 = 1;
    const NFTA_EXPR_DATA: u16 = 2;
    writer.nested(NFTA_LIST_ELEM, |inner| {
        inner.text(NFTA_EXPR_NAME, name);
        inner.nested(NFTA_EXPR_DATA, fill);
    });
}

/// Loads one key into registers from `register` on; the number of registers it fills.
fn load(writer: &mut Writer, family: Family, key: Key, register: u32) -> u32 {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    let address = match family {
        Family::Ip => (12, 16, 4),
        Family::Ip6 => (8, 24, 16),
    };
    match key {
        Key::Saddr => payload(writer, register, NETWORK, address.0, address.2),
        Key::Daddr => payload(writer, register, NETWORK, address.1, address.2),
        Key::Dport => payload(writer, register, TRANSPORT, 2, 2),
        Key::L4Proto => meta(writer, register, 16, 1),
        Key::Mark => meta(writer, register, 3, 1),
        Key::InputInterface => meta(writer, register, 6, 4),
        Key::OutputInterface => meta(writer, register, 7, 4),
        Key::Random(modulus) => {
            expression(writer, "numgen", |w| {
                // NFT_NG_RANDOM
                w.u32(1, register).u32(2, modulus).u32(3, 1);
            });
            1
        }
    }
}

fn payload(writer: &mut Writer, register: u32, base: u32, offset: u32, length: u32) -> u32 {
    expression(writer, "payload", |w| {
        w.u32(1, register).u32(2, base).u32(3, offset).u32(4, length);
    });
    length.div_ceil(4)
}

fn meta(writer: &mut Writer, register: u32, key: u32, registers: u32) -> u32 {
    expression(writer, "meta", |w| {
        w.u32(1, register).u32(2, key);
    });
    registers
}

fn load_all(writer: &mut Writer, family: Family, keys: &[Key]) {
    let mut register = REGISTER;
    for key in keys {
        register += load(writer, family, *key, register);
    }
}

fn compare(writer: &mut Writer, negate: bool, bytes: &[u8]) {
    expression(writer, "cmp", |w| {
        w.u32(1, REGISTER).u32(2, u32::from(negate));
        w.nested(3, |data| value(data, bytes));
    });
}

/// Register = register & mask ^ flip.
fn bitwise(writer: &mut Writer, mask: &[u8], flip: &[u8]) {
    expression(writer, "bitwise", |w| {
        w.u32(1, REGISTER).u32(2, REGISTER).u32(3, u32::try_from(mask.len()).unwrap_or(0));
        w.nested(4, |data| value(data, mask));
        w.nested(5, |data| value(data, flip));
    });
}

fn lookup(writer: &mut Writer, set: &str, id: Option<u32>, destination: Option<u32>, negate: bool) {
    expression(writer, "lookup", |w| {
        w.text(1, set).u32(2, REGISTER);
        if let Some(register) = destination {
            w.u32(3, register);
        }
        if let Some(id) = id {
            w.u32(4, id);
        }
        if negate {
            w.u32(5, 1);
        }
    });
}

fn nat_to_registers(writer: &mut Writer, family: Family) {
    let port = REGISTER + size(family, DataType::Address).div_ceil(4);
    expression(writer, "nat", |w| {
        // NFT_NAT_DNAT
        w.u32(1, 1).u32(2, u32::from(protocol(family))).u32(3, REGISTER).u32(5, port);
    });
}

fn immediate(writer: &mut Writer, register: u32, bytes: &[u8]) {
    expression(writer, "immediate", |w| {
        w.u32(1, register);
        w.nested(2, |data| value(data, bytes));
    });
}

fn random_verdict(writer: &mut Writer, count: usize, id: u32) {
    let modulus = u32::try_from(count).unwrap_or(u32::MAX);
    load(writer, Family::Ip, Key::Random(modulus), REGISTER);
    lookup(writer, ANONYMOUS_MAP, Some(id), Some(REGISTER_VERDICT), false);
}

fn encode_statement(writer: &mut Writer, family: Family, statement: &Statement) {
    match statement {
        Statement::Is { .. }
        | Statement::InNet { .. }
        | Statement::Interface { .. }
        | Statement::InSet { .. }
        | Statement::DaddrIsLocal
        | Statement::SaddrIsLocal
        | Statement::CtState(_)
        | Statement::CtStatusDnat
        | Statement::MarkMasked { .. } => encode_match(writer, family, statement),
        Statement::SetMark { keep, flip } => {
            load(writer, family, Key::Mark, REGISTER);
            bitwise(writer, &keep.to_ne_bytes(), &flip.to_ne_bytes());
            expression(writer, "meta", |w| {
                w.u32(2, 3).u32(3, REGISTER);
            });
        }
        Statement::Do(chosen) => expression(writer, "immediate", |w| {
            w.u32(1, REGISTER_VERDICT);
            w.nested(2, |data| verdict(data, chosen));
        }),
        Statement::Vmap { keys, map } => {
            load_all(writer, family, keys);
            lookup(writer, map, None, Some(REGISTER_VERDICT), false);
        }
        // Needs an anonymous map first: `Encoder::rule`.
        Statement::RandomVerdict(_) => {}
        Statement::Dnat { address, port } => {
            let bytes = address_bytes(*address);
            immediate(writer, REGISTER, &bytes);
            immediate(writer, REGISTER + size(family, DataType::Address).div_ceil(4), &port.to_be_bytes());
            nat_to_registers(writer, family);
        }
        Statement::DnatMap { keys, map } => {
            load_all(writer, family, keys);
            lookup(writer, map, None, Some(REGISTER), false);
            nat_to_registers(writer, family);
        }
        Statement::Masquerade { fully_random } => expression(writer, "masq", |w| {
            if *fully_random {
                // NF_NAT_RANGE_PROTO_RANDOM_FULLY
                w.u32(1, 16);
            }
        }),
        Statement::Update { set, keys } => {
            load_all(writer, family, keys);
            expression(writer, "dynset", |w| {
                // NFT_DYNSET_OP_UPDATE
                w.text(1, set).u32(3, 1).u32(4, REGISTER);
            });
        }
        Statement::Reject(kind) => reject(writer, family, *kind),
        Statement::Counter => expression(writer, "counter", |_| {}),
    }
}

fn encode_match(writer: &mut Writer, family: Family, statement: &Statement) {
    match statement {
        Statement::Is { key, value, negate } => {
            load(writer, family, *key, REGISTER);
            compare(writer, *negate, &data_bytes(*value));
        }
        Statement::InNet { key, net, negate } => {
            load(writer, family, *key, REGISTER);
            if net.prefix_len() < net.max_prefix_len() {
                let zero = vec![0; address_bytes(net.network()).len()];
                bitwise(writer, &address_bytes(net.netmask()), &zero);
            }
            compare(writer, *negate, &address_bytes(net.network()));
        }
        Statement::Interface { key, name, negate } => {
            load(writer, family, *key, REGISTER);
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            compare(writer, *negate, &bytes);
        }
        Statement::InSet { keys, set, negate } => {
            load_all(writer, family, keys);
            lookup(writer, set, None, None, *negate);
        }
        Statement::DaddrIsLocal => fib_is_local(writer, 2),
        Statement::SaddrIsLocal => fib_is_local(writer, 1),
        Statement::CtState(bits) => ct_has(writer, 0, *bits),
        // IPS_DST_NAT
        Statement::CtStatusDnat => ct_has(writer, 2, 1 << 5),
        Statement::MarkMasked { mask, value, negate } => {
            load(writer, family, Key::Mark, REGISTER);
            bitwise(writer, &mask.to_ne_bytes(), &[0; 4]);
            compare(writer, *negate, &value.to_ne_bytes());
        }
        _ => {}
    }
}

/// `fib saddr|daddr type local`; flags are NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR.
fn fib_is_local(writer: &mut Writer, flags: u32) {
    const ADDRTYPE: u32 = 3;
    const RTN_LOCAL: u32 = 2;
    expression(writer, "fib", |w| {
        w.u32(1, REGISTER).u32(2, ADDRTYPE).u32(3, flags);
    });
    compare(writer, false, &RTN_LOCAL.to_ne_bytes());
}

fn ct_has(writer: &mut Writer, key: u32, bits: u32) {
    expression(writer, "ct", |w| {
        w.u32(1, REGISTER).u32(2, key);
    });
    bitwise(writer, &bits.to_ne_bytes(), &[0; 4]);
    compare(writer, true, &[0; 4]);
}

fn reject(writer: &mut Writer, family: Family, kind: Reject) {
    const ICMP_UNREACH: u32 = 0;
    const TCP_RST: u32 = 1;
    expression(writer, "reject", |w| match (kind, family) {
        (Reject::TcpReset, _) => {
            w.u32(1, TCP_RST);
        }
        (Reject::PortUnreachable, Family::Ip) => {
            w.u32(1, ICMP_UNREACH).u8(2, 3);
        }
        (Reject::PortUnreachable, Family::Ip6) => {
            w.u32(1, ICMP_UNREACH).u8(2, 4);
        }
    });
}
