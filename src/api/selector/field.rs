//! Field selectors: `metadata.name=x,spec.nodeName!=y`, with `\` before a comma, an equals sign or a `\` in a value.
//!
//! Which fields a resource has is not known here: the lookup answers for them, as upstream's conversion functions do.
#![deny(clippy::disallowed_methods)]

use std::{fmt, str::FromStr};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFieldSelectorError {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// Shown by its number, as upstream does.
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FieldOperator {
    Equals,
    NotEquals,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    pub field: String,
    pub operator: FieldOperator,
    pub value: String,
}

impl fmt::Display for FieldRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            FieldOperator::Equals => "=",
            FieldOperator::NotEquals => "!=",
        };
        write!(f, "{}{operator}{}", self.field, escape(&self.value))
    }
}

/// All of its requirements. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn of(requirements: Vec<FieldRequirement>) -> FieldSelector {
        FieldSelector { requirements }
    }

    /// The one object of this name.
    pub fn name(name: &str) -> FieldSelector {
        FieldSelector::of(vec![FieldRequirement {
            field: "metadata.name".into(),
            operator: FieldOperator::Equals,
            value: name.into(),
        }])
    }

    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// `lookup` answers with a field's value, empty where the object has none.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|r| match r.operator {
            FieldOperator::Equals => lookup(&r.field) == r.value,
            FieldOperator::NotEquals => lookup(&r.field) != r.value,
        })
    }

    /// The only value of `field` that can match, where there is one: for an index.
    pub fn requires_exact(&self, field: &str) -> Option<&str> {
        let exact = |r: &&FieldRequirement| r.operator == FieldOperator::Equals && r.field == field;
        self.requirements.iter().find(exact).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl FromStr for FieldSelector {
    type Err = ParseFieldSelectorError;

    fn from_str(selector: &str) -> Result<FieldSelector, ParseFieldSelectorError> {
        let mut terms = split_terms(selector);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let (field, operator, value) = split_term(term).ok_or_else(|| ParseFieldSelectorError::Term {
                selector: selector.into(),
                term: term.into(),
            })?;
            let value = unescape(value)?;
            // Upstream drops a term that is empty on both sides.
            if !(field.is_empty() && value.is_empty()) {
                requirements.push(FieldRequirement { field: field.into(), operator, value });
            }
        }
        Ok(FieldSelector { requirements })
    }
}

/// At every comma that no backslash precedes. Escapes stay in the terms.
fn split_terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// At the first operator: a field's name cannot hold one.
fn split_term(term: &str) -> Option<(&str, FieldOperator, &str)> {
    let at = term.find('=').map(|eq| if term[..eq].ends_with('!') { eq - 1 } else { eq })?;
    let (field, rest) = term.split_at(at);
    let operators =
        [("!=", FieldOperator::NotEquals), ("==", FieldOperator::Equals), ("=", FieldOperator::Equals)];
    operators.into_iter().find_map(|(text, operator)| Some((field, operator, rest.strip_prefix(text)?)))
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn unescape(value: &str) -> Result<String, ParseFieldSelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(ParseFieldSelectorError::Escape(format!("\\{other}"))),
                None => return Err(ParseFieldSelectorError::Escape("\\".into())),
            },
            ',' | '=' => return Err(ParseFieldSelectorError::Unescaped(c)),
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_parses_prints_in_canonical_form() {
        for (text, printed) in [
            ("", ""),
            (",,", ""),
            ("x=a", "x=a"),
            ("x==a", "x=a"),
            ("x!=a,b=c", "b=c,x!=a"),
            ("x=", "x="),
            ("=", ""),
            (r"x=a\,b\=c\\", r"x=a\,b\=c\\"),
            ("metadata.name=x,spec.nodeName!=", "metadata.name=x,spec.nodeName!="),
        ] {
            assert_eq!(text.parse::<FieldSelector>().unwrap().to_string(), printed, "{text:?}");
        }
    }

    #[test]
    fn text_that_does_not_parse_says_why_in_upstreams_words() {
        for (text, error) in [
            ("x", "invalid selector: 'x'; can't understand 'x'"),
            ("a=b,x", "invalid selector: 'a=b,x'; can't understand 'x'"),
            (r"x=\a", r"invalid field selector: invalid escape sequence: \a"),
            (r"x=a\", r"invalid field selector: invalid escape sequence: \"),
            ("x=a=b", "invalid field selector: unescaped character in value: 61"),
        ] {
            assert_eq!(text.parse::<FieldSelector>().unwrap_err().to_string(), error, "{text:?}");
        }
    }

    #[test]
    fn fields_match_by_text() {
        let lookup = |field: &str| if field == "metadata.name" { "x" } else { "" };
        for (text, expected) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name!=x", false),
            ("spec.nodeName=", true),
            ("a=b", false),
        ] {
            assert_eq!(text.parse::<FieldSelector>().unwrap().matches(lookup), expected, "{text:?}");
        }
        assert_eq!(FieldSelector::name("x").requires_exact("metadata.name"), Some("x"));
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(field in "[a-z.]{1,8}", value in any::<String>(), negated in any::<bool>()) {
            let operator = if negated { FieldOperator::NotEquals } else { FieldOperator::Equals };
            let selector = FieldSelector::of(vec![FieldRequirement { field, operator, value }]);
            prop_assert_eq!(selector.to_string().parse::<FieldSelector>().unwrap(), selector);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _unused = text.parse::<FieldSelector>();
        }
    }
}
