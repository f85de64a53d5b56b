//! One certificate by signing request: asked for, waited for, checked.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use lifecycle::Backoff;
use pki::{Certificate, Issued, Key, Profile, Request, signers};
use tokio::time::Instant;

use client::{Client, ErrorKind, kind_of};

const LOOK_AGAIN: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(15));
/// A request that nobody has approved by then is told of: a person may have to.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// A [`Profile::KubeletClient`] or a [`Profile::KubeletServing`].
    pub profile: Profile,
    /// The beginning of the request's name: `csr-`, `node-csr-`.
    pub prefix: &'static str,
    /// How long the certificate should live; what the signer gives where absent.
    pub expiration_seconds: Option<i32>,
    /// How long approval is waited for; without an end where absent.
    pub patience: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("make a private key")]
    Key(#[source] pki::KeyError),
    #[error("make a signing request")]
    Make(#[source] pki::IssueError),
    #[error("send a signing request to {signer}")]
    Create {
        signer: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("read the signing request {name}")]
    Read {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("the signing request {name} was {what}: {why}")]
    Refused { name: String, what: &'static str, why: String },
    #[error("the signing request {name} was removed before it was answered")]
    Gone { name: String },
    #[error(
        "nobody approved the signing request {name} within {seconds} s; \
         approve the next one on the control plane with `kubectl certificate approve NAME`, or see why it does not do so itself"
    )]
    NotApproved { name: String, seconds: u64 },
    #[error("the certificate of the signing request {name}")]
    Certificate {
        name: String,
        #[source]
        source: pki::CertificateError,
    },
    #[error("the certificate of the signing request {name} is not the one that was asked for")]
    Foreign { name: String },
}

impl RequestError {
    /// What the API meant, if it was the API.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Create { source, .. } | Self::Read { source, .. } => Some(kind_of(source)),
            _ => None,
        }
    }
}

fn signer(profile: &Profile) -> (&'static str, &'static str) {
    match profile {
        Profile::KubeletServing { .. } => (signers::KUBELET_SERVING, "server auth"),
        _ => (signers::KUBE_API_SERVER_CLIENT_KUBELET, "client auth"),
    }
}

/// A new key, and the certificate for it that the cluster signed. `told` hears the name of a request that waits for
/// its approval.
///
/// # Errors
/// What the API answered, or that nobody approved it in time.
pub async fn obtain(client: &Client, ask: &Ask, told: impl Fn(&str)) -> Result<Issued, RequestError> {
    let key = Key::generate().map_err(RequestError::Key)?;
    let (signer, usage) = signer(&ask.profile);
    let pem = Request::make(&ask.profile, &key).map_err(RequestError::Make)?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some(ask.prefix.to_owned()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            // Our keys are ECDSA, which sign and encipher nothing.
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            expiration_seconds: ask.expiration_seconds,
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let created = api
        .create(&PostParams::default(), &request)
        .await
        .map_err(|source| RequestError::Create { signer, source: Box::new(source) })?;
    let name = created.metadata.name.unwrap_or_default();
    let answered = answer(&api, &name, ask.patience, told).await;
    if let Err(RequestError::NotApproved { .. }) = &answered {
        // Whoever approves it later would sign for a key that is gone. Bootstrap tokens may not delete: it ages away.
        drop(api.delete(&name, &DeleteParams::default()).await);
    }
    let (pem, unreadable) = (answered?, |source| RequestError::Certificate { name: name.clone(), source });
    let certificate = Certificate::from_pem(&pem).map_err(unreadable)?;
    if certificate.common_name != ask.profile.common_name() {
        return Err(RequestError::Foreign { name });
    }
    let issued = Issued::of(certificate, key).map_err(|_| RequestError::Foreign { name: name.clone() })?;
    issued.with_chain(&pem).map_err(unreadable)
}

/// What the request's state means.
enum State {
    Pending,
    Signed(Vec<u8>),
    Refused(&'static str, String),
}

fn state(csr: &CertificateSigningRequest) -> State {
    let status = csr.status.as_ref();
    for (type_, words) in [("Denied", "denied"), ("Failed", "not signed")] {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        if let Some(found) = conditions.into_iter().flatten().find(|condition| condition.type_ == type_) {
            let why = found.message.clone().filter(|text| !text.is_empty()).or_else(|| found.reason.clone());
            return State::Refused(words, why.unwrap_or_else(|| "no reason was given".to_owned()));
        }
    }
    match status.and_then(|status| status.certificate.as_ref()) {
        Some(certificate) => State::Signed(certificate.0.clone()),
        None => State::Pending,
    }
}

async fn answer(
    api: &Api<CertificateSigningRequest>,
    name: &str,
    patience: Option<Duration>,
    told: impl Fn(&str),
) -> Result<Vec<u8>, RequestError> {
    let (asked, mut looks, mut has_told) = (Instant::now(), 0, false);
    loop {
        match api.get(name).await {
            Ok(csr) => match state(&csr) {
                State::Signed(certificate) => return Ok(certificate),
                State::Refused(what, why) => {
                    return Err(RequestError::Refused { name: name.to_owned(), what, why });
                }
                State::Pending => {}
            },
            Err(error) if kind_of(&error) == ErrorKind::NotFound => {
                return Err(RequestError::Gone { name: name.to_owned() });
            }
            Err(error) if kind_of(&error) == ErrorKind::Unavailable => {}
            Err(source) => {
                return Err(RequestError::Read { name: name.to_owned(), source: Box::new(source) });
            }
        }
        if let Some(patience) = patience
            && asked.elapsed() >= patience
        {
            return Err(RequestError::NotApproved { name: name.to_owned(), seconds: patience.as_secs() });
        }
        if !has_told && asked.elapsed() >= TELL_AFTER {
            told(name);
            has_told = true;
        }
        looks += 1;
        tokio::time::sleep(LOOK_AGAIN.delay(looks)).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(status: serde_json::Value) -> String {
        let csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {}, "spec": {"request": "", "signerName": "x"}, "status": status,
        }))
        .unwrap();
        match state(&csr) {
            State::Pending => "pending".to_owned(),
            State::Signed(certificate) => format!("{} bytes", certificate.len()),
            State::Refused(what, why) => format!("{what}: {why}"),
        }
    }

    #[test]
    fn a_requests_state_is_read_from_its_conditions_and_certificate() {
        let condition = |type_: &str, message: &str| json!([{"type": type_, "status": "True", "reason": "R", "message": message}]);
        assert_eq!(words(json!({})), "pending");
        assert_eq!(words(json!({"conditions": condition("Approved", "")})), "pending");
        assert_eq!(words(json!({"conditions": condition("Denied", "not you")})), "denied: not you");
        assert_eq!(words(json!({"conditions": condition("Failed", "")})), "not signed: R");
        assert_eq!(words(json!({"conditions": condition("Approved", ""), "certificate": "AAAA"})), "3 bytes");
    }
}
