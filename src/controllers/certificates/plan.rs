//! What to do about one signing request.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Node};
use pki::{Kind, Refusal, Request, recognize};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
pub(super) const FAILED: &str = "Failed";

/// Finished requests are kept this long to be looked at.
const FINISHED_KEPT: SignedDuration = SignedDuration::from_hours(1);
/// Requests that nobody approves are given up after this.
const PENDING_KEPT: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing now; old enough to be removed after this time.
    Keep(Duration),
    Delete,
    /// Approve if the requestor may create this subresource.
    ApproveIfAllowed {
        subresource: &'static str,
        message: &'static str,
    },
    /// Approve a node's serving certificate if the names are the node's.
    ApproveForNode(Box<Request>),
    Sign(Box<Request>),
    /// The request breaks its signer's rules.
    Fail(String),
}

/// `signs`: whether this control plane signs.
pub(super) fn plan(csr: &CertificateSigningRequest, signs: bool, now: Timestamp) -> Step {
    if let Some(step) = clean(csr, now) {
        return step;
    }
    let keep = Step::Keep(until_removed(csr, now));
    let issued = csr.status.as_ref().is_some_and(|status| status.certificate.is_some());
    if issued || has(csr, DENIED) || has(csr, FAILED) {
        return keep;
    }
    let Some(known) = read(csr) else { return keep };
    match (has(csr, APPROVED), known) {
        (true, Ok((_, request))) if signs => Step::Sign(Box::new(request)),
        (true, Err(why)) if signs => Step::Fail(why),
        (false, Ok((kind, request))) => match kind {
            Kind::SelfNodeClient => Step::ApproveIfAllowed {
                subresource: "selfnodeclient",
                message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
            },
            Kind::NodeClient => Step::ApproveIfAllowed {
                subresource: "nodeclient",
                message: "Auto approving kubelet client certificate after SubjectAccessReview.",
            },
            Kind::NodeServing { requested_by_itself: true } => Step::ApproveForNode(Box::new(request)),
            Kind::NodeServing { .. } | Kind::ApiServerClient => keep,
        },
        _ => keep,
    }
}

/// What the request is; none if its signer is somebody else.
fn read(csr: &CertificateSigningRequest) -> Option<Result<(Kind, Request), String>> {
    let request = match Request::from_pem(&csr.spec.request.0) {
        Ok(request) => request,
        Err(error) => return Some(Err(error.to_string())),
    };
    let requestor = csr.spec.username.as_deref().unwrap_or_default();
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    match recognize(&csr.spec.signer_name, &request, requestor, usages) {
        Ok(kind) => Some(Ok((kind, request))),
        Err(Refusal::UnknownSigner(_)) => None,
        Err(refusal) => Some(Err(refusal.to_string())),
    }
}

fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    condition_time(csr, type_).is_some()
}

fn condition_time(csr: &CertificateSigningRequest, type_: &str) -> Option<Timestamp> {
    let conditions = csr.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some(condition.last_update_time.as_ref().map_or_else(|| created(csr), |time| time.0))
}

fn created(csr: &CertificateSigningRequest) -> Timestamp {
    csr.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0)
}

fn clean(csr: &CertificateSigningRequest, now: Timestamp) -> Option<Step> {
    until_removed(csr, now).is_zero().then_some(Step::Delete)
}

/// How long the request is still kept.
fn until_removed(csr: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let finished =
        [APPROVED, DENIED, FAILED].into_iter().filter_map(|type_| condition_time(csr, type_)).max();
    let issued = csr.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let (since, kept) = match finished {
        // Approved, but nobody signs: as if pending.
        Some(since) if issued || has(csr, DENIED) || has(csr, FAILED) => (since, FINISHED_KEPT),
        _ => (created(csr), PENDING_KEPT),
    };
    Duration::try_from(kept - now.duration_since(since)).unwrap_or_default()
}

/// Whether every name and address of `request` is the node's own.
pub(super) fn names_are_of(node: &Node, request: &Request) -> bool {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let (mut names, mut ips): (BTreeSet<String>, BTreeSet<IpAddr>) = Default::default();
    names.extend(node.metadata.name.clone());
    for address in addresses {
        match address.address.parse() {
            Ok(ip) => drop(ips.insert(ip)),
            Err(_) => drop(names.insert(address.address.clone())),
        }
    }
    request.dns.is_subset(&names) && request.ips.is_subset(&ips)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        ByteString,
        api::certificates::v1::{
            CertificateSigningRequestCondition, CertificateSigningRequestSpec,
            CertificateSigningRequestStatus,
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };
    use pki::{Key, Names, Profile, signers};

    use super::*;

    fn csr(signer: &str, pem: &str, username: &str, usages: &[&str]) -> CertificateSigningRequest {
        CertificateSigningRequest {
            metadata: ObjectMeta {
                creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.as_bytes().to_vec()),
                signer_name: signer.into(),
                username: Some(username.into()),
                usages: Some(usages.iter().map(ToString::to_string).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }

    fn with(mut csr: CertificateSigningRequest, type_: &str) -> CertificateSigningRequest {
        let condition = CertificateSigningRequestCondition {
            type_: type_.into(),
            status: "True".into(),
            last_update_time: Some(Time(Timestamp::UNIX_EPOCH)),
            ..CertificateSigningRequestCondition::default()
        };
        let status = csr.status.get_or_insert_with(CertificateSigningRequestStatus::default);
        status.conditions.get_or_insert_default().push(condition);
        csr
    }

    fn client_request(node: &str) -> String {
        let profile = Profile::KubeletClient { node: node.to_string() };
        Request::make(&profile, &Key::generate().unwrap()).unwrap()
    }

    const CLIENT: &[&str] = &["digital signature", "client auth"];

    #[test]
    fn a_request_is_approved_signed_kept_and_removed() {
        let signer = signers::KUBE_API_SERVER_CLIENT_KUBELET;
        let fresh = csr(signer, &client_request("n1"), "system:bootstrap:abc", CLIENT);
        let now = Timestamp::UNIX_EPOCH;
        let step = plan(&fresh, true, now);
        assert!(matches!(step, Step::ApproveIfAllowed { subresource: "nodeclient", .. }), "{step:?}");
        let approved = with(fresh.clone(), APPROVED);
        assert!(matches!(plan(&approved, true, now), Step::Sign(_)));
        assert!(matches!(plan(&approved, false, now), Step::Keep(_)));
        let mut issued = approved;
        issued.status.as_mut().unwrap().certificate = Some(ByteString(vec![1]));
        assert_eq!(plan(&issued, true, now), Step::Keep(Duration::from_secs(3600)));
        assert_eq!(plan(&issued, true, now + SignedDuration::from_hours(2)), Step::Delete);
        assert_eq!(plan(&fresh, true, now + SignedDuration::from_hours(25)), Step::Delete);
    }

    #[test]
    fn what_breaks_the_rules_is_never_signed() {
        let signer = signers::KUBE_API_SERVER_CLIENT_KUBELET;
        let wrong = csr(signer, &client_request("n1"), "someone", &["server auth"]);
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(plan(&wrong, true, now), Step::Keep(_)));
        assert!(matches!(plan(&with(wrong, APPROVED), true, now), Step::Fail(_)));
        let foreign = csr("example.com/signer", &client_request("n1"), "someone", CLIENT);
        assert!(matches!(plan(&with(foreign, APPROVED), true, now), Step::Keep(_)));
    }

    #[test]
    fn a_serving_certificate_is_for_the_nodes_own_names() {
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.7"}]}}))
        .unwrap();
        let request = |names: &[&str]| {
            let profile = Profile::KubeletServing { node: "n1".into(), names: Names::from_texts(names) };
            let pem = Request::make(&profile, &Key::generate().unwrap()).unwrap();
            Request::from_pem(pem.as_bytes()).unwrap()
        };
        assert!(names_are_of(&node, &request(&["n1", "10.0.0.7"])));
        assert!(!names_are_of(&node, &request(&["n1", "10.0.0.8"])));
        assert!(!names_are_of(&node, &request(&["kubernetes.default"])));
    }
}
