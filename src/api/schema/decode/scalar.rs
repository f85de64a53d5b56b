//! What JSON's scalars mean to each scalar type, and the canonical form of those that have one.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Number, Value};

use super::super::{Scalar, Shape};
use crate::{quantity, quote, time};

/// Why a value is not one of a scalar type.
pub(super) enum Wrong {
    /// It is of another type: `string`, `number 1.5`, `array`.
    Type(String),
    /// The type's own decoder says so, without a path.
    Said(String),
}

pub(super) fn of_bool(shape: &Shape, value: bool) -> Result<Value, Wrong> {
    match shape {
        Shape::Any | Shape::Scalar(Scalar::Bool) => Ok(value.into()),
        Shape::Scalar(Scalar::Quantity) => canonical_quantity(&value.to_string()),
        shape => Err(wrong_structure(shape, "bool")),
    }
}

pub(super) fn of_number(shape: &Shape, number: &Number) -> Result<Value, Wrong> {
    let out_of_range = || Wrong::Type(format!("number {number}"));
    match shape {
        Shape::Any | Shape::Scalar(Scalar::Double) => Ok(number.clone().into()),
        Shape::Scalar(Scalar::Int32) => match number.as_i64().map(i32::try_from) {
            Some(Ok(fits)) => Ok(fits.into()),
            _ => Err(out_of_range()),
        },
        Shape::Scalar(Scalar::Int64) => number.as_i64().map(Value::from).ok_or_else(out_of_range),
        Shape::Scalar(Scalar::IntOrString) => match number.as_i64().map(i32::try_from) {
            Some(Ok(fits)) => Ok(fits.into()),
            _ => Err(said_of_value(&format!("number {number}"), "int32")),
        },
        Shape::Scalar(Scalar::Quantity) => canonical_quantity(&number.to_string()),
        shape => Err(wrong_structure(shape, "number")),
    }
}

pub(super) fn of_string(shape: &Shape, text: String) -> Result<Value, Wrong> {
    match shape {
        Shape::Any | Shape::Scalar(Scalar::String | Scalar::IntOrString) => Ok(text.into()),
        Shape::Scalar(Scalar::Bytes) => canonical_base64(&text),
        Shape::Scalar(Scalar::Time) => match parse_time(&text, SECONDS_LAYOUT)? {
            Some(at) => Ok(time::seconds(at).into()),
            None => Ok(Value::Null),
        },
        Shape::Scalar(Scalar::MicroTime) => match parse_time(&text, MICROS_LAYOUT)? {
            Some(at) => Ok(time::micros(at).into()),
            None => Ok(Value::Null),
        },
        Shape::Scalar(Scalar::Quantity) => canonical_quantity(text.trim()),
        shape => Err(wrong_structure(shape, "string")),
    }
}

/// A value of another type altogether. Types that decode themselves don't know their path.
pub(super) fn wrong_structure(shape: &Shape, found: &str) -> Wrong {
    match shape {
        Shape::Scalar(Scalar::Time | Scalar::MicroTime) => said_of_value(found, "string"),
        Shape::Scalar(Scalar::IntOrString) => said_of_value(found, "int32"),
        Shape::Scalar(Scalar::Quantity) => Wrong::Said(quantity::ParseQuantityError::Format.to_string()),
        _ => Wrong::Type(found.into()),
    }
}

fn said_of_value(found: &str, expected: &str) -> Wrong {
    Wrong::Said(format!("json: cannot unmarshal {found} into Go value of type {expected}"))
}

fn canonical_quantity(text: &str) -> Result<Value, Wrong> {
    quantity::canonical_text(text)
        .map(|canonical| canonical.into_owned().into())
        .map_err(|error| Wrong::Said(error.to_string()))
}

/// Go's StdEncoding: padded, line breaks ignored, bits after the end not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

fn canonical_base64(text: &str) -> Result<Value, Wrong> {
    let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match BASE64.decode(&plain) {
        Ok(bytes) => Ok(BASE64.encode(bytes).into()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) => at,
                // A group of four that is not full: its start.
                _ => plain.len() / 4 * 4,
            };
            Err(Wrong::Said(format!("illegal base64 data at input byte {at}")))
        }
    }
}

const SECONDS_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICROS_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `None` for Go's zero time, which is written as null.
fn parse_time(text: &str, layout: &str) -> Result<Option<Timestamp>, Wrong> {
    let bad = |text: &str| {
        let shown = quote(text);
        Wrong::Said(format!("parsing time {shown} as {}: cannot parse {shown} as \"2006\"", quote(layout)))
    };
    if !is_rfc3339(text) {
        return Err(bad(text));
    }
    if layout == MICROS_LAYOUT && fraction_digits(text) != 6 {
        let rest = text.get(19..).unwrap_or_default();
        return Err(Wrong::Said(format!(
            "parsing time {} as {}: cannot parse {} as \".000000\"",
            quote(text),
            quote(layout),
            quote(rest)
        )));
    }
    let at: Timestamp = text.parse().map_err(|_| bad(text))?;
    let zero = SignedDuration::from_secs(-62_135_596_800);
    Ok((at.as_duration() != zero).then_some(at))
}

/// `2006-01-02T15:04:05[.digits](Z|±07:00)`: stricter than other readers of times.
fn is_rfc3339(text: &str) -> bool {
    const PATTERN: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let bytes = text.as_bytes();
    let matches = |pattern: &[u8], bytes: &[u8]| {
        bytes.len() == pattern.len()
            && pattern.iter().zip(bytes).all(|(expected, found)| match expected {
                b'd' => found.is_ascii_digit(),
                exact => exact == found,
            })
    };
    let Some((date, rest)) = bytes.split_at_checked(PATTERN.len()) else { return false };
    let digits = fraction_digits(text);
    let zone = match rest.first() {
        Some(b'.') if digits > 0 => &rest[1 + digits..],
        _ => rest,
    };
    matches(PATTERN, date) && (zone == b"Z" || matches(b"+dd:dd", zone) || matches(b"-dd:dd", zone))
}

fn fraction_digits(text: &str) -> usize {
    let fraction = text.get(19..).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
    fraction.bytes().take_while(u8::is_ascii_digit).count()
}
