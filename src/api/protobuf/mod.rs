//! Kubernetes' protobuf form of objects, read into the JSON form by the facts of the type.
//!
//! ```text
//!   "k8s\0" Unknown { typeMeta, raw } ──open──▶ kind, raw ──decode(Type)──▶ Value, as if it had been sent as JSON
//! ```
//!
//! Go's encoder writes a field that is no pointer even where it is zero; JSON leaves those out that say `omitempty`,
//! and so does [`decode`]: the facts tell which. Source: apimachinery's `runtime/serializer/protobuf` and the .proto
//! files of `k8s.io/api`, whose field numbers are in `schema/facts.txt`.
#![deny(clippy::disallowed_methods)]

mod wire;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use self::wire::{Fields, Wire};
use crate::schema::{Field, Scalar, Shape, Type};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// No object of Kubernetes nests nearly as deep (a JSONSchemaProps may).
const DEEPEST: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("the body holds {0}")]
    Malformed(&'static str),
    #[error("field {0} holds a value of another type")]
    WrongType(String),
    #[error("field {0} holds text that is not UTF-8")]
    NotText(String),
    #[error("the body nests deeper than {DEEPEST} messages")]
    TooDeep,
}

/// A body: what it says it is, and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// Opens a body of `application/vnd.kubernetes.protobuf`.
///
/// # Errors
/// When it is none.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::new(unknown) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                api_version = text_field(meta, 1, "apiVersion")?;
                kind = text_field(meta, 2, "kind")?;
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    Ok(Envelope { api_version, kind, raw })
}

/// A message as the JSON form of its type. Unknown fields are passed over, as upstream does.
///
/// # Errors
/// When it is not a message of this type.
pub fn decode(raw: &[u8], of: &Type) -> Result<Value, ProtobufError> {
    object(raw, of, DEEPEST).map(Value::Object)
}

fn text_field(message: &[u8], number: u32, name: &str) -> Result<String, ProtobufError> {
    match Fields::new(message).last(number)? {
        None => Ok(String::new()),
        Some(Wire::Bytes(bytes)) => text(bytes, name).map(str::to_string),
        Some(_) => Err(ProtobufError::WrongType(name.to_string())),
    }
}

fn text<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::NotText(name.to_string()))
}

fn object(message: &[u8], of: &Type, depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let fields = of.fields.iter().map(|field| (field, field.tags.as_slice())).collect::<Vec<_>>();
    let mut members = Map::new();
    collect(message, &fields, depth, &mut members)?;
    for field in of.fields.iter().filter(|field| field.drops_zero) {
        let zero = members.get(field.name.as_ref()).is_some_and(|value| is_zero(value, &field.shape));
        if zero {
            members.remove(field.name.as_ref());
        }
    }
    Ok(members)
}

/// A zero that `omitempty` leaves out. An object is never zero there: Go writes empty structs.
fn is_zero(value: &Value, shape: &Shape) -> bool {
    match (value, shape) {
        (Value::Array(items), _) => items.is_empty(),
        (Value::Object(members), Shape::Map(_)) => members.is_empty(),
        (Value::Object(_), _) => false,
        (value, shape) => *value == shape.zero(),
    }
}

/// Reads the fields of one message into `members`. `tags` of a field begin at this message: one if the field is in
/// it, more if it is in a message inside it that JSON does not show.
fn collect(
    message: &[u8],
    fields: &[(&Field, &[u16])],
    depth: usize,
    members: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::TooDeep)?;
    let mut here: BTreeMap<u32, &Field> = BTreeMap::new();
    let mut inside: BTreeMap<u32, Vec<(&Field, &[u16])>> = BTreeMap::new();
    for (field, tags) in fields {
        match tags {
            [] => {}
            [tag] => drop(here.insert(u32::from(*tag), field)),
            [tag, deeper @ ..] => inside.entry(u32::from(*tag)).or_default().push((field, deeper)),
        }
    }
    for read in Fields::new(message) {
        let (number, wire) = read?;
        if let Some(field) = here.get(&number) {
            store(wire, field, depth, members)?;
        } else if let (Some(embedded), Wire::Bytes(bytes)) = (inside.get(&number), wire) {
            collect(bytes, embedded, depth, members)?;
        }
    }
    Ok(())
}

fn store(
    wire: Wire<'_>,
    field: &Field,
    depth: usize,
    members: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let name = field.name.as_ref();
    match &field.shape {
        Shape::List(item, _) => {
            let list = members.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (item.as_ref(), wire) {
                (Shape::Scalar(Scalar::Int32 | Scalar::Int64), Wire::Bytes(packed)) => {
                    items.extend(
                        Fields::packed(packed)?.into_iter().map(|number| number.cast_signed().into()),
                    );
                }
                (item, wire) => items.extend(value(wire, item, name, depth)?),
            }
        }
        Shape::Map(item) => {
            let Wire::Bytes(entry) = wire else { return Err(ProtobufError::WrongType(name.to_string())) };
            let key = text_field(entry, 1, name)?;
            let held = match Fields::new(entry).last(2)? {
                Some(wire) => value(wire, item, name, depth)?,
                None => None,
            };
            let map = members.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, held.unwrap_or_else(|| item.zero()));
            }
        }
        shape => {
            if let Some(value) = value(wire, shape, name, depth)? {
                members.insert(name.to_string(), value);
            }
        }
    }
    Ok(())
}

/// One value; none where the message stands for nothing (a zero time).
fn value(wire: Wire<'_>, shape: &Shape, name: &str, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let wrong = || ProtobufError::WrongType(name.to_string());
    match (shape, wire) {
        (Shape::Scalar(of), wire) => scalar(wire, *of, name),
        (Shape::Any, Wire::Bytes(message)) => match Fields::new(message).last(1)? {
            Some(Wire::Bytes(raw)) => Ok(serde_json::from_slice(raw).ok()),
            _ => Ok(None),
        },
        (Shape::Object(of), Wire::Bytes(message)) => {
            object(message, of, depth).map(|members| Some(members.into()))
        }
        // A list inside a list or a map is a message of its own, with the items in field 1.
        (Shape::List(item, _), Wire::Bytes(message)) => {
            let mut items = Vec::new();
            for read in Fields::new(message) {
                if let (1, wire) = read? {
                    items.extend(value(wire, item, name, depth)?);
                }
            }
            Ok(Some(Value::Array(items)))
        }
        _ => Err(wrong()),
    }
}

fn scalar(wire: Wire<'_>, of: Scalar, name: &str) -> Result<Option<Value>, ProtobufError> {
    let found = match (of, wire) {
        (Scalar::String, Wire::Bytes(bytes)) => text(bytes, name)?.into(),
        (Scalar::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Scalar::Bool, Wire::Varint(number)) => (number != 0).into(),
        (Scalar::Int32 | Scalar::Int64, Wire::Varint(number)) => number.cast_signed().into(),
        (Scalar::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Scalar::Quantity, Wire::Bytes(message)) => text_field(message, 1, name)?.into(),
        (Scalar::Time, Wire::Bytes(message)) => return time(message, name, "%Y-%m-%dT%H:%M:%SZ"),
        (Scalar::MicroTime, Wire::Bytes(message)) => return time(message, name, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        (Scalar::IntOrString, Wire::Bytes(message)) => {
            if number_field(message, 1)? == 0 {
                number_field(message, 2)?.into()
            } else {
                text_field(message, 3, name)?.into()
            }
        }
        _ => return Err(ProtobufError::WrongType(name.to_string())),
    };
    Ok(Some(found))
}

fn number_field(message: &[u8], number: u32) -> Result<i64, ProtobufError> {
    match Fields::new(message).last(number)? {
        Some(Wire::Varint(number)) => Ok(number.cast_signed()),
        _ => Ok(0),
    }
}

/// An empty message is Go's zero time, which JSON writes as `null`.
fn time(message: &[u8], name: &str, format: &str) -> Result<Option<Value>, ProtobufError> {
    if message.is_empty() {
        return Ok(None);
    }
    let nanos = i32::try_from(number_field(message, 2)?).unwrap_or(0);
    let moment = Timestamp::new(number_field(message, 1)?, nanos)
        .map_err(|_| ProtobufError::WrongType(name.to_string()))?;
    Ok(Some(moment.strftime(format).to_string().into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::lookup;

    /// A length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    fn decode_kind(group: &str, version: &str, kind: &str, raw: &[u8]) -> Result<Value, ProtobufError> {
        decode(raw, &lookup(group, version, kind).unwrap())
    }

    #[test]
    fn a_body_says_what_it_is() {
        let meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let body = [b"k8s\0".to_vec(), field(1, &meta), field(2, b"raw"), field(3, b"")].concat();
        let envelope = open(&body).unwrap();
        assert_eq!(
            (envelope.api_version.as_str(), envelope.kind.as_str(), envelope.raw),
            ("v1", "ConfigMap", &b"raw"[..])
        );
        assert_eq!(open(b"{}"), Err(ProtobufError::NoMagic));
    }

    #[test]
    fn maps_times_and_zeroes_become_what_json_would_say() {
        // As Go writes it: empty strings, a zero generation and an empty creationTimestamp are on the wire.
        let meta =
            [field(1, b"settings"), field(2, b""), field(3, b"default"), field(8, b""), vec![7 << 3, 0]]
                .concat();
        let entry = |key: &str, value: &str| {
            field(2, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
        };
        let raw = [field(1, &meta), entry("a", "1"), entry("b", "")].concat();
        let found = decode_kind("", "v1", "ConfigMap", &raw).unwrap();
        assert_eq!(
            found,
            json!({"metadata": {"name": "settings", "namespace": "default"}, "data": {"a": "1", "b": ""}})
        );
    }

    #[test]
    fn a_field_of_an_embedded_message_stands_where_json_has_it() {
        // Volume { name = 1, volumeSource = 2 { emptyDir = 2 { medium = 1 } } }
        let volume = [field(1, b"scratch"), field(2, &field(2, &field(1, b"Memory")))].concat();
        let raw = field(2, &field(1, &volume));
        let found = decode_kind("", "v1", "Pod", &raw).unwrap();
        assert_eq!(found["spec"]["volumes"], json!([{"name": "scratch", "emptyDir": {"medium": "Memory"}}]));
    }

    #[test]
    fn numbers_or_texts_and_quantities_are_told_apart() {
        let port = |target: &[u8]| field(1, &[vec![3 << 3, 80], field(4, target)].concat());
        let raw = field(
            2,
            &[port(&[1 << 3, 0, 2 << 3, 80]), port(&[vec![1 << 3, 1], field(3, b"http")].concat())].concat(),
        );
        let found = decode_kind("", "v1", "Service", &raw).unwrap();
        assert_eq!(
            found["spec"]["ports"],
            json!([{"port": 80, "targetPort": 80}, {"port": 80, "targetPort": "http"}])
        );
    }

    #[test]
    fn a_cut_message_is_refused() {
        assert_eq!(decode_kind("", "v1", "ConfigMap", &[10, 200]), Err(ProtobufError::Truncated));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(open(&bytes));
            for (group, kind) in [("", "Pod"), ("", "Service"), ("apps", "Deployment"), ("events.k8s.io", "Event")] {
                drop(decode_kind(group, "v1", kind, &bytes));
            }
        }
    }
}
