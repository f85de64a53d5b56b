//! Who may do what: RBAC, certificate signing requests, and the reviews that are only answered.

use std::sync::Arc;

use super::acting::{Actions, or_absent, part};
use super::rules;
use crate::registry::columns::identity;
use crate::registry::strategy::{certificate, rbac};
use crate::registry::{Action, Resource, Scope, Verbs, Virtual};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn rows() -> Vec<Resource> {
    let csr = ("certificates.k8s.io", "v1", "CertificateSigningRequest");
    vec![
        Resource::namespaced(RBAC, "v1", "Role", "roles", rules(rbac::ROLES)),
        Resource::namespaced(RBAC, "v1", "RoleBinding", "rolebindings", rules(rbac::ROLE_BINDINGS))
            .with_columns(identity::bindings()),
        Resource::cluster(RBAC, "v1", "ClusterRole", "clusterroles", rules(rbac::CLUSTER_ROLES)),
        Resource::cluster(
            RBAC,
            "v1",
            "ClusterRoleBinding",
            "clusterrolebindings",
            rules(rbac::CLUSTER_ROLE_BINDINGS),
        )
        .with_columns(identity::bindings()),
        Resource::cluster(
            csr.0,
            csr.1,
            csr.2,
            "certificatesigningrequests",
            rules(certificate::CERTIFICATE_SIGNING_REQUESTS),
        )
        .short(&["csr"])
        .with_columns(identity::certificate_signing_requests())
        .selectable("spec.signerName", "")
        .with_status()
        .with_subresource(part("approval", Verbs::GET_UPDATE_PATCH, certificate::APPROVAL)),
    ]
}

pub(super) fn virtuals(actions: &Actions) -> Vec<Virtual> {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    const AUTHORIZATION: &str = "authorization.k8s.io";
    let on = |action: &Option<Arc<dyn Action>>, name| or_absent(action.as_ref(), name);
    let local = on(&actions.local_subject_access_review, "localsubjectaccessreviews");
    vec![
        review(AUTHENTICATION, "TokenReview", "tokenreviews", on(&actions.token_review, "tokenreviews")),
        review(
            AUTHENTICATION,
            "SelfSubjectReview",
            "selfsubjectreviews",
            on(&actions.self_subject_review, "selfsubjectreviews"),
        ),
        review(
            AUTHORIZATION,
            "SubjectAccessReview",
            "subjectaccessreviews",
            on(&actions.subject_access_review, "subjectaccessreviews"),
        ),
        review(
            AUTHORIZATION,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            on(&actions.self_subject_access_review, "selfsubjectaccessreviews"),
        ),
        review(
            AUTHORIZATION,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            on(&actions.self_subject_rules_review, "selfsubjectrulesreviews"),
        ),
        Virtual {
            scope: Scope::Namespaced,
            ..review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", local)
        },
    ]
}

fn review(group: &'static str, kind: &'static str, plural: &'static str, action: Arc<dyn Action>) -> Virtual {
    Virtual {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_ascii_lowercase().into(),
        scope: Scope::Cluster,
        action,
    }
}
