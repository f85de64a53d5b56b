//! Quantities of resources: `100m`, `1.5Gi`, `12e6`.
//!
//! Held exactly, in billionths (upstream's finest grain), as an `i128`: 1.7e29 whole units either way, where it
//! saturates. What is finer than a billionth is rounded away from zero when it is read, and a binary quantity is
//! capped at 2^63-1, both as upstream documents.
#![deny(clippy::disallowed_methods)]

use std::{
    borrow::Cow,
    cmp::Ordering,
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Neg, Sub, SubAssign},
    str::FromStr,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

const NANOS: i128 = 1_000_000_000;
/// Powers of ten beyond this overflow an `i128`.
const MAX_POWER: i64 = 38;

/// Upstream's sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The family of suffixes that a quantity was written with, and is written with again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `e6`
    DecimalExponent,
}

/// An exact amount and how to write it. Equality and order look at the amount only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANOS, format }
    }

    pub fn from_milli(milli: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(milli) * (NANOS / 1000), format }
    }

    pub fn from_nano(nano: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(nano), format }
    }

    /// Bytes, written with binary suffixes.
    pub fn from_bytes(bytes: u64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANOS, format: Format::BinarySi }
    }

    /// As the API's JSON has it: a string or a number. `null` is zero.
    pub fn of_value(value: &Value) -> Result<Quantity, ParseQuantityError> {
        match value {
            Value::Null => Ok(Quantity::ZERO),
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(ParseQuantityError::Format),
        }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    #[must_use]
    pub fn with_format(self, format: Format) -> Quantity {
        Quantity { format, ..self }
    }

    /// Whole units, rounded away from zero, capped to an `i64`.
    pub fn value(&self) -> i64 {
        self.scaled(NANOS)
    }

    /// Thousandths, rounded away from zero, capped to an `i64`.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANOS / 1000)
    }

    pub fn nano_value(&self) -> i64 {
        self.scaled(1)
    }

    /// For metrics and scores, where an approximation will do.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a number of whole units.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANOS == 0
    }

    #[must_use]
    pub fn saturating_mul(self, factor: i64) -> Quantity {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)), ..self }
    }

    fn scaled(&self, unit: i128) -> i64 {
        clamp(div_away_from_zero(self.nanos, unit))
    }

    /// A zero takes over the other's way of writing.
    fn joined(self, other: Quantity, nanos: i128) -> Quantity {
        Quantity { nanos, format: if self.nanos == 0 { other.format } else { self.format } }
    }
}

impl Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        self.joined(other, self.nanos.saturating_add(other.nanos))
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self.joined(other, self.nanos.saturating_sub(other.nanos))
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Quantity {
        Quantity { nanos: self.nanos.saturating_neg(), ..self }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(quantities: I) -> Quantity {
        quantities.fold(Quantity::ZERO, Add::add)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = ParseQuantityError;
    fn try_from(text: &Text) -> Result<Quantity, ParseQuantityError> {
        text.0.parse()
    }
}

impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Text {
        Text(quantity.to_string())
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // What is small, or is not whole, would lose precision with a binary suffix.
        let binary =
            self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0;
        if binary {
            let (amount, times) = without_factor(self.nanos / NANOS, 1024, 6);
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][times];
            return write!(f, "{amount}{suffix}");
        }
        // In threes, since there is a suffix for every third power: -9 to 18.
        let (amount, times) = without_factor(self.nanos, 1000, 9);
        let exponent = 3 * times as i64 - 9;
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{amount}"),
            Format::DecimalExponent => write!(f, "{amount}e{exponent}"),
            Format::DecimalSi | Format::BinarySi => {
                write!(f, "{amount}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][times])
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Quantity, ParseQuantityError> {
        let parts = Parts::of(text)?;
        let suffix = Suffix::of(parts.suffix)?;
        let (mantissa, mut power) = parts.mantissa();
        let (mut nanos, mut format) = match suffix {
            Suffix::Binary(shift) => {
                let nanos = scale(mantissa.saturating_mul(1 << shift), power + 9);
                (nanos.min(i128::from(i64::MAX) * NANOS), Format::BinarySi)
            }
            Suffix::Decimal(exponent) => {
                power += exponent;
                (scale(mantissa, power + 9), Format::DecimalSi)
            }
            Suffix::Exponent(exponent) => {
                power = power.saturating_add(exponent);
                (scale(mantissa, power.saturating_add(9)), Format::DecimalExponent)
            }
        };
        if format == Format::BinarySi && 0 < nanos && nanos < NANOS {
            format = Format::DecimalSi;
        }
        if parts.negative {
            nanos = -nanos;
        }
        Ok(Quantity { nanos, format })
    }
}

/// What the API server stores for `text`. Upstream keeps the text as it was written where its reader takes it for
/// canonical already (`1.500`, `+1`), so that reading is copied here and objects compare equal to upstream's.
pub fn canonical_text(text: &str) -> Result<Cow<'_, str>, ParseQuantityError> {
    let quantity: Quantity = text.parse()?;
    if text == "0" || is_kept_as_written(text)? {
        return Ok(Cow::Borrowed(text));
    }
    Ok(Cow::Owned(quantity.to_string()))
}

fn is_kept_as_written(text: &str) -> Result<bool, ParseQuantityError> {
    let parts = Parts::of(text)?;
    let digits = (parts.whole.len() + parts.fraction.len()) as i64;
    let shifted = || format!("{}{}", parts.whole, parts.fraction);
    Ok(match Suffix::of(parts.suffix)? {
        Suffix::Binary(shift) => {
            // The budget of digits that upstream's quick path has. The cast floors, as its conversion does.
            let budget = 15 - parts.whole.len() as i64 - (f64::from(shift) * 3.0 / 10.0) as i64 - 1;
            let odd = || {
                parts.whole.parse::<i64>().is_ok_and(|v| v & 7 != 0 && v.checked_mul(1 << shift).is_some())
            };
            parts.fraction.is_empty() && budget >= 0 && odd()
        }
        Suffix::Decimal(exponent) | Suffix::Exponent(exponent) => {
            let scale = exponent.saturating_sub(parts.fraction.len() as i64);
            let shifted = shifted();
            digits <= 18
                && scale >= -9
                && scale % 3 == 0
                && !shifted.ends_with("000")
                && !shifted.starts_with('0')
        }
    })
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    /// Without leading zeros; `0` where there are no digits.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Result<Parts<'a>, ParseQuantityError> {
        if text.is_empty() {
            return Err(ParseQuantityError::Format);
        }
        let negative = text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim_start_matches('0');
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if digits(exponent) != exponent.len() {
            return Err(ParseQuantityError::Format);
        }
        Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix })
    }

    /// The digits without their point, and the power of ten that puts it back. Digits that an `i128` cannot hold
    /// count as nines when they are whole (it saturates), and as one more digit when they are a fraction.
    fn mantissa(&self) -> (i128, i64) {
        let Ok(whole) = self.whole.parse::<i128>() else { return (i128::MAX, 0) };
        let fraction = self.fraction.trim_end_matches('0');
        let room = (36 - self.whole.len() as i64).clamp(0, 36) as usize;
        let kept = &fraction[..fraction.len().min(room)];
        let mut mantissa = whole;
        for digit in kept.bytes() {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        }
        let mut power = -(kept.len() as i64);
        if kept.len() < fraction.len() {
            mantissa = mantissa.saturating_mul(10).saturating_add(1);
            power -= 1;
        }
        (mantissa, power)
    }
}

enum Suffix {
    Binary(u32),
    Decimal(i64),
    Exponent(i64),
}

impl Suffix {
    fn of(text: &str) -> Result<Suffix, ParseQuantityError> {
        Ok(match text {
            "" => Suffix::Decimal(0),
            "n" => Suffix::Decimal(-9),
            "u" => Suffix::Decimal(-6),
            "m" => Suffix::Decimal(-3),
            "k" => Suffix::Decimal(3),
            "M" => Suffix::Decimal(6),
            "G" => Suffix::Decimal(9),
            "T" => Suffix::Decimal(12),
            "P" => Suffix::Decimal(15),
            "E" => Suffix::Decimal(18),
            "Ki" => Suffix::Binary(10),
            "Mi" => Suffix::Binary(20),
            "Gi" => Suffix::Binary(30),
            "Ti" => Suffix::Binary(40),
            "Pi" => Suffix::Binary(50),
            "Ei" => Suffix::Binary(60),
            _ => {
                let exponent = text.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Suffix)?;
                Suffix::Exponent(exponent.parse().map_err(|_| ParseQuantityError::Suffix)?)
            }
        })
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// `mantissa` (not negative) times ten to the `power`, rounded up, saturating.
fn scale(mantissa: i128, power: i64) -> i128 {
    if mantissa == 0 {
        return 0;
    }
    if power.abs() > MAX_POWER {
        return if power > 0 { i128::MAX } else { 1 };
    }
    let factor = 10_i128.pow(power.unsigned_abs() as u32);
    if power >= 0 { mantissa.saturating_mul(factor) } else { div_away_from_zero(mantissa, factor) }
}

fn div_away_from_zero(value: i128, by: i128) -> i128 {
    let exact = value % by == 0;
    value / by + if exact { 0 } else { value.signum() }
}

/// `value` with `factor` divided out as often as it goes, at most `most` times, and how often that was.
fn without_factor(mut value: i128, factor: i128, most: usize) -> (i128, usize) {
    let mut times = 0;
    while times < most && value % factor == 0 {
        value /= factor;
        times += 1;
    }
    (value, times)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn quantities_print_in_canonical_form() {
        for (text, printed) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("-0m", "0"),
            (".", "0"),
            ("k", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1.", "1"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("1500m", "1500m"),
            ("1000m", "1"),
            ("0.1m", "100u"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1e-10", "1e-9"),
            ("100", "100"),
            ("1000", "1k"),
            ("1000k", "1M"),
            ("1234567", "1234567"),
            ("12e6", "12e6"),
            ("12E6", "12e6"),
            ("1e+3", "1e3"),
            ("1e1", "10"),
            ("1E", "1E"),
            ("100000E", "100000E"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1025Ki", "1025Ki"),
            ("0.5Ki", "512"),
            ("512Ki", "512Ki"),
            ("1.1Ki", "1126400m"),
            ("0.0001Ki", "102400u"),
            ("8Ei", "9223372036854775807"),
            ("-1Gi", "-1Gi"),
            ("00012k", "12k"),
        ] {
            assert_eq!(quantity(text).to_string(), printed, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_quantity_says_so_in_upstreams_words() {
        for text in ["", " 1", "1 ", "1.2.3", "a", "1e3.5", "1%", "--1", "1-", "1_0", "é"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
        for text in ["1i", "1Kii", "1mm", "1e", "1e-", "1ee3", "1-3", "1mi", "1K"] {
            assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError::Suffix), "{text:?}");
        }
        assert_eq!(
            "1 ".parse::<Quantity>().unwrap_err().to_string(),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
    }

    #[test]
    fn values_round_away_from_zero() {
        for (text, value, milli) in [
            ("1", 1, 1000),
            ("1m", 1, 1),
            ("1001m", 2, 1001),
            ("0.1m", 1, 1),
            ("-1001m", -2, -1001),
            ("1Gi", 1 << 30, 1000 << 30),
            ("16Ei", i64::MAX, i64::MAX),
            ("100E", i64::MAX, i64::MAX),
        ] {
            assert_eq!((quantity(text).value(), quantity(text).milli_value()), (value, milli), "{text}");
        }
    }

    #[test]
    fn the_server_keeps_what_upstream_takes_for_canonical() {
        for (text, kept) in [
            ("1.500", "1.500"),
            ("+1", "+1"),
            ("1E3", "1E3"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("100Mi", "100Mi"),
            ("128974848", "128974848"),
            ("0", "0"),
            ("00", "0"),
            ("1Gi", "1Gi"),
        ] {
            assert_eq!(canonical_text(text).unwrap(), kept, "{text}");
        }
    }

    #[test]
    fn arithmetic_keeps_the_format_of_what_is_not_zero() {
        assert_eq!((quantity("1Gi") + quantity("1G")).format(), Format::BinarySi);
        assert_eq!((Quantity::ZERO + quantity("1Gi")).to_string(), "1Gi");
        assert_eq!((quantity("1") - quantity("100m")).to_string(), "900m");
        assert_eq!((quantity("1Gi") - quantity("2Gi")).to_string(), "-1Gi");
        assert_eq!(["100m", "0.9"].map(quantity).into_iter().sum::<Quantity>().to_string(), "1");
        assert!(quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1000m"), quantity("1"));
    }

    #[test]
    fn json_strings_and_numbers_are_read() {
        for (value, printed) in [
            (json!("1Gi"), "1Gi"),
            (json!(" 2 "), "2"),
            (json!(3), "3"),
            (json!(1.5), "1500m"),
            (json!(null), "0"),
        ] {
            assert_eq!(Quantity::of_value(&value).unwrap().to_string(), printed);
        }
        assert!(Quantity::of_value(&json!(true)).is_err());
        assert_eq!(Quantity::try_from(&Text("5m".into())).unwrap().milli_value(), 5);
        assert_eq!(Text::from(Quantity::from_milli(1500, Format::DecimalSi)).0, "1500m");
        assert_eq!(Quantity::from_bytes(3 << 20).to_string(), "3Mi");
    }

    proptest! {
        #[test]
        fn what_prints_parses_back_to_the_same_amount(
            text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,8})?(n|u|m||k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]|E[0-9])"
        ) {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let printed = quantity.to_string();
                let again = printed.parse::<Quantity>().unwrap();
                prop_assert_eq!(again, quantity, "{} printed {}", text, printed);
                prop_assert_eq!(again.to_string(), printed);
                prop_assert_eq!(canonical_text(&text).unwrap().parse::<Quantity>().unwrap(), quantity);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), digits in "[0-9.eEKi+-]{0,60}") {
            for text in [text, digits] {
                let _unused = text.parse::<Quantity>().map(|q| (q.to_string(), q.value(), -q, q + q));
                let _unused = canonical_text(&text);
            }
        }

        #[test]
        fn addition_and_subtraction_cancel(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (Quantity::from_nano(a, Format::DecimalSi), Quantity::from_milli(b, Format::BinarySi));
            prop_assert_eq!(a + b - b, a);
        }
    }
}
