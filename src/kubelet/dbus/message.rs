//! The few messages of D-Bus that systemd and logind take, to bytes and from bytes (D-Bus specification 0.43, "Message Protocol").
#![deny(clippy::disallowed_methods)]

/// An answer longer than this is not one to a question of ours.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Endianness, type, flags, version, length of the body, serial, length of the header's fields.
pub(crate) const FIXED_BYTES: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// What a property of a unit, or of a service, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    /// 64 bits; the largest means "no limit" to systemd.
    Number(u64),
    Text(String),
}

pub(crate) type Property = (&'static str, Value);

/// One argument of a method.
#[derive(Clone, Debug)]
pub(crate) enum Argument<'a> {
    Text(&'a str),
    Bool(bool),
    Integer(i32),
    Properties(&'a [Property]),
    /// `a(sa(sv))`, which systemd wants to be empty.
    NoUnits,
}

/// Whose methods are called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) destination: &'static str,
    pub(crate) path: &'static str,
    pub(crate) interface: &'static str,
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) what: What,
    /// How many file descriptors came with it.
    pub(crate) handles: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Done {
        to: u32,
        body: Body,
    },
    Refused {
        to: u32,
        name: String,
        words: String,
    },
    Signal {
        interface: String,
        member: String,
    },
    /// Whatever else was not asked for.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a D-Bus message: {0}")]
pub(crate) struct Malformed(&'static str);

/// The call of a method.
pub(crate) fn call(serial: u32, target: &Target, member: &str, arguments: &[Argument<'_>]) -> Vec<u8> {
    let mut body = Writer::default();
    let mut signature = String::new();
    for argument in arguments {
        match argument {
            Argument::Text(text) => {
                signature.push('s');
                body.text(text);
            }
            Argument::Bool(value) => {
                signature.push('b');
                body.number32(u32::from(*value));
            }
            Argument::Integer(value) => {
                signature.push('i');
                body.number32(value.cast_unsigned());
            }
            Argument::Properties(properties) => {
                signature.push_str("a(sv)");
                body.array(8, |body| properties.iter().for_each(|property| body.property(property)));
            }
            Argument::NoUnits => {
                signature.push_str("a(sa(sv))");
                body.array(8, |_| {});
            }
        }
    }
    message(METHOD_CALL, serial, body, |fields| {
        fields.field(1, "o", target.path);
        fields.field(2, "s", target.interface);
        fields.field(3, "s", member);
        fields.field(6, "s", target.destination);
        if !signature.is_empty() {
            fields.field(8, "g", &signature);
        }
    })
}

fn message(kind: u8, serial: u32, body: Writer, fields: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut message = Writer(vec![LITTLE_ENDIAN, kind, 0, 1]);
    message.number32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.number32(serial);
    message.array(8, fields);
    message.pad(8);
    message.0.extend(body.0);
    message.0
}

/// Bytes, each value at its alignment.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, alignment: usize) {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
    }

    fn number32(&mut self, value: u32) {
        self.pad(4);
        self.0.extend(value.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// The length counts from the first element, after its padding.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Writer)) {
        self.number32(0);
        let length_at = self.0.len() - 4;
        self.pad(alignment);
        let start = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn field(&mut self, code: u8, signature: &str, value: &str) {
        self.pad(8);
        self.0.push(code);
        self.signature(signature);
        if signature == "g" { self.signature(value) } else { self.text(value) }
    }

    fn property(&mut self, (name, value): &Property) {
        self.pad(8);
        self.text(name);
        self.variant(value);
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature("b");
                self.number32(u32::from(*value));
            }
            Value::Number(value) => {
                self.signature("t");
                self.pad(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::Text(value) => {
                self.signature("s");
                self.text(value);
            }
        }
    }
}

/// How many bytes follow the first [`FIXED_BYTES`] of a message.
pub(crate) fn rest(fixed: &[u8; FIXED_BYTES]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(fixed)?;
    reader.at = 4;
    let body = reader.number32()? as usize;
    reader.at = 12;
    let fields = reader.number32()? as usize;
    if body > MOST_BYTES || fields > MOST_BYTES {
        return Err(Malformed("too long"));
    }
    Ok((FIXED_BYTES + fields).next_multiple_of(8) - FIXED_BYTES + body)
}

/// What the fields of a header say, as far as somebody here asks.
#[derive(Default)]
struct Header {
    interface: String,
    member: String,
    error: String,
    to: Option<u32>,
    signature: String,
    handles: usize,
}

/// Reads a whole message, fixed part and rest.
pub(crate) fn read(bytes: &[u8]) -> Result<Received, Malformed> {
    let mut reader = Reader::new(bytes)?;
    let kind = *bytes.get(1).ok_or(Malformed("too short"))?;
    reader.at = 12;
    let end = (reader.number32()? as usize).saturating_add(FIXED_BYTES);
    if end > bytes.len() {
        return Err(Malformed("its header is longer than itself"));
    }
    let header = reader.header(end)?;
    reader.at = end.next_multiple_of(8);
    let body = bytes.get(reader.at..).unwrap_or_default();
    let handles = header.handles;
    let what = match (kind, header.to) {
        (METHOD_RETURN, Some(to)) => {
            let (signature, bytes) = (header.signature, body.to_vec());
            What::Done { to, body: Body { signature, bytes, little: reader.little } }
        }
        (ERROR, Some(to)) => {
            let words = if header.signature.starts_with('s') { reader.text()? } else { String::new() };
            What::Refused { to, name: header.error, words }
        }
        (SIGNAL, _) => What::Signal { interface: header.interface, member: header.member },
        _ => What::Other,
    };
    Ok(Received { what, handles })
}

/// What a method returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    signature: String,
    bytes: Vec<u8>,
    little: bool,
}

impl Body {
    /// The value of a property.
    pub(crate) fn variant(&self) -> Result<Value, Malformed> {
        let mut reader = self.reader("v")?;
        match reader.signature()?.as_str() {
            "b" => Ok(Value::Bool(reader.number32()? != 0)),
            "t" => Ok(Value::Number(reader.number64()?)),
            "s" => Ok(Value::Text(reader.text()?)),
            _ => Err(Malformed("a property of a type that nobody asked for")),
        }
    }

    /// Which of the file descriptors that came along is meant.
    pub(crate) fn handle(&self) -> Result<usize, Malformed> {
        Ok(self.reader("h")?.number32()? as usize)
    }

    fn reader(&self, signature: &str) -> Result<Reader<'_>, Malformed> {
        if self.signature != signature {
            return Err(Malformed("an answer of a type that nobody asked for"));
        }
        Ok(Reader { bytes: &self.bytes, at: 0, little: self.little })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Reader<'a>, Malformed> {
        match bytes.first() {
            Some(&LITTLE_ENDIAN) => Ok(Reader { bytes, at: 0, little: true }),
            Some(b'B') => Ok(Reader { bytes, at: 0, little: false }),
            _ => Err(Malformed("neither little nor big endian")),
        }
    }

    fn pad(&mut self, alignment: usize) {
        self.at = self.at.next_multiple_of(alignment);
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed("too long"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("it ends too early"))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number32(&mut self) -> Result<u32, Malformed> {
        self.pad(4);
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn number64(&mut self) -> Result<u64, Malformed> {
        self.pad(8);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(if self.little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }

    /// The fields that end at `end`.
    fn header(&mut self, end: usize) -> Result<Header, Malformed> {
        let mut header = Header::default();
        self.at = FIXED_BYTES;
        while self.at < end {
            self.pad(8);
            if self.at >= end {
                break;
            }
            let code = self.byte()?;
            match (code, self.signature()?.as_str()) {
                (2, "s") => header.interface = self.text()?,
                (3, "s") => header.member = self.text()?,
                (4, "s") => header.error = self.text()?,
                (5, "u") => header.to = Some(self.number32()?),
                (8, "g") => header.signature = self.signature()?,
                (9, "u") => header.handles = self.number32()? as usize,
                (_, "s" | "o") => drop(self.text()?),
                (_, "u") => drop(self.number32()?),
                (_, "g") => drop(self.signature()?),
                _ => return Err(Malformed("a header field of a type that no header has")),
            }
        }
        Ok(header)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let length = self.number32()? as usize;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.byte()?);
        self.ended(length)
    }

    fn ended(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?;
        if self.byte()? != 0 {
            return Err(Malformed("a text without its end"));
        }
        std::str::from_utf8(text).map(String::from).map_err(|_| Malformed("a text that is not UTF-8"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANAGER: Target = Target { destination: "org.x", path: "/org/x", interface: "org.x.Manager" };

    /// What a service answers.
    pub(crate) enum Answer<'a> {
        /// The path of a job.
        Job,
        Nothing,
        /// A bus name.
        Name(&'a str),
        Variant(Value),
        /// The first file descriptor.
        Handle,
        Refusal(&'a str, &'a str),
    }

    /// An answer as a service would write it.
    pub(crate) fn answering(to: u32, answer: &Answer<'_>) -> Vec<u8> {
        let mut body = Writer::default();
        let signature = match answer {
            Answer::Nothing => "",
            Answer::Job => {
                body.text("/org/freedesktop/systemd1/job/1");
                "o"
            }
            Answer::Name(name) => {
                body.text(name);
                "s"
            }
            Answer::Variant(value) => {
                body.variant(value);
                "v"
            }
            Answer::Handle => {
                body.number32(0);
                "h"
            }
            Answer::Refusal(_, words) => {
                body.text(words);
                "s"
            }
        };
        let number = |fields: &mut Writer, code: u8, value: u32| {
            fields.pad(8);
            fields.0.push(code);
            fields.signature("u");
            fields.number32(value);
        };
        let refused = matches!(answer, Answer::Refusal(..));
        message(if refused { ERROR } else { METHOD_RETURN }, 77, body, |fields| {
            number(fields, 5, to);
            if let Answer::Refusal(name, _) = answer {
                fields.field(4, "s", name);
            }
            if matches!(answer, Answer::Handle) {
                number(fields, 9, 1);
            }
            fields.field(7, "s", "org.x.Service");
            if !signature.is_empty() {
                fields.field(8, "g", signature);
            }
        })
    }

    /// A signal that says whether something is so.
    pub(crate) fn signal(path: &str, interface: &str, member: &str, is_so: bool) -> Vec<u8> {
        let mut body = Writer::default();
        body.number32(u32::from(is_so));
        message(SIGNAL, 78, body, |fields| {
            fields.field(1, "o", path);
            fields.field(2, "s", interface);
            fields.field(3, "s", member);
            fields.field(8, "g", "b");
        })
    }

    #[test]
    fn a_call_is_written_as_the_specification_says() {
        let arguments = [Argument::Text("a.slice"), Argument::Text("replace")];
        let bytes = call(7, &MANAGER, "StopUnit", &arguments);
        assert_eq!(bytes[..4], [b'l', 1, 0, 1]);
        // Two texts of 7 bytes: 4 + 7 + 1 each.
        assert_eq!(bytes[4..8], 24_u32.to_le_bytes());
        assert_eq!(bytes[8..12], 7_u32.to_le_bytes());
        assert_eq!(bytes[16..20], [1, 1, b'o', 0], "the path comes first");
        assert_eq!(bytes.len() % 8, 0);
        let fixed: [u8; FIXED_BYTES] = bytes[..FIXED_BYTES].try_into().unwrap();
        assert_eq!(rest(&fixed).unwrap() + FIXED_BYTES, bytes.len());
        let other = Received { what: What::Other, handles: 0 };
        assert_eq!(read(&bytes), Ok(other), "and its header can be read again");
    }

    fn body(answer: &Answer<'_>) -> Body {
        match read(&answering(3, answer)).unwrap().what {
            What::Done { to: 3, body } => body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_tell_what_they_answer_and_why_not() {
        body(&Answer::Nothing);
        let refused = read(&answering(4, &Answer::Refusal("org.x.NoSuchUnit", "Unit a.slice not loaded.")));
        let (name, words) = ("org.x.NoSuchUnit".to_string(), "Unit a.slice not loaded.".to_string());
        assert_eq!(refused.unwrap().what, What::Refused { to: 4, name, words });
    }

    #[test]
    fn answers_hold_the_value_that_was_asked_for_or_none() {
        let numbers = [0, 5_000_000, u64::MAX].map(Value::Number);
        for value in numbers.into_iter().chain([Value::Bool(true), Value::Text("x".into())]) {
            assert_eq!(body(&Answer::Variant(value.clone())).variant(), Ok(value));
        }
        assert!(body(&Answer::Job).variant().is_err() && body(&Answer::Nothing).handle().is_err());
        let with_handle = read(&answering(3, &Answer::Handle)).unwrap();
        assert_eq!((with_handle.handles, body(&Answer::Handle).handle()), (1, Ok(0)));
    }

    #[test]
    fn signals_are_known_by_interface_and_member() {
        let (interface, member) = ("org.x.Manager".to_string(), "Changed".to_string());
        let bytes = signal("/org/x", &interface, &member, true);
        assert_eq!(read(&bytes), Ok(Received { what: What::Signal { interface, member }, handles: 0 }));
    }

    fn read_all(bytes: &[u8]) {
        if let Ok(Received { what: What::Done { body, .. }, .. }) = read(bytes) {
            let _whatever = (body.variant().is_ok(), body.handle().is_ok());
        }
        if let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() {
            let _whatever = rest(fixed).is_ok();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_reader_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read_all(&bytes);
        }

        #[test]
        fn nor_does_an_answer_with_a_few_bytes_wrong(
            changes in proptest::collection::vec((0_usize..160, any::<u8>()), 0..6), cut in 0_usize..160, kind in 0..5,
        ) {
            let answer = match kind {
                0 => Answer::Refusal("org.x.Y", "words"),
                1 => Answer::Handle,
                2 => Answer::Variant(Value::Number(5_000_000)),
                3 => Answer::Variant(Value::Text("text".into())),
                _ => Answer::Job,
            };
            let mut bytes = answering(3, &answer);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            read_all(&bytes);
        }
    }
}
