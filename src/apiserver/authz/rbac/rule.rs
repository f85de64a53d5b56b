//! One rule of a role: what it allows, and which rules it covers.
#![deny(clippy::disallowed_methods)]

use api::quote;
use serde_json::{Value, json};

use crate::authz::Attributes;

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Empty: every name.
    pub names: Vec<String>,
    /// Paths that name no resource; a last `*` stands for any rest.
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads an object's rule. What is not there is empty, and so allows nothing.
    pub fn from_value(rule: &Value) -> Rule {
        let texts = |field: &str| -> Vec<String> {
            let items = rule.get(field).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Rule {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            urls: texts("nonResourceURLs"),
        }
    }

    /// The rules of a Role or ClusterRole.
    pub fn all_of(role: &Value) -> Vec<Rule> {
        role.get("rules").and_then(Value::as_array).into_iter().flatten().map(Rule::from_value).collect()
    }

    pub fn to_value(&self) -> Value {
        let mut value = json!({});
        let fields = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, texts) in fields {
            if !texts.is_empty() || field == "verbs" {
                value[field] = json!(texts);
            }
        }
        value
    }

    pub fn allows(&self, what: &Attributes) -> bool {
        if !has_or_star(&self.verbs, &what.verb) {
            return false;
        }
        if !what.is_resource {
            return self.urls.iter().any(|url| url_covers(url, &what.path));
        }
        has_or_star(&self.groups, &what.group)
            && self.resources.iter().any(|resource| resource_is(resource, &what.resource, &what.subresource))
            && (self.names.is_empty() || self.names.contains(&what.name))
    }

    /// The rule taken apart: each part has one verb, and one resource and at most one name, or one path.
    pub fn parts(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let names: Vec<Vec<String>> =
            if self.names.is_empty() { vec![Vec::new()] } else { self.names.iter().map(one).collect() };
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for (group, resource) in
                self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
            {
                for names in &names {
                    let (verbs, groups, resources) = (one(verb), one(group), one(resource));
                    parts.push(Rule { verbs, groups, resources, names: names.clone(), urls: Vec::new() });
                }
            }
            for url in &self.urls {
                parts.push(Rule { verbs: one(verb), urls: one(url), ..Rule::default() });
            }
        }
        parts
    }

    /// Whether everything that one of [`Rule::parts`] allows is allowed by this rule.
    fn covers(&self, part: &Rule) -> bool {
        let all = |own: &[String], parts: &[String]| parts.iter().all(|text| has_or_star(own, text));
        let resource = |wanted: &String| {
            let any_parent = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
            has_or_star(&self.resources, wanted)
                || any_parent.is_some_and(|any| self.resources.contains(&any))
        };
        let names = match part.names.as_slice() {
            [] => self.names.is_empty(),
            names => self.names.is_empty() || names.iter().all(|name| self.names.contains(name)),
        };
        all(&self.verbs, &part.verbs)
            && all(&self.groups, &part.groups)
            && part.resources.iter().all(resource)
            && names
            && part.urls.iter().all(|path| self.urls.iter().any(|url| url_covers(url, path)))
    }

    /// As upstream's escalation message shows it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let fields = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown = fields.iter().filter(|(_, texts)| !texts.is_empty());
        let shown: Vec<String> = shown.map(|(name, texts)| format!("{name}:{}", quoted(texts))).collect();
        format!("{{{}}}", shown.join(", "))
    }
}

/// The parts of `wanted` that no rule of `owned` covers.
pub fn uncovered<'a>(owned: &[Rule], wanted: impl IntoIterator<Item = &'a Rule>) -> Vec<Rule> {
    let parts = wanted.into_iter().flat_map(Rule::parts);
    parts.filter(|part| !owned.iter().any(|rule| rule.covers(part))).collect()
}

/// Joins parts that differ only by their verb.
pub fn joined(parts: &[Rule]) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut Rule| {
            (&rule.groups, &rule.resources, &rule.names) == (&part.groups, &part.resources, &part.names)
                && rule.urls.is_empty()
                && part.urls.is_empty()
        };
        match joined.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs.iter().cloned()),
            None => joined.push(part.clone()),
        }
    }
    joined
}

/// Go's `%q` of a list: `["a" "b"]`.
pub fn quoted(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(" "))
}

fn has_or_star(own: &[String], wanted: &str) -> bool {
    own.iter().any(|text| text == "*" || text == wanted)
}

fn resource_is(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((parent, sub)) => {
            !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource)
        }
    }
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| text.split_whitespace().map(|t| t.replace("core", "")).collect();
        let (verbs, groups, resources, names) = (list(verbs), list(groups), list(resources), list(names));
        Rule { verbs, groups, resources, names, urls: Vec::new() }
    }

    fn what(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            is_resource: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_beside() {
        for (rule, what, allowed) in [
            (rule("get list", "core", "pods", ""), what("get", "", "pods", "a"), true),
            (rule("get list", "core", "pods", ""), what("watch", "", "pods", "a"), false),
            (rule("get", "core", "pods", ""), what("get", "apps", "pods", "a"), false),
            (rule("get", "core", "pods", ""), what("get", "", "pods/log", "a"), false),
            (rule("get", "core", "pods/log", ""), what("get", "", "pods/log", "a"), true),
            (rule("get", "core", "pods/log", ""), what("get", "", "pods", "a"), false),
            (rule("get", "*", "*/scale", ""), what("get", "apps", "deployments/scale", "a"), true),
            (rule("get", "*", "*/scale", ""), what("get", "apps", "deployments", "a"), false),
            (rule("get", "*", "*/scale", ""), what("get", "apps", "deployments/status", "a"), false),
            (rule("*", "*", "*", ""), what("escalate", "x", "y/z", ""), true),
            (rule("get", "core", "secrets", "a b"), what("get", "", "secrets", "b"), true),
            (rule("get", "core", "secrets", "a b"), what("get", "", "secrets", "c"), false),
            (rule("list", "core", "secrets", "a b"), what("list", "", "secrets", ""), false),
        ] {
            assert_eq!(rule.allows(&what), allowed, "{rule:?} {what:?}");
        }
    }

    #[test]
    fn a_path_is_matched_whole_or_by_its_beginning() {
        let rule = |url: &str| Rule { verbs: vec!["get".into()], urls: vec![url.into()], ..Rule::default() };
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(rule("/healthz").allows(&path("/healthz")));
        assert!(!rule("/healthz").allows(&path("/healthz/ping")));
        assert!(rule("/healthz/*").allows(&path("/healthz/ping")));
        assert!(!rule("/healthz/*").allows(&path("/healthz")));
        assert!(rule("*").allows(&path("/metrics")));
    }

    #[test]
    fn a_rule_for_resources_allows_no_paths_and_a_rule_for_paths_no_resources() {
        let path = Attributes { verb: "get".into(), path: "/api".into(), ..Attributes::default() };
        assert!(!rule("*", "*", "*", "").allows(&path));
        let paths = Rule { verbs: vec!["*".into()], urls: vec!["*".into()], ..Rule::default() };
        assert!(!paths.allows(&what("get", "", "pods", "")));
    }

    #[test]
    fn covering_is_by_parts() {
        let wanted = [rule("get list", "core apps", "pods deployments/scale", "")];
        let owned = [rule("get list", "*", "pods", ""), rule("*", "*", "*/scale", "")];
        assert_eq!(uncovered(&owned, &wanted), []);
        let owned = [rule("get", "core", "pods", "a")];
        assert_eq!(uncovered(&owned, &[rule("get", "core", "pods", "")]), [rule("get", "core", "pods", "")]);
        assert_eq!(uncovered(&owned, &[rule("get", "core", "pods", "a")]), []);
        let missing = uncovered(&owned, &[rule("get update delete", "core", "pods", "a")]);
        assert_eq!(joined(&missing), [rule("update delete", "core", "pods", "a")]);
    }

    #[test]
    fn a_rule_is_shown_compactly() {
        let shown = r#"{APIGroups:["" "apps"], Resources:["pods"], ResourceNames:["a"], Verbs:["get"]}"#;
        assert_eq!(rule("get", "core apps", "pods", "a").compact(), shown);
    }
}
