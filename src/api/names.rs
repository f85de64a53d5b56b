//! Which text may name what, and upstream's sentence for each way of getting it wrong.
//!
//! Every function answers with the list of what is wrong with `value`: empty means valid. The sentences are those of
//! `k8s.io/apimachinery/pkg/util/validation`, since API errors are made of them.
#![deny(clippy::disallowed_methods)]

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_SUBDOMAIN_UNDERSCORE: &str =
    r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const WILDCARD_SUBDOMAIN: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const ENV_VAR: &str = "[-._a-zA-Z][-._a-zA-Z0-9]*";
const CONFIG_MAP_KEY: &str = "[-._a-zA-Z0-9]+";
const C_IDENTIFIER: &str = "[A-Za-z_][A-Za-z0-9_]*";
const PERCENT: &str = "[0-9]+%";
const HTTP_HEADER: &str = "[-A-Za-z0-9]+";

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// A DNS label as RFC 1123 has it: names of namespaces, of containers, of ports' hosts.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !is_label(value) {
        if is_subdomain(value) {
            wrong.push("must not contain dots".into());
        } else {
            wrong.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                 and must start and end with an alphanumeric character",
                DNS1123_LABEL,
                &["my-name", "123-abc"],
            ));
        }
    }
    wrong
}

/// Labels with dots between them: names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    if !is_subdomain(value) {
        wrong.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    wrong
}

/// As [`dns1123_subdomain`], with underscores: DNS search paths.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    let label = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        framed(part, |c| is_lower(c) || c == b'-' || c == b'_', is_lower)
    };
    if !value.split('.').all(label) {
        wrong.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN_UNDERSCORE,
            &["example.com"],
        ));
    }
    wrong
}

/// `*.` and a subdomain: hosts of Ingress rules.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        wrong.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
             consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            WILDCARD_SUBDOMAIN,
            &["*.example.com"],
        ));
    }
    wrong
}

/// A DNS label that starts with a letter, as RFC 1035 has it: names of Services.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            DNS1035_LABEL,
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// An optional DNS prefix, `/`, and a name: keys of labels and annotations, resource names, finalizers.
pub fn qualified_name(value: &str) -> Vec<String> {
    let message = "must consist of alphanumeric characters, '-', '_' or '.', \
                   and must start and end with an alphanumeric character";
    let pattern = || regex_error(message, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
    let mut wrong = Vec::new();
    let name = match *value.split('/').collect::<Vec<_>>() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".into());
            } else {
                wrong.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern()
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part must be no more than {LABEL_MAX} characters"));
    }
    if !is_label_name(name) {
        wrong.push(format!("name part {}", pattern()));
    }
    wrong
}

/// The value of a label: empty, or at most 63 of letters, digits, `-`, `_` and `.`.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, LABEL_MAX);
    if !value.is_empty() && !is_label_name(value) {
        wrong.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character",
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// An IANA service name (RFC 6335): names of ports.
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, 15);
    let charset = |c: u8| is_lower(c) || c == b'-';
    if value.is_empty() || !value.bytes().all(charset) {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".into());
    }
    wrong
}

pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) {
        return Vec::new();
    }
    vec![format!("must be between {low} and {high}, inclusive")]
}

/// A user or group id that a Linux kernel takes.
pub fn user_or_group_id(value: i64) -> Vec<String> {
    in_range(value, 0, i64::from(i32::MAX))
}

/// The strict rule, which older API servers applied to every variable.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !is_config_map_key(value) || value.starts_with(|c: char| c.is_ascii_digit()) {
        wrong.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', \
             and must not start with a digit",
            ENV_VAR,
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    wrong.extend(leaves_the_folder(value));
    wrong
}

/// The rule since 1.34 (KEP-4369): printable ASCII without `=`.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.is_empty() {
        wrong.push("environment variable name must be non-empty".into());
    }
    if !value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        wrong.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .into(),
        );
    }
    wrong
}

/// A key of a ConfigMap's or a Secret's data, which may become a file name.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, SUBDOMAIN_MAX);
    if !is_config_map_key(value) {
        wrong.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            CONFIG_MAP_KEY,
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    wrong.extend(leaves_the_folder(value));
    wrong
}

/// A name that is one segment of a URL's path: roles, and whatever has no stricter rule.
pub fn path_segment_name(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => path_segment_prefix(value),
    }
}

/// The beginning of a path segment, to which more will be added.
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

pub fn c_identifier(value: &str) -> Vec<String> {
    let rest = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if !value.is_empty() && value.bytes().all(rest) && !value.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_'",
        C_IDENTIFIER,
        &["my_name", "MY_NAME", "MyName"],
    )]
}

pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, PERCENT, &["1%", "93%"])]
}

pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, HTTP_HEADER, &["X-Header-Name"])]
}

/// What is checked in place of a `generateName` that ends in `-`, since a suffix will follow it.
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let kept = rest.char_indices().next_back().map_or(0, |(at, _)| at);
            format!("{}a", &rest[..kept])
        }
        _ => prefix.to_string(),
    }
}

/// Upstream's way of showing a pattern: the message, examples, and the pattern itself.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn too_long(value: &str, limit: usize) -> Vec<String> {
    if value.len() > limit { vec![format!("must be no more than {limit} characters")] } else { Vec::new() }
}

fn leaves_the_folder(value: &str) -> Option<String> {
    match value {
        "." | ".." => Some(format!("must not be '{value}'")),
        _ => value.starts_with("..").then(|| "must not start with '..'".into()),
    }
}

fn is_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(value: &str) -> bool {
    framed(value, |c| is_lower(c) || c == b'-', is_lower)
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_label_name(value: &str) -> bool {
    framed(
        value,
        |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'),
        |c| c.is_ascii_alphanumeric(),
    )
}

fn is_config_map_key(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Not empty, `inner` everywhere, `edge` first and last.
fn framed(value: &str, inner: impl Fn(u8) -> bool, edge: impl Fn(u8) -> bool) -> bool {
    match value.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|c| inner(*c)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(rule(value), Vec::<String>::new(), "{value:?}");
        }
        for value in bad {
            assert!(!rule(value).is_empty(), "{value:?} passed");
        }
    }

    #[test]
    fn labels_have_no_dots_capitals_or_dashes_at_the_edge() {
        check(
            dns1123_label,
            &["a", "ab", "a-1", "a--1--2--b", "0", "01", &"a".repeat(63)],
            &["", "A", "-", "a-", "-a", "_", "a_b", ".", "a.", "a b", "é", &"a".repeat(64)],
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns1123_label("-"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }

    #[test]
    fn subdomains_are_labels_with_dots() {
        check(
            dns1123_subdomain,
            &["a", "a.b", "0.0", "a-1.b-2", "a.b.c.d.e"],
            &["", ".", "a..b", "a.", ".a", "a.-b", "A.b", "a_b", &"a.".repeat(127)],
        );
        assert_eq!(
            dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        check(dns1123_subdomain_with_underscore, &["_tcp.example", "a_b.c"], &["", "__a", "a_", "a._"]);
        check(wildcard_dns1123_subdomain, &["*.a", "*.a.b"], &["*", "*.", "a.b", "*.*.a", "**.a"]);
    }

    #[test]
    fn dns_1035_labels_start_with_a_letter() {
        check(dns1035_label, &["a", "a1", "a-1"], &["", "1", "1a", "-a", "a-", "a.b", "A"]);
    }

    #[test]
    fn qualified_names_have_at_most_one_prefix() {
        check(
            qualified_name,
            &["simple", "now-with-dashes", "1-starts", "a_b.c", "example.com/MyName", "1.2.3.4/5678"],
            &["", "/", "a/", "/a", "a/b/c", "-a", "a-", "A.com/x", "nospecialchars$", &"a".repeat(64)],
        );
        assert_eq!(
            qualified_name("/a"),
            ["prefix part must be non-empty"],
            "the sentence for an empty prefix names the prefix part"
        );
        assert_eq!(
            qualified_name(""),
            [
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                 alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            ]
        );
    }

    #[test]
    fn label_values_may_be_empty() {
        check(
            label_value,
            &["", "a", "A_1.b-c", &"a".repeat(63)],
            &["-", "a b", "a/b", "_a", &"a".repeat(64)],
        );
    }

    #[test]
    fn port_names_have_a_letter_and_single_hyphens() {
        check(
            port_name,
            &["telnet", "re-mail-ck", "pop3", "a", "a-1", "1a"],
            &["", "longerthan15characters", "12345", "-", "ab-", "a--b", "A", "a_b"],
        );
        assert_eq!(
            port_name(""),
            [
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must contain at least one letter (a-z)"
            ]
        );
    }

    #[test]
    fn keys_and_variables_do_not_leave_their_folder() {
        check(
            config_map_key,
            &["a", "A.b_c-1", "..1a".get(1..).unwrap()],
            &["", ".", "..", "..a", "a/b", "a b"],
        );
        check(env_var_name, &["a", "_A", ".b", "-c", "A1"], &["", "1", ".", "..", "..a", "a b", "a="]);
        check(relaxed_env_var_name, &["a", "1", "a b", "!#"], &["", "a=b", "é", "a\n"]);
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
    }

    #[test]
    fn path_segments_carry_no_slash_or_percent() {
        check(path_segment_name, &["", "a:b", "...", "system:node"], &[".", "..", "a/b", "a%b"]);
        assert_eq!(path_segment_name("a/%"), ["may not contain '/'", "may not contain '%'"]);
    }

    #[test]
    fn numbers_percents_headers_and_identifiers() {
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(port_number(65535).is_empty());
        check(percent, &["0%", "100%"], &["", "%", "1", "-1%", "1.5%"]);
        check(http_header_name, &["X-A", "a"], &["", "a b", "a:"]);
        check(c_identifier, &["a", "_1"], &["", "1a", "a-b"]);
    }

    #[test]
    fn a_prefix_with_a_trailing_dash_is_checked_as_if_it_went_on() {
        for (prefix, masked) in [("web-", "wea"), ("-", "-"), ("a", "a"), ("", ""), ("é-", "a")] {
            assert_eq!(mask_trailing_dash(prefix), masked);
        }
    }

    proptest! {
        #[test]
        fn every_rule_agrees_with_the_pattern_that_it_shows(value in "[-a-zA-Z0-9_.=/]{0,12}") {
            type Case = (fn(&str) -> Vec<String>, &'static str);
            let cases: [Case; 8] = [
                (dns1123_label, DNS1123_LABEL),
                (dns1123_subdomain, DNS1123_SUBDOMAIN),
                (dns1123_subdomain_with_underscore, DNS1123_SUBDOMAIN_UNDERSCORE),
                (dns1035_label, DNS1035_LABEL),
                (label_value, LABEL_VALUE),
                (c_identifier, C_IDENTIFIER),
                (http_header_name, HTTP_HEADER),
                (percent, PERCENT),
            ];
            for (rule, pattern) in cases {
                let regex = regex_lite::Regex::new(&format!("^(?:{pattern})$")).unwrap();
                prop_assert_eq!(rule(&value).is_empty(), regex.is_match(&value), "{} against {}", value, pattern);
            }
        }

        #[test]
        fn no_text_makes_a_rule_panic(value in any::<String>()) {
            qualified_name(&value);
            env_var_name(&value);
            config_map_key(&value);
            path_segment_name(&value);
            port_name(&value);
            mask_trailing_dash(&value);
        }
    }
}
