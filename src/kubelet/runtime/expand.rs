//! `$(VAR)` in commands and arguments.
#![deny(clippy::disallowed_methods)]

/// Replaces `$(NAME)` by its value; `$$` is a literal `$`, and what names no variable stays as written.
pub fn expand(input: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|name| name.split_once(')')) {
            match value(name) {
                Some(value) => output.push_str(&value),
                None => {
                    output.push_str("$(");
                    output.push_str(name);
                    output.push(')');
                }
            }
            rest = tail;
        } else {
            output.push('$');
            rest = after;
        }
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_escapes_and_unknown_names_stay() {
        let value = |name: &str| (name == "A").then(|| "1".to_string());
        for (input, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("é$(A)é", "é1é"),
        ] {
            assert_eq!(expand(input, &value), expected, "{input}");
        }
    }
}
