//! Label selectors written as objects: `matchLabels` and `matchExpressions`.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use serde_json::Value;

use super::label::{Operator, Requirement, Selector};
use crate::quote;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorObjectError {
    #[error("{} is not a valid label selector operator", quote(.0))]
    Operator(String),
    /// What [`Requirement::new`] found.
    #[error("{}", aggregate(.0))]
    Requirement(Vec<String>),
    /// Not the shape of a LabelSelector at all.
    #[error("{0}: not a valid label selector")]
    Shape(&'static str),
}

fn aggregate(wrong: &[String]) -> String {
    match wrong {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

impl Selector {
    /// No selector selects nothing; an empty one selects everything.
    pub fn of_object(object: Option<&LabelSelector>) -> Result<Selector, SelectorObjectError> {
        let Some(object) = object else { return Ok(Selector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in object.match_labels.iter().flatten() {
            requirements.push(requirement(key, "=", vec![value.clone()])?);
        }
        for LabelSelectorRequirement { key, operator, values } in object.match_expressions.iter().flatten() {
            requirements.push(requirement(key, operator, values.clone().unwrap_or_default())?);
        }
        Ok(Selector::of(requirements))
    }

    /// As [`Selector::of_object`], for an object that was not decoded into a type. `null` is no selector.
    pub fn of_value(object: &Value) -> Result<Selector, SelectorObjectError> {
        if object.is_null() {
            return Ok(Selector::nothing());
        }
        let mut requirements = Vec::new();
        match &object["matchLabels"] {
            Value::Null => {}
            Value::Object(labels) => {
                for (key, value) in labels {
                    let value = value.as_str().ok_or(SelectorObjectError::Shape("matchLabels"))?;
                    requirements.push(requirement(key, "=", vec![value.into()])?);
                }
            }
            _ => return Err(SelectorObjectError::Shape("matchLabels")),
        }
        let malformed = || SelectorObjectError::Shape("matchExpressions");
        match &object["matchExpressions"] {
            Value::Null => {}
            Value::Array(expressions) => {
                for expression in expressions {
                    let text = |field: &str| expression[field].as_str().ok_or_else(malformed);
                    let values = match &expression["values"] {
                        Value::Null => Vec::new(),
                        Value::Array(values) => {
                            let texts: Option<Vec<String>> =
                                values.iter().map(|v| v.as_str().map(String::from)).collect();
                            texts.ok_or_else(malformed)?
                        }
                        _ => return Err(malformed()),
                    };
                    requirements.push(requirement(text("key")?, text("operator")?, values)?);
                }
            }
            _ => return Err(malformed()),
        }
        Ok(Selector::of(requirements))
    }
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> Result<Requirement, SelectorObjectError> {
    let operator = match operator {
        "=" => Operator::Equals,
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(SelectorObjectError::Operator(other.into())),
    };
    Requirement::new(key, operator, values).map_err(SelectorObjectError::Requirement)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Both readings of one object agree, in what they select and in what they complain about.
    #[track_caller]
    fn read(object: Value) -> Result<String, String> {
        let from_value = Selector::of_value(&object);
        let typed: Option<LabelSelector> = serde_json::from_value(object).unwrap();
        let from_type = Selector::of_object(typed.as_ref());
        assert_eq!(from_type, from_value);
        from_value.map(|s| s.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn an_absent_selector_selects_nothing_and_an_empty_one_everything() {
        assert!(Selector::of_object(None).unwrap().is_nothing());
        assert!(Selector::of_value(&Value::Null).unwrap().is_nothing());
        assert!(Selector::of_value(&json!({})).unwrap().is_everything());
    }

    #[test]
    fn labels_and_expressions_are_all_required() {
        let object = json!({
            "matchLabels": {"b": "1", "a": "2"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["y", "x"]},
                {"key": "d", "operator": "NotIn", "values": ["z"]},
                {"key": "e", "operator": "Exists"},
                {"key": "f", "operator": "DoesNotExist", "values": []},
            ],
        });
        assert_eq!(read(object).unwrap(), "a=2,b=1,c in (x,y),d notin (z),e,!f");
    }

    #[test]
    fn a_bad_expression_says_what_is_wrong_with_it() {
        let one = |operator: &str, values: Value| {
            read(json!({"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}))
                .unwrap_err()
        };
        assert_eq!(one("Near", json!([])), "\"Near\" is not a valid label selector operator");
        assert_eq!(
            one("In", json!([])),
            "values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty"
        );
        assert_eq!(
            one("Exists", json!(["a"])),
            "values: Invalid value: [\"a\"]: values set must be empty for exists and does not exist"
        );
    }

    #[test]
    fn a_value_of_another_shape_is_refused() {
        for object in
            [json!({"matchLabels": []}), json!({"matchLabels": {"a": 1}}), json!({"matchExpressions": [1]})]
        {
            assert!(Selector::of_value(&object).is_err());
        }
    }
}
