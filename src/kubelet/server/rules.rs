//! Who a certificate names, and which right a request needs. No IO.
#![deny(clippy::disallowed_methods)]

use http::Method;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::gate::User;

/// Common name and organizations of a verified client certificate.
pub(super) fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|attribute| attribute.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups, ..User::default() })
}

pub(super) fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// The subresources of `nodes` of which a right to one is enough.
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let below =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match () {
        () if below("/pods") || below("/runningpods") => &["pods", "proxy"],
        () if below("/healthz") => &["healthz", "proxy"],
        () if below("/configz") => &["configz", "proxy"],
        () if below("/stats") => &["stats"],
        () if below("/metrics") => &["metrics"],
        () if below("/logs") => &["log"],
        () if below("/checkpoint") => &["checkpoint"],
        () if below("/statusz") => &["statusz"],
        () if below("/flagz") => &["configz"],
        () => &["proxy"],
    }
}
