//! Service-account tokens: signed by us, for us, and bound to objects that must still be the same.
#![deny(clippy::disallowed_methods)]

use std::sync::Arc;

use jiff::Timestamp;
use pki::claims::{Claims, LEEWAY_SECONDS, Reference};
use serde_json::Value;

use super::{CREDENTIAL_ID, Rejected, service_account_name};
use crate::{admission::Reader, status::GroupResource, user::UserInfo};

const GROUP: &str = "system:serviceaccounts";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The user of a token whose signature and issuer are right. Its audiences are for the caller to look at.
pub(super) fn user(claims: &Claims, reader: &dyn Reader, now: Timestamp) -> Result<UserInfo, Rejected> {
    claims.check_time(now)?;
    let bound = &claims.kubernetes;
    let namespace = bound.namespace.as_str();
    let account = &bound.serviceaccount;
    let stored = get(reader, "serviceaccounts", namespace, account)
        .ok_or_else(|| Rejected::Missing { resource: "serviceaccounts", name: account.name.clone() })?;
    let uid = text(&stored, "/metadata/uid");
    if uid != account.uid {
        return Err(Rejected::AccountUid { uid: uid.to_owned(), claimed: account.uid.clone() });
    }
    if is_deleted(&stored, now) {
        return Err(Rejected::AccountDeleted { namespace: namespace.to_owned(), name: account.name.clone() });
    }
    let checks = [
        ("secrets", "secret", namespace, bound.secret.as_ref()),
        ("pods", "pod", namespace, bound.pod.as_ref()),
        ("nodes", "node", "", bound.node.as_ref().filter(|_| bound.pod.is_none())), // a pod's node is only told
    ];
    for (resource, kind, namespace, reference) in checks {
        if let Some(reference) = reference {
            check_bound(reader, (resource, kind), namespace, reference, now)?;
        }
    }
    Ok(info(claims))
}

fn check_bound(
    reader: &dyn Reader,
    (resource, kind): (&str, &'static str),
    namespace: &str,
    reference: &Reference,
    now: Timestamp,
) -> Result<(), Rejected> {
    let stored = get(reader, resource, namespace, reference).ok_or(Rejected::Invalidated)?;
    let uid = text(&stored, "/metadata/uid");
    if uid != reference.uid {
        return Err(Rejected::BoundUid { kind, uid: uid.to_owned(), claimed: reference.uid.clone() });
    }
    if is_deleted(&stored, now) { Err(Rejected::Invalidated) } else { Ok(()) }
}

fn info(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let namespace = bound.namespace.as_str();
    let name = service_account_name(namespace, &bound.serviceaccount.name);
    let mut user = UserInfo::new(name, &[GROUP, &format!("{GROUP}:{namespace}")]);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &bound.pod {
        add(POD_NAME, &pod.name);
        add(POD_UID, &pod.uid);
    }
    if let Some(node) = &bound.node {
        add(NODE_NAME, &node.name);
        add(NODE_UID, &node.uid);
    }
    if !claims.jti.is_empty() {
        add(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    user
}

fn get(reader: &dyn Reader, resource: &str, namespace: &str, of: &Reference) -> Option<Arc<Value>> {
    reader.get(&GroupResource::new("", resource), namespace, &of.name)
}

/// Whether an object's time to be deleted has passed, clocks allowing.
fn is_deleted(object: &Value, now: Timestamp) -> bool {
    let at = object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let at = at.and_then(|text| text.parse::<Timestamp>().ok());
    at.is_some_and(|at| at.as_second() < now.as_second().saturating_sub(LEEWAY_SECONDS))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pki::claims::Kubernetes;
    use serde_json::json;

    use super::*;
    use crate::authz::tests::Fake;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn reference(name: &str, uid: &str) -> Reference {
        Reference { name: name.into(), uid: uid.into() }
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![],
            exp: now().as_second() + 3600,
            iat: None,
            iss: "i".into(),
            jti: "j".into(),
            kubernetes: Kubernetes {
                namespace: "ns".into(),
                serviceaccount: reference("sa", "u1"),
                pod: Some(reference("p", "u2")),
                node: Some(reference("n1", "u3")),
                ..Kubernetes::default()
            },
            nbf: None,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    fn cluster() -> Fake {
        let fake = Fake::default();
        fake.put("serviceaccounts", "ns", "sa", json!({"metadata": {"uid": "u1"}}));
        fake.put("pods", "ns", "p", json!({"metadata": {"uid": "u2"}}));
        fake
    }

    #[test]
    fn a_bound_token_names_its_account_and_what_it_is_bound_to() {
        let user = user(&claims(), &cluster(), now()).unwrap();
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.uid, "u1");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        let extra: Vec<(&str, &str)> =
            user.extra.iter().map(|(key, value)| (key.as_str(), value[0].as_str())).collect();
        assert_eq!(
            extra,
            [(CREDENTIAL_ID, "JTI=j"), (NODE_NAME, "n1"), (NODE_UID, "u3"), (POD_NAME, "p"), (POD_UID, "u2")]
        );
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&Fake, &mut Claims), told: &str) {
        let (fake, mut claims) = (cluster(), claims());
        change(&fake, &mut claims);
        assert_eq!(user(&claims, &fake, now()).unwrap_err().to_string(), told);
    }

    #[test]
    fn a_token_ends_with_what_it_is_bound_to() {
        const INVALIDATED: &str = "service account token has been invalidated";
        refused(|fake, _| fake.remove("serviceaccounts", "ns", "sa"), "serviceaccounts \"sa\" not found");
        refused(
            |fake, _| fake.put("serviceaccounts", "ns", "sa", json!({"metadata": {"uid": "new"}})),
            "service account UID (new) does not match claim (u1)",
        );
        refused(|fake, _| fake.remove("pods", "ns", "p"), INVALIDATED);
        refused(
            |fake, _| fake.put("pods", "ns", "p", json!({"metadata": {"uid": "new"}})),
            "pod UID (new) does not match service account pod ref claim (u2)",
        );
        let deleted = json!({"metadata": {"uid": "u2", "deletionTimestamp": "2026-11-21T09:58:00Z"}});
        refused(|fake, _| fake.put("pods", "ns", "p", deleted), INVALIDATED);
        refused(|_, claims| claims.kubernetes.secret = Some(reference("s", "u")), INVALIDATED);
        refused(|_, claims| claims.kubernetes.pod = None, INVALIDATED); // bound to a node that is not there
        refused(|_, claims| claims.exp = 1, "service account token has expired");
    }

    #[test]
    fn a_pod_that_is_being_deleted_keeps_its_token_until_its_time() {
        let fake = cluster();
        let pod = json!({"metadata": {"uid": "u2", "deletionTimestamp": "2026-11-21T10:00:30Z"}});
        fake.put("pods", "ns", "p", pod);
        user(&claims(), &fake, now()).unwrap();
    }
}
