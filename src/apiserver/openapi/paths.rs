//! The paths of a group and version: collections, objects, subresources.
#![deny(clippy::disallowed_methods)]

use api::schema;
use serde_json::{Map, Value, json};

use super::{
    components::Components,
    operation::{Action, Operation, upper_first},
};
use crate::{
    discovery::groups::{Item, Version, kind_of},
    registry::{How, Subresource},
};

const OBJECTS: [(&str, Action); 2] = [("get", Action::List), ("delete", Action::DeleteCollection)];
const OBJECT: [(&str, &str, Action); 4] = [
    ("get", "get", Action::Get),
    ("put", "update", Action::Replace),
    ("patch", "patch", Action::Patch),
    ("delete", "delete", Action::Delete),
];

pub(super) fn of(version: &Version<'_>, components: &mut Components<'_>) -> Value {
    let mut paths = Map::new();
    let root = if version.group.is_empty() { "/api".to_string() } else { "/apis".to_string() };
    let root = format!("{root}/{}", version.name());
    for item in &version.items {
        let mut one = One { version, item, components };
        let plural = item.plural();
        let base = if item.is_namespaced() {
            format!("{root}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        one.put(&mut paths, &base, one_collection);
        if item.is_namespaced() && item.verbs().contains(&"list") {
            one.put(&mut paths, &format!("{root}/{plural}"), one_everywhere);
        }
        one.put(&mut paths, &format!("{base}/{{name}}"), one_object);
        for sub in item.subresources() {
            let path = format!("{base}/{{name}}/{}", sub.name);
            let operations = one.subresource(sub);
            insert(&mut paths, &path, operations);
        }
    }
    Value::Object(paths)
}

/// A resource of which the paths are written.
struct One<'o, 'r, 'c> {
    version: &'o Version<'r>,
    item: &'o Item<'r>,
    components: &'o mut Components<'c>,
}

fn one_collection(one: &mut One<'_, '_, '_>) -> Map<String, Value> {
    let verbs = one.item.verbs();
    let mut operations = Map::new();
    for (method, action) in OBJECTS {
        if verbs.contains(&action.name()) {
            operations.insert(method.into(), one.own(action, false));
        }
    }
    if verbs.contains(&"create") {
        operations.insert("post".into(), one.own(Action::Create, false));
    }
    operations
}

fn one_everywhere(one: &mut One<'_, '_, '_>) -> Map<String, Value> {
    Map::from_iter([("get".to_string(), one.own(Action::List, true))])
}

fn one_object(one: &mut One<'_, '_, '_>) -> Map<String, Value> {
    let verbs = one.item.verbs();
    let known = OBJECT.into_iter().filter(|(_, verb, _)| verbs.contains(verb));
    known.map(|(method, _, action)| (method.to_string(), one.own(action, false))).collect()
}

impl One<'_, '_, '_> {
    fn put(&mut self, paths: &mut Map<String, Value>, path: &str, make: fn(&mut Self) -> Map<String, Value>) {
        let operations = make(self);
        insert(paths, path, operations);
    }

    /// An operation on the resource itself.
    fn own(&mut self, action: Action, everywhere: bool) -> Value {
        let kind = (self.version.group, self.version.version, self.item.kind());
        let scope = if self.item.is_namespaced() && !everywhere { "Namespaced" } else { "" };
        let tail = if everywhere { "ForAllNamespaces" } else { "" };
        let own = self.schema(kind);
        let list = format!("{}List", kind.2);
        let answer = match action {
            Action::List => self.schema((kind.0, kind.1, &list)),
            Action::Delete | Action::DeleteCollection if kind.2 != "Pod" => self.schema(("", "v1", "Status")),
            _ => own.clone(),
        };
        let body = self.body(action, own);
        Operation {
            action,
            group: self.version.group,
            version: self.version.version,
            kind,
            subject: format!("{scope}{}{tail}", kind.2),
            body,
            answer: Some(answer),
        }
        .render()
    }

    fn subresource(&mut self, sub: &Subresource) -> Map<String, Value> {
        let verbs =
            [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];
        let served = verbs.into_iter().filter(|(_, verb)| sub.verbs.names().contains(verb));
        served.map(|(method, verb)| (method.to_string(), self.of_subresource(sub, method, verb))).collect()
    }

    fn of_subresource(&mut self, sub: &Subresource, method: &str, verb: &str) -> Value {
        let kind = kind_of(sub, self.item, self.version);
        let scope = if self.item.is_namespaced() { "Namespaced" } else { "" };
        let connects = matches!(sub.how, How::Connect(_));
        let action = match verb {
            _ if connects && sub.name != "log" => Action::Connect,
            "create" => Action::Create,
            "update" => Action::Replace,
            "patch" => Action::Patch,
            "delete" => Action::Delete,
            _ => Action::Get,
        };
        let method = if action == Action::Connect { upper_first(method) } else { String::new() };
        let schema = (!connects).then(|| self.schema(kind));
        let body = schema.clone().and_then(|own| self.body(action, own));
        Operation {
            action,
            group: self.version.group,
            version: self.version.version,
            kind,
            subject: format!("{method}{scope}{}{}", self.item.kind(), upper_first(&sub.name)),
            body,
            answer: schema,
        }
        .render()
    }

    fn body(&mut self, action: Action, own: Value) -> Option<Value> {
        match action {
            Action::Create | Action::Replace => Some(own),
            Action::Patch => {
                let name = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
                Some(self.components.refer_plain(name, json!({"type": "object"})))
            }
            Action::Delete | Action::DeleteCollection => Some(self.schema(("", "v1", "DeleteOptions"))),
            Action::List | Action::Get | Action::Connect => None,
        }
    }

    /// Of a kind; any object if nothing is known of it.
    fn schema(&mut self, (group, version, kind): (&str, &str, &str)) -> Value {
        match schema::lookup(group, version, kind) {
            Some(known) => self.components.refer(&known),
            None => json!({"type": "object"}),
        }
    }
}

/// With the parameters that the path itself has.
fn insert(paths: &mut Map<String, Value>, path: &str, operations: Map<String, Value>) {
    if operations.is_empty() {
        return;
    }
    let mut operations = operations;
    let named = ["name", "namespace"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    let mut parameters: Vec<Value> = named
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        })
        .collect();
    parameters
        .push(json!({"name": "pretty", "in": "query", "schema": {"type": "string", "uniqueItems": true}}));
    operations.insert("parameters".into(), parameters.into());
    paths.insert(path.to_string(), Value::Object(operations));
}
