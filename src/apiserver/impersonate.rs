//! Impersonation: acting as somebody else, where that is allowed (`Impersonate-*` headers).
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    authz::{Attributes, Authorizer, Decision},
    request::decode,
    status::{ApiError, GroupResource, quote},
    user::{AUTHENTICATED, UNAUTHENTICATED, UserInfo},
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that the request is to be judged as.
///
/// # Errors
/// 400 for headers without a user, 403 where the caller may not impersonate.
pub(crate) fn impersonate(
    authorizer: &dyn Authorizer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, ApiError> {
    let asked = |name: &'static str| {
        let name = HeaderName::from_static(name);
        headers.get_all(&name).iter().map(|value| text(&name, value)).collect::<Result<Vec<&str>, _>>()
    };
    let mut extra: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.push((decode(key, false), text(name, value)?.to_string()));
        }
    }
    let name = asked(USER)?.first().copied().unwrap_or_default();
    let mut groups: Vec<String> = asked(GROUP)?.into_iter().map(ToString::to_string).collect();
    let uid = asked(UID)?.first().copied().unwrap_or_default();
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(without_user(uid, &groups, &extra));
    }
    check_name(authorizer, &user, name)?;
    for group in &groups {
        check(authorizer, &user, ("", "groups", ""), ("", group))?;
    }
    for (key, value) in &extra {
        check(authorizer, &user, ("authentication.k8s.io", "userextras", key), ("", value))?;
    }
    if !uid.is_empty() {
        check(authorizer, &user, ("authentication.k8s.io", "uids", ""), ("", uid))?;
    }
    if let Some((namespace, _)) = service_account(name).filter(|_| groups.is_empty()) {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        let is_anonymous = name == crate::user::ANONYMOUS;
        groups.push(if is_anonymous { UNAUTHENTICATED } else { AUTHENTICATED }.into());
    }
    let mut became = UserInfo { name: name.into(), uid: uid.into(), groups, ..UserInfo::default() };
    for (key, value) in extra {
        became.extra.entry(key).or_default().push(value);
    }
    Ok(became)
}

/// A header's text. One that cannot be read is refused: to pass over it would be to act as the caller.
fn text<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, ApiError> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| {
        ApiError::bad_request(format!("invalid impersonation request: header {name} is not valid UTF-8"))
    })
}

/// Upstream shows what was asked for as Go writes a `user.DefaultInfo`.
fn without_user(uid: &str, groups: &[String], extra: &[(String, String)]) -> ApiError {
    let list = |values: &[String]| values.iter().map(|value| quote(value)).collect::<Vec<_>>().join(", ");
    let groups = if groups.is_empty() { "(nil)".into() } else { format!("{{{}}}", list(groups)) };
    let mut by_key: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in extra {
        by_key.entry(key).or_default().push(value.clone());
    }
    let pairs: Vec<String> =
        by_key.iter().map(|(key, values)| format!("{}:[]string{{{}}}", quote(key), list(values))).collect();
    let extra = if pairs.is_empty() { "(nil)".into() } else { format!("{{{}}}", pairs.join(", ")) };
    let uid = quote(uid);
    ApiError::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{uid}, Groups:[]string{groups}, \
         Extra:map[string][]string{extra}}} without impersonating a user name"
    ))
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
}

fn check_name(authorizer: &dyn Authorizer, user: &UserInfo, name: &str) -> Result<(), ApiError> {
    match service_account(name) {
        Some((namespace, account)) => {
            check(authorizer, user, ("", "serviceaccounts", ""), (namespace, account))
        }
        None => check(authorizer, user, ("", "users", ""), ("", name)),
    }
}

fn check(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    (group, resource, subresource): (&str, &str, &str),
    (namespace, name): (&str, &str),
) -> Result<(), ApiError> {
    let attributes = Attributes {
        verb: "impersonate".into(),
        is_resource: true,
        namespace: namespace.into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    match authorizer.authorize(user, &attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(_) | Decision::Deny(_) => {
            let place = match namespace {
                "" => "at the cluster scope".to_string(),
                namespace => format!("in the namespace {}", quote(namespace)),
            };
            let shown =
                if subresource.is_empty() { resource.into() } else { format!("{resource}/{subresource}") };
            let (who, what, group_text) = (quote(&user.name), quote(&shown), quote(group));
            let why =
                format!("User {who} cannot impersonate resource {what} in API group {group_text} {place}");
            Err(ApiError::forbidden(&GroupResource::new(group, resource), name, &why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows "admin" to be anybody, "helper" to be "bob" only.
    struct Some_;
    impl Authorizer for Some_ {
        fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
            let allowed = user.name == "admin" || (user.name == "helper" && attributes.name == "bob");
            if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    fn run(user: &str, headers: &[(&str, &str)]) -> Result<UserInfo, String> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        run_bytes(user, &headers)
    }

    fn run_bytes(user: &str, headers: &[(&str, &[u8])]) -> Result<UserInfo, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        impersonate(&Some_, UserInfo::new(user, &[]), &map).map_err(|error| error.message)
    }

    #[test]
    fn without_headers_nobody_changes() {
        assert_eq!(run("x", &[]).unwrap().name, "x");
    }

    #[test]
    fn who_may_becomes_somebody_else() {
        let bob = run("helper", &[("Impersonate-User", "bob")]).unwrap();
        assert_eq!((bob.name.as_str(), bob.groups), ("bob", vec![AUTHENTICATED.to_string()]));
        let account = run("admin", &[("Impersonate-User", "system:serviceaccount:ns:sa")]).unwrap();
        assert!(account.in_group("system:serviceaccounts:ns"), "{account:?}");
        let extra = run("admin", &[("Impersonate-User", "a"), ("Impersonate-Extra-Scope", "x")]).unwrap();
        assert_eq!(extra.extra["scope"], ["x"]);
    }

    #[test]
    fn who_may_not_is_told_in_upstreams_words() {
        assert_eq!(
            run("helper", &[("Impersonate-User", "eve")]).unwrap_err(),
            "users \"eve\" is forbidden: User \"helper\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
        assert!(run("helper", &[("Impersonate-User", "bob"), ("Impersonate-Group", "g")]).is_err());
        assert!(
            run("admin", &[("Impersonate-Group", "g")]).unwrap_err().contains("without impersonating a user")
        );
    }

    #[test]
    fn names_need_not_be_ascii() {
        assert_eq!(run("admin", &[("Impersonate-User", "jürgen")]).unwrap().name, "jürgen");
        assert!(run("helper", &[("Impersonate-User", "jürgen")]).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_passed_over() {
        let user: (&str, &[u8]) = ("Impersonate-User", b"bob");
        for name in ["impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-x"] {
            let latin1: (&str, &[u8]) = (name, b"j\xfcrgen");
            let told = format!("invalid impersonation request: header {name} is not valid UTF-8");
            assert_eq!(run_bytes("admin", &[latin1]).unwrap_err(), told);
            assert_eq!(run_bytes("admin", &[user, latin1]).unwrap_err(), told);
        }
    }

    #[test]
    fn nothing_is_impersonated_without_a_user() {
        for (name, groups, uid, extra) in [
            ("Impersonate-Group", "{\"jürgen\"}", "", "(nil)"),
            ("Impersonate-Uid", "(nil)", "jürgen", "(nil)"),
            ("Impersonate-Extra-Scope", "(nil)", "", "{\"scope\":[]string{\"jürgen\"}}"),
        ] {
            let told = format!(
                "requested &user.DefaultInfo{{Name:\"\", UID:\"{uid}\", Groups:[]string{groups}, \
                 Extra:map[string][]string{extra}}} without impersonating a user name"
            );
            assert_eq!(run("admin", &[(name, "jürgen")]).unwrap_err(), told);
        }
    }
}
