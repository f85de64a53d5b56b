//! The few messages of D-Bus that making slices takes, to bytes and from bytes (D-Bus specification 0.43, "Message Protocol").

/// An answer longer than this is not one to a question of ours.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// Endianness, type, flags, version, length of the body, serial, length of the header's fields.
pub(super) const FIXED_BYTES: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// A value of a unit's property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    /// 64 bits; the largest means "no limit" to systemd.
    Number(u64),
    Text(String),
}

pub(super) type Property = (&'static str, Value);

/// One argument of a method.
#[derive(Clone, Debug)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    Bool(bool),
    Properties(&'a [Property]),
    /// `a(sa(sv))`, which systemd wants to be empty.
    NoUnits,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done {
        to: u32,
    },
    Refused {
        to: u32,
        name: String,
        words: String,
    },
    /// A signal, or whatever else was not asked for.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a D-Bus message: {0}")]
pub(super) struct Malformed(&'static str);

/// A call of a method of systemd's manager.
pub(super) fn call(serial: u32, member: &str, arguments: &[Argument<'_>]) -> Vec<u8> {
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
    let mut message = Writer(vec![LITTLE_ENDIAN, METHOD_CALL, 0, 1]);
    message.number32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.number32(serial);
    message.array(8, |fields| {
        fields.field(1, "o", "/org/freedesktop/systemd1");
        fields.field(2, "s", "org.freedesktop.systemd1.Manager");
        fields.field(3, "s", member);
        fields.field(6, "s", "org.freedesktop.systemd1");
        fields.field(8, "g", &signature);
    });
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
pub(super) fn rest(fixed: &[u8; FIXED_BYTES]) -> Result<usize, Malformed> {
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

/// Reads a whole message, fixed part and rest.
pub(super) fn answer(bytes: &[u8]) -> Result<Answer, Malformed> {
    let mut reader = Reader::new(bytes)?;
    let kind = *bytes.get(1).ok_or(Malformed("too short"))?;
    reader.at = 12;
    let end = reader.number32()? as usize + FIXED_BYTES;
    if end > bytes.len() {
        return Err(Malformed("its header is longer than itself"));
    }
    let (mut to, mut name, mut signature) = (None, String::new(), String::new());
    while reader.at < end {
        reader.pad(8);
        if reader.at >= end {
            break;
        }
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (4, "s") => name = reader.text()?,
            (5, "u") => to = Some(reader.number32()?),
            (8, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.number32()?),
            (_, "g") => drop(reader.signature()?),
            _ => return Err(Malformed("a header field of a type that no header has")),
        }
    }
    reader.at = end.next_multiple_of(8);
    Ok(match (kind, to) {
        (METHOD_RETURN, Some(to)) => Answer::Done { to },
        (ERROR, Some(to)) => {
            let words = if signature.starts_with('s') { reader.text()? } else { String::new() };
            Answer::Refused { to, name, words }
        }
        _ => Answer::Other,
    })
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
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer as systemd would write it.
    pub(in super::super) fn answering(to: u32, refused: Option<(&str, &str)>) -> Vec<u8> {
        let mut body = Writer::default();
        let mut message =
            Writer(vec![LITTLE_ENDIAN, if refused.is_some() { ERROR } else { METHOD_RETURN }, 1, 1]);
        body.text(refused.map_or("/org/freedesktop/systemd1/job/1", |(_, words)| words));
        message.number32(u32::try_from(body.0.len()).unwrap());
        message.number32(77);
        message.array(8, |fields| {
            fields.pad(8);
            fields.0.push(5);
            fields.signature("u");
            fields.number32(to);
            if let Some((name, _)) = refused {
                fields.field(4, "s", name);
            }
            fields.field(8, "g", if refused.is_some() { "s" } else { "o" });
        });
        message.pad(8);
        message.0.extend(body.0);
        message.0
    }

    #[test]
    fn a_call_is_written_as_the_specification_says() {
        let bytes = call(7, "StopUnit", &[Argument::Text("a.slice"), Argument::Text("replace")]);
        assert_eq!(bytes[..4], [b'l', 1, 0, 1]);
        // Two texts of 7 bytes: 4 + 7 + 1 each.
        assert_eq!(bytes[4..8], 24_u32.to_le_bytes());
        assert_eq!(bytes[8..12], 7_u32.to_le_bytes());
        assert_eq!(bytes[16..20], [1, 1, b'o', 0], "the path comes first");
        assert_eq!(bytes.len() % 8, 0);
        let fixed: [u8; FIXED_BYTES] = bytes[..FIXED_BYTES].try_into().unwrap();
        assert_eq!(rest(&fixed).unwrap() + FIXED_BYTES, bytes.len());
        assert_eq!(answer(&bytes), Ok(Answer::Other), "and its header can be read again");
    }

    #[test]
    fn answers_tell_what_they_answer_and_why_not() {
        assert_eq!(answer(&answering(3, None)), Ok(Answer::Done { to: 3 }));
        let refused = answer(&answering(4, Some(("org.x.NoSuchUnit", "Unit a.slice not loaded."))));
        let (name, words) = ("org.x.NoSuchUnit".to_string(), "Unit a.slice not loaded.".to_string());
        assert_eq!(refused, Ok(Answer::Refused { to: 4, name, words }));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_make_the_reader_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _whatever = answer(&bytes).is_ok();
            if let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() {
                let _whatever = rest(fixed).is_ok();
            }
        }

        #[test]
        fn nor_does_an_answer_with_a_few_bytes_wrong(
            changes in proptest::collection::vec((0_usize..160, any::<u8>()), 1..6), cut in 0_usize..160,
        ) {
            let mut bytes = answering(3, Some(("org.x.Y", "words")));
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            let _whatever = answer(&bytes).is_ok();
        }
    }
}
