//! One operation of a path: what is sent, what is answered, which options there are.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::components::kind_of;

/// What an operation does, in the words of `x-kubernetes-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Get,
    Create,
    Replace,
    Patch,
    Delete,
    DeleteCollection,
    Connect,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Create => "post",
            Self::Replace => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Connect => "connect",
        }
    }

    /// The first word of its id and of its summary.
    fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "read",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Patch => "patch",
            Self::Delete | Self::DeleteCollection => "delete",
            Self::Connect => "connect",
        }
    }

    /// Names and types of the options in the query.
    fn options(self) -> Vec<(&'static str, &'static str)> {
        const LIST: [(&str, &str); 10] = [
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ];
        const WRITE: [(&str, &str); 3] =
            [("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
        const DELETE: [(&str, &str); 4] = [
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ];
        match self {
            Self::List => LIST.to_vec(),
            Self::Get | Self::Connect => Vec::new(),
            Self::Create | Self::Replace => WRITE.to_vec(),
            Self::Patch => [&WRITE[..], &[("force", "boolean")]].concat(),
            Self::Delete => DELETE.to_vec(),
            Self::DeleteCollection => [&DELETE[..], &LIST[..]].concat(),
        }
    }
}

/// What to write about one operation.
pub(super) struct Operation<'o> {
    pub(super) action: Action,
    pub(super) group: &'o str,
    pub(super) version: &'o str,
    /// (group, version, kind) of what is sent or answered.
    pub(super) kind: (&'o str, &'o str, &'o str),
    /// What the id ends with after the action and the version: `NamespacedPodStatus`.
    pub(super) subject: String,
    pub(super) body: Option<Value>,
    /// `None` where a text or a stream is answered.
    pub(super) answer: Option<Value>,
}

impl Operation<'_> {
    pub(super) fn render(self) -> Value {
        let tag = group_word(self.group);
        let collection = if self.action == Action::DeleteCollection { "Collection" } else { "" };
        let version = upper_first(self.version);
        let id = format!("{}{}{version}{collection}{}", self.action.word(), upper_first(&tag), self.subject);
        let what = if collection.is_empty() { "" } else { "collection of " };
        let content = |schema: &Value, types: &[&str]| -> Value {
            let typed = types.iter().map(|media_type| ((*media_type).to_string(), json!({"schema": schema})));
            Value::Object(typed.collect::<Map<_, _>>())
        };
        let answer = match &self.answer {
            Some(schema) => content(schema, &["application/json", "application/yaml"]),
            None => content(&json!({"type": "string"}), &["*/*"]),
        };
        let mut responses = json!({
            "200": {"description": "OK", "content": answer}, "401": {"description": "Unauthorized"},
        });
        let also = match self.action {
            Action::Create => &["201", "202"][..],
            Action::Replace | Action::Patch => &["201"],
            Action::Delete => &["202"],
            Action::List | Action::Get | Action::DeleteCollection | Action::Connect => &[],
        };
        for code in also {
            responses[code] = responses["200"].clone();
            responses[code]["description"] = if *code == "201" { "Created" } else { "Accepted" }.into();
        }
        let mut operation = json!({
            "description": format!("{} {what}{}", self.action.word(), self.kind.2),
            "operationId": id,
            "tags": [format!("{tag}_{}", self.version)],
            "responses": responses,
            "x-kubernetes-action": self.action.name(),
            "x-kubernetes-group-version-kind": kind_of(self.kind.0, self.kind.1, self.kind.2),
        });
        let options = self.action.options();
        if !options.is_empty() {
            operation["parameters"] = options
                .into_iter()
                .map(|(name, r#type)| {
                    json!({"name": name, "in": "query", "schema": {"type": r#type, "uniqueItems": true}})
                })
                .collect();
        }
        if let Some(schema) = &self.body {
            let patches = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            let types = if self.action == Action::Patch {
                &patches[..]
            } else {
                &["application/json", "application/yaml"]
            };
            operation["requestBody"] = json!({"content": content(schema, types)});
            if matches!(self.action, Action::Create | Action::Replace | Action::Patch) {
                operation["requestBody"]["required"] = true.into();
            }
        }
        operation
    }
}

/// `core`, `apps`, `rbacAuthorization`: the group in ids and tags.
fn group_word(group: &str) -> String {
    if group.is_empty() {
        return "core".into();
    }
    let mut parts = group.strip_suffix(".k8s.io").unwrap_or(group).split('.');
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |word, part| word + &upper_first(part))
}

pub(super) fn upper_first(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}
