//! JSON texts as Go writes them: with `<`, `>`, `&` and two line separators escaped, so that they can stand in a page.
//!
//! Who reads JSON does not see the difference, but for bytes that are kept as they came: upstream's controllers compare
//! the data of ControllerRevisions byte by byte with what Go writes, and would take a template with `&&` in a command
//! for a new one at every look.
#![deny(clippy::disallowed_methods)]

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Appends a value.
pub(super) fn put(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing JSON values to memory cannot fail: their keys are strings.
    drop(value.serialize(&mut Serializer::with_formatter(out, AsGo)));
}

struct AsGo;

impl Formatter for AsGo {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2)) {
            let (plain, from) = rest.split_at(at);
            writer.write_all(plain)?;
            let (escape, length) = match from {
                [b'<', ..] => ("\\u003c", 1),
                [b'>', ..] => ("\\u003e", 1),
                [b'&', ..] => ("\\u0026", 1),
                [0xe2, 0x80, 0xa8, ..] => ("\\u2028", 3),
                [0xe2, 0x80, 0xa9, ..] => ("\\u2029", 3),
                // Another character that begins like the separators.
                _ => {
                    writer.write_all(&from[..1])?;
                    rest = &from[1..];
                    continue;
                }
            };
            writer.write_all(escape.as_bytes())?;
            rest = &from[length..];
        }
        writer.write_all(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_go_escapes_is_escaped() {
        let mut out = Vec::new();
        put(&mut out, &json!({"a<": "b && c > \u{2028}d\u{2029} \u{20ac}\n\"é"}));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"a\u003c":"b \u0026\u0026 c \u003e \u2028d\u2029 €\n\"é"}"#
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was(text in any::<String>()) {
            let mut out = Vec::new();
            put(&mut out, &json!({ text.clone(): text.clone() }));
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), json!({ text.clone(): text }));
        }
    }
}
