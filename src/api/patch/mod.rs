//! Patches that know no more than JSON, and patches that know the fields.
//!
//! - [`json_merge`]: RFC 7386.
//! - [`strategic_merge`]: lists of objects are merged by key, as the type's facts say; directives (`$patch`,
//!   `$retainKeys`, `$setElementOrder/x`, `$deleteFromPrimitiveList/x`) steer it. What kubectl sends by default.

mod strategic;

use serde_json::{Map, Value};
pub use strategic::strategic_merge;

/// Why a strategic merge patch can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    #[error("invalid JSON document")]
    NotAnObject,
    #[error("invalid patch format of primitive list")]
    DeleteFromPrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("map: {} does not contain declared merge key: {key}", go_text(item))]
    NoMergeKey { item: Value, key: String },
    #[error("cannot merge lists without merge key for {field}")]
    UnkeyedList { field: String },
    #[error("list element types are not identical: {}", go_text(items))]
    MixedList { items: Value },
    #[error("expected a {expected}, but received a {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("unknown patch type: {} in map: {}", go_text(directive), go_text(item))]
    UnknownDirective { directive: Value, item: Value },
    #[error("merging lists cannot yet be specified in the patch")]
    MergeInList,
    #[error(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        go_text(list),
        go_text(order)
    )]
    OrderMismatch { list: Value, order: Value },
    #[error("unable to find api field in struct {owner} for the json field {field:?}")]
    UnknownField { owner: String, field: String },
}

impl PatchError {
    /// The HTTP status that upstream answers with: 500 for mistakes that it doesn't tell from its own.
    pub fn code(&self) -> u16 {
        match self {
            Self::NotAnObject | Self::DeleteFromPrimitiveList | Self::RetainKeys | Self::SetElementOrder => {
                400
            }
            Self::ListOfLists => 422,
            Self::NoMergeKey { .. }
            | Self::UnkeyedList { .. }
            | Self::MixedList { .. }
            | Self::WrongType { .. }
            | Self::UnknownDirective { .. }
            | Self::MergeInList
            | Self::OrderMismatch { .. }
            | Self::UnknownField { .. } => 500,
        }
    }
}

/// A value as Go prints it (`%v`): `map[containers:[map[name:a]]]`.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}:{}", go_text(value))).collect();
            fields.sort_unstable();
            format!("map[{}]", fields.join(" "))
        }
    }
}

/// Applies a JSON merge patch: objects are merged, `null` removes, all else replaces.
pub fn json_merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(&name);
        } else {
            json_merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_merge_passes_the_rfcs_examples() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expected) in cases {
            json_merge(&mut target, patch);
            assert_eq!(target, expected);
        }
    }
}
