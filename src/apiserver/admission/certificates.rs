//! Certificate signing requests: who asks is who they are; approving and signing need a right for the signer.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Attributes, Operation, Plugin, Reader};
use crate::authz::{self, Authorizer, Decision};
use crate::status::{ApiError, GroupResource};
use crate::user::UserInfo;

fn requests() -> GroupResource {
    GroupResource::new("certificates.k8s.io", "certificatesigningrequests")
}

/// Writes the requester into the request (upstream does so in the resource's strategy).
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateRequester;

impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && *resource == requests() && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let user = attributes.user.clone();
        let Some(spec) = attributes.object["spec"].as_object_mut() else { return Ok(()) };
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        spec.insert("username".to_owned(), user.name.into());
        if !user.uid.is_empty() {
            spec.insert("uid".to_owned(), user.uid.into());
        }
        if !user.groups.is_empty() {
            spec.insert("groups".to_owned(), user.groups.into());
        }
        if !user.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(user.extra));
        }
        Ok(())
    }
}

/// CertificateSubjectRestriction: nobody signs themselves into the group that may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && *resource == requests() && subresource.is_empty()
    }

    fn validate(&self, attributes: &Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        if attributes.object["spec"]["signerName"] != SIGNER {
            return Ok(());
        }
        let Some(subject) = Subject::of(&attributes.object) else {
            return Err(attributes.forbidden("unable to parse csr"));
        };
        if subject.organizations.iter().any(|group| group == crate::user::MASTERS) {
            let why = format!("use of {SIGNER} signer with system:masters group is not allowed");
            return Err(attributes.forbidden(&why));
        }
        Ok(())
    }
}

/// Who a request's certificate would be for.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
}

impl Subject {
    /// Of a CertificateSigningRequest object; `None` where it does not hold a request.
    pub(super) fn of(csr: &Value) -> Option<Self> {
        let pem = STANDARD.decode(csr["spec"]["request"].as_str()?).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
        let subject = &request.certification_request_info.subject;
        let text =
            |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
        Some(Self {
            common_name: subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: subject.iter_organization().filter_map(text).collect(),
        })
    }
}

/// CertificateApproval and CertificateSigning: `approve` and `sign` on `signers` of the request's signer.
pub struct SignerRights {
    authorizer: Arc<dyn Authorizer>,
}

impl std::fmt::Debug for SignerRights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignerRights").finish_non_exhaustive()
    }
}

impl SignerRights {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    /// The signer itself, or all signers of its domain.
    fn allows(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
            let attributes = authz::Attributes {
                verb: verb.to_owned(),
                is_resource: true,
                group: "certificates.k8s.io".to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..authz::Attributes::default()
            };
            matches!(self.authorizer.authorize(user, &attributes), Decision::Allow(_))
        })
    }
}

impl Plugin for SignerRights {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update
            && *resource == requests()
            && matches!(subresource, "approval" | "status")
    }

    fn validate(&self, attributes: &Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let Some(old) = &attributes.old else { return Ok(()) };
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        let (verb, done) = match attributes.subresource.as_str() {
            "approval" => ("approve", "approve"),
            _ => {
                // Only the certificate and the verdict of the signer need the right.
                let signs = |csr: &Value| {
                    (csr["status"].get("certificate").cloned(), csr["status"].get("conditions").cloned())
                };
                if signs(&attributes.object) == signs(old) {
                    return Ok(());
                }
                ("sign", "sign")
            }
        };
        if self.allows(&attributes.user, verb, signer) {
            return Ok(());
        }
        let why = format!("user not permitted to {done} requests with signerName {signer:?}");
        Err(attributes.forbidden(&why))
    }
}
