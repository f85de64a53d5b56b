//! Quotes text as Go's `%q` does, which is how API errors show a bad value.

use std::fmt::Write as _;

/// `text` in double quotes, with what cannot be printed escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        push_escaped(&mut out, c);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, c: char) {
    let code = u32::from(c);
    let written = match c {
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\u{07}' => out.write_str("\\a"),
        '\u{08}' => out.write_str("\\b"),
        '\u{0c}' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\u{0b}' => out.write_str("\\v"),
        ' '..='~' => out.write_char(c),
        _ if code < 0x80 => write!(out, "\\x{code:02x}"),
        _ if c.is_control() || (c.is_whitespace()) || c == '\u{feff}' => write!(out, "\\u{code:04x}"),
        _ => out.write_char(c),
    };
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_escapes_what_go_escapes() {
        for (text, quoted) in [
            ("plain", r#""plain""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("tab\tnl\n", r#""tab\tnl\n""#),
            ("nul\0del\u{7f}", r#""nul\x00del\x7f""#),
            ("é😀", "\"é😀\""),
            ("nbsp\u{a0}", r#""nbsp\u00a0""#),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }
}
