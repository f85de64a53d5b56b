//! Label selectors: what they hold, how they match, how they print.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, collections::HashMap, fmt, hash::BuildHasher};

use serde_json::Value;

use crate::{names, quote};

/// Something that has labels.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl<T: Labels> Labels for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<S: BuildHasher> Labels for HashMap<String, String, S> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for serde_json::Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.as_ref() == key).map(|(_, v)| v.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Labels for [(K, V); N] {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_slice().label(key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label. What is wrong with the key or the values was found when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

impl Requirement {
    /// Answers with what is wrong, as the API server says it (`values: Invalid value: ...`).
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, Vec<String>> {
        let mut wrong = Vec::new();
        let key_errors = names::qualified_name(key);
        if !key_errors.is_empty() {
            wrong.push(format!("key: Invalid value: {}: {}", quote(key), key_errors.join("; ")));
        }
        let bad_set = |why: &str| {
            // Upstream hands a nil slice on where there are no values, which prints as null.
            let shown =
                if values.is_empty() { "null".into() } else { Value::from(values.clone()).to_string() };
            format!("values: Invalid value: {shown}: {why}")
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                wrong.push(bad_set("for 'in', 'notin' operators, values set can't be empty"));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                wrong.push(bad_set("exact-match compatibility requires one single value"));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                wrong.push(bad_set("values set must be empty for exists and does not exist"));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    wrong.push(bad_set("for 'Gt', 'Lt' operators, exactly one value is required"));
                }
                for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                    wrong.push(format!("values[{i}]: Invalid value: {}: {why}", quote(value)));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let errors = names::label_value(value);
            if !errors.is_empty() {
                let why = errors.join("; ");
                wrong.push(format!("values[{i}][{key}]: Invalid value: {}: {why}", quote(value)));
            }
        }
        if wrong.is_empty() { Ok(Requirement { key: key.into(), operator, values }) } else { Err(wrong) }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn operator(&self) -> Operator {
        self.operator
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let found = labels.label(&self.key);
        let named = |value: &str| self.values.iter().any(|v| v == value);
        let against = || {
            let label = found?.parse::<i64>().ok()?;
            Some((label, self.values.first()?.parse::<i64>().ok()?))
        };
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => found.is_some_and(named),
            Operator::NotEquals | Operator::NotIn => !found.is_some_and(named),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan => against().is_some_and(|(label, value)| label > value),
            Operator::LessThan => against().is_some_and(|(label, value)| label < value),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// All of its requirements, in the order of their keys; or nothing at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// `None` selects nothing: a selector that is absent where one is needed.
    requirements: Option<Vec<Requirement>>,
}

impl Default for Selector {
    fn default() -> Selector {
        Selector::everything()
    }
}

impl Selector {
    pub fn everything() -> Selector {
        Selector { requirements: Some(Vec::new()) }
    }

    pub fn nothing() -> Selector {
        Selector { requirements: None }
    }

    pub fn of(mut requirements: Vec<Requirement>) -> Selector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector { requirements: Some(requirements) }
    }

    /// Exactly these labels, unchecked: a Service's `spec.selector`. An empty set selects everything.
    pub fn of_set<'a>(set: impl IntoIterator<Item = (&'a String, &'a String)>) -> Selector {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Selector::of(set.into_iter().map(equals).collect())
    }

    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    pub fn is_nothing(&self) -> bool {
        self.requirements.is_none()
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches(labels)))
    }

    /// The only value of label `key` that can match, where there is one: for an index.
    pub fn requires_exact(&self, key: &str) -> Option<&str> {
        self.requirements().iter().find_map(|r| match (r.operator, r.values.as_slice()) {
            (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) if r.key == key => {
                Some(value.as_str())
            }
            _ => None,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let parsed: Selector = selector.parse().unwrap();
        assert_eq!(parsed.matches(labels), expected, "{selector} on {labels:?}");
    }

    #[test]
    fn every_operator_matches_as_upstream_does() {
        let labels = [("x", "y"), ("n", "3"), ("e", "")];
        for matching in [
            "",
            "x=y",
            "x==y",
            "x!=z",
            "other!=z",
            "x in (y,z)",
            "other notin (y)",
            "x",
            "!other",
            "n>2",
            "n<4",
            "e=",
        ] {
            check(matching, &labels, true);
        }
        for other in
            ["x=z", "other=z", "x!=y", "x in (z)", "x notin (y)", "!x", "other", "n>3", "n<3", "x>1", "o<1"]
        {
            check(other, &labels, false);
        }
    }

    #[test]
    fn nothing_matches_nothing_and_everything_matches_no_labels() {
        assert!(!Selector::nothing().matches(&None::<BTreeMap<String, String>>));
        assert!(Selector::everything().matches(&None::<BTreeMap<String, String>>));
        assert!(Selector::of_set(&BTreeMap::new()).is_everything());
    }

    #[test]
    fn an_exact_value_is_found_for_an_index() {
        let selector: Selector = "a=1,b in (2),c in (3,4)".parse().unwrap();
        assert_eq!(selector.requires_exact("a"), Some("1"));
        assert_eq!(selector.requires_exact("b"), Some("2"));
        assert_eq!(selector.requires_exact("c"), None);
    }
}
