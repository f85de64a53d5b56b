//! What a request asks for, read from its method and URI alone (upstream's `RequestInfo`).
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

use http::{Method, Uri};

use crate::status::{ApiError, GroupResource};

/// A request as authorization, admission and the router see it.
///
/// For a path that names no resource, `is_resource` is false, `verb` is the method in lower case, and only
/// `path` and `query` mean anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`.
    pub verb: Cow<'static, str>,
    /// The path as sent, still percent-encoded.
    pub path: String,
    pub is_resource: bool,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// The plural.
    pub resource: String,
    /// Empty if the request is for the object itself.
    pub subresource: String,
    pub name: String,
    /// Empty for cluster-scoped objects, and for lists over all namespaces. A request for the Namespace `x`
    /// has both `name` and `namespace` set to `x`, as upstream.
    pub namespace: String,
    /// What follows the subresource (`…/proxy/metrics` has `["metrics"]`).
    pub rest: Vec<String>,
    /// The `metadata.name` of a field selector made a collection request name one object.
    pub name_from_selector: bool,
    pub query: Query,
}

impl RequestInfo {
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.as_str(), self.resource.as_str())
    }

    /// Whether the verb only reads.
    pub fn is_readonly(&self) -> bool {
        matches!(self.verb.as_ref(), "get" | "list" | "watch" | "head" | "options")
    }

    /// Whether the answer goes on for as long as somebody listens: watches, and connections into pods.
    pub fn lasts(&self) -> bool {
        let streams =
            matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        self.is_resource && (self.verb == "watch" || self.verb == "proxy" || streams)
    }
}

/// The query's parameters, decoded, in the order sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All values of a repeated parameter, e.g. `command`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Upstream's reading of booleans: a parameter that is there is true, unless it says `false` or `0`.
    pub fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(text) => !(text.eq_ignore_ascii_case("false") || text == "0"),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads a request's method and URI. Fails only for a malformed `/api/v1/watch`.
pub fn parse(method: &Method, uri: &Uri) -> Result<RequestInfo, ApiError> {
    let path = uri.path();
    let mut info = RequestInfo {
        verb: method.as_str().to_ascii_lowercase().into(),
        path: path.to_string(),
        query: Query::parse(uri.query().unwrap_or_default()),
        ..RequestInfo::default()
    };
    let decoded: Vec<String> = split(path).map(|segment| decode(segment, false)).collect();
    let mut parts: &[String] = &decoded;
    match parts {
        [prefix, version, rest @ ..] if prefix == "api" && !rest.is_empty() => {
            info.version.clone_from(version);
            parts = rest;
        }
        [prefix, group, version, rest @ ..] if prefix == "apis" && !rest.is_empty() => {
            info.group.clone_from(group);
            info.version.clone_from(version);
            parts = rest;
        }
        _ => return Ok(info),
    }
    info.is_resource = true;
    info.verb = verb_of(method).into();
    let by_path = matches!(parts[0].as_str(), "watch" | "proxy");
    if by_path {
        if parts.len() < 2 {
            let message = format!("unable to determine kind and namespace from url, {uri}");
            return Err(ApiError::internal(message));
        }
        info.verb = if parts[0] == "watch" { "watch".into() } else { "proxy".into() };
        parts = &parts[1..];
    }
    read_parts(&mut info, parts);
    if info.name.is_empty() {
        collection_verb(&mut info);
    }
    Ok(info)
}

/// `[namespaces/{namespace}/]resource[/name[/subresource[/rest…]]]`
fn read_parts(info: &mut RequestInfo, mut parts: &[String]) {
    if parts[0] == "namespaces" && parts.len() > 1 {
        info.namespace.clone_from(&parts[1]);
        if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
            parts = &parts[2..];
        }
    }
    info.resource.clone_from(&parts[0]);
    if let Some(name) = parts.get(1) {
        info.name.clone_from(name);
    }
    if let Some(subresource) = parts.get(2).filter(|_| info.verb != "proxy") {
        info.subresource.clone_from(subresource);
        info.rest = parts[3..].to_vec();
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn collection_verb(info: &mut RequestInfo) {
    match info.verb.as_ref() {
        "get" => {
            info.verb = if info.query.flag("watch") { "watch".into() } else { "list".into() };
        }
        "delete" => info.verb = "deletecollection".into(),
        _ => return,
    }
    if info.verb != "deletecollection"
        && let Some(name) = info.query.get("fieldSelector").and_then(exact_name)
    {
        info.name = name.to_string();
        info.name_from_selector = true;
    }
}

/// The name that a field selector pins with `metadata.name=x`.
fn exact_name(selector: &str) -> Option<&str> {
    let name = selector.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })?;
    let usable = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%', '\\']);
    usable.then_some(name)
}

fn split(path: &str) -> impl Iterator<Item = &str> {
    let trimmed = path.trim_matches('/');
    trimmed.split('/').filter(move |_| !trimmed.is_empty())
}

/// Percent-decoding; what is not well formed stays as it is. In a query `+` is a space.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_string();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = hex
            .filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (byte, value) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(method: &str, uri: &str) -> RequestInfo {
        parse(&method.parse().unwrap(), &uri.parse().unwrap()).unwrap()
    }

    /// `verb group/version namespace resource/name/subresource`
    #[track_caller]
    fn check(method: &str, uri: &str, expected: &str) {
        let info = read(method, uri);
        assert!(info.is_resource, "{uri}");
        let shown = format!(
            "{} {}/{} {} {}/{}/{}",
            info.verb, info.group, info.version, info.namespace, info.resource, info.name, info.subresource
        );
        assert_eq!(shown, expected, "{method} {uri}");
    }

    #[test]
    fn resource_paths_name_what_they_are_for() {
        check("GET", "/api/v1/pods", "list /v1  pods//");
        check("GET", "/api/v1/pods?watch=true", "watch /v1  pods//");
        check("GET", "/api/v1/pods?watch=0", "list /v1  pods//");
        check("GET", "/api/v1/namespaces/a/pods/b", "get /v1 a pods/b/");
        check("HEAD", "/api/v1/namespaces/a/pods/b/log", "get /v1 a pods/b/log");
        check("POST", "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 a deployments//");
        check(
            "PUT",
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            "update apps/v1 a deployments/d/scale",
        );
        check("PATCH", "/api/v1/nodes/n/status", "patch /v1  nodes/n/status");
        check("DELETE", "/api/v1/namespaces/a/pods", "deletecollection /v1 a pods//");
        check("DELETE", "/api/v1/namespaces/a/pods/b", "delete /v1 a pods/b/");
    }

    #[test]
    fn a_namespace_is_in_itself() {
        check("GET", "/api/v1/namespaces", "list /v1  namespaces//");
        check("GET", "/api/v1/namespaces/a", "get /v1 a namespaces/a/");
        check("PUT", "/api/v1/namespaces/a/finalize", "update /v1 a namespaces/a/finalize");
        check("PATCH", "/api/v1/namespaces/a/status", "patch /v1 a namespaces/a/status");
    }

    #[test]
    fn the_watch_prefix_still_watches() {
        check("GET", "/api/v1/watch/namespaces/a/pods/b", "watch /v1 a pods/b/");
        assert!(parse(&Method::GET, &"/api/v1/watch".parse().unwrap()).is_err());
    }

    #[test]
    fn a_selected_name_counts_as_the_name() {
        check("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1", "list /v1  nodes/n1/");
        check("GET", "/api/v1/nodes?fieldSelector=metadata.name!%3Dn1", "list /v1  nodes//");
        check("GET", "/api/v1/nodes?watch=1&fieldSelector=a==b,metadata.name==n1", "watch /v1  nodes/n1/");
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in
            ["/", "/api", "/api/v1", "/apis/apps/v1", "/apis", "/healthz/etcd", "/openapi/v3/apis/apps/v1"]
        {
            let info = read("GET", path);
            assert!(!info.is_resource, "{path}");
            assert_eq!((info.verb.as_ref(), info.path.as_str()), ("get", path));
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("command=sh&command=-c&q=a%20b+c&bad=%zz&flag");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c"]);
        assert_eq!(query.get("q"), Some("a b c"));
        assert_eq!(query.get("bad"), Some("%zz"));
        assert!(query.flag("flag") && !query.flag("none"));
    }

    #[test]
    fn what_follows_a_proxy_is_kept() {
        assert_eq!(read("GET", "/api/v1/nodes/n/proxy/a/b").rest, ["a", "b"]);
    }

    proptest! {
        #[test]
        fn no_path_panics(method in "(GET|PUT|POST|PATCH|DELETE|X)", path in "(/(api|apis|v1|watch|proxy|namespaces|[a-z%+]{0,3})){0,8}(\\?[a-zA-Z=&%+,.!]{0,20})?") {
            if let Ok(uri) = path.parse::<Uri>() {
                let _ignored = parse(&method.parse().unwrap(), &uri);
            }
        }

        #[test]
        fn decoding_never_panics(text in ".*") {
            decode(&text, true);
        }
    }
}
