//! One certificate by signing request: asked for, waited for, checked.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{PostParams, WatchEvent, WatchParams},
};
use lifecycle::Backoff;
use pki::{Certificate, Issued, Key, Profile, Request, rotation_time, signers};
use tokio::time::Instant;

use client::{Client, ErrorKind, kind_of};

use crate::pending::Pending;

/// How often a request is read that cannot be watched.
const LOOK_AGAIN: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(15));
/// And one that is, in case the watch is silent for another reason.
const WATCHED: Duration = Duration::from_secs(120);
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
    /// The key. Whoever has stored the certificate forgets it.
    pub pending: Pending,
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
    #[error(
        "the signing request {name} was denied: {why}; once it is gone (`kubectl delete csr {name}`), this node asks again"
    )]
    Denied { name: String, why: String },
    #[error("the signing request {name} was not signed: {why}")]
    Failed { name: String, why: String },
    #[error("the signing request {name} was removed before it was answered")]
    Gone { name: String },
    #[error(
        "nobody approved the signing request {name} within {seconds} s; approve it on the control plane with \
         `kubectl certificate approve {name}`, or see why it does not do so itself: asked again, this node comes back to it"
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
    #[error("the certificate of the signing request {name} was given long ago, and is due to be replaced")]
    Old { name: String },
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

/// A certificate that the cluster signed, with its key. Asked again after a failure or a restart, it comes back to the
/// request that waits: there is never a second one for the same. `told` hears the name of a request that waits for its
/// approval.
///
/// # Errors
/// What the API answered, or that nobody approved it in time.
pub async fn obtain(client: &Client, ask: &Ask, told: impl Fn(&str)) -> Result<Issued, RequestError> {
    let first = attempt(client, ask, &told).await;
    let asked = match first {
        Err(RequestError::Old { .. }) => {
            ask.pending.forget();
            attempt(client, ask, &told).await
        }
        first => first,
    };
    if matches!(asked, Err(RequestError::Failed { .. } | RequestError::Foreign { .. })) {
        // Nothing more comes of this key. A person's denial stands until the request is removed, as upstream.
        ask.pending.forget();
    }
    asked
}

async fn attempt(client: &Client, ask: &Ask, told: impl Fn(&str)) -> Result<Issued, RequestError> {
    let key = ask.pending.key().map_err(RequestError::Key)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = format!("{}{}", ask.prefix, Request::digest(&ask.profile, &key));
    let is_new = send(&api, ask, &name, &key).await?;
    let pem = answer(&api, &name, ask.patience, told).await?;
    let unreadable = |source| RequestError::Certificate { name: name.clone(), source };
    let certificate = Certificate::from_pem(&pem).map_err(unreadable)?;
    if certificate.common_name != ask.profile.common_name() {
        return Err(RequestError::Foreign { name });
    }
    if !is_new && rotation_time(&certificate, 0.0) <= Timestamp::now() {
        return Err(RequestError::Old { name });
    }
    let issued = Issued::of(certificate, key).map_err(|_| RequestError::Foreign { name: name.clone() })?;
    issued.with_chain(&pem).map_err(unreadable)
}

/// Whether there was no such request before.
async fn send(
    api: &Api<CertificateSigningRequest>,
    ask: &Ask,
    name: &str,
    key: &Key,
) -> Result<bool, RequestError> {
    let (signer, usage) = signer(&ask.profile);
    let pem = Request::make(&ask.profile, key).map_err(RequestError::Make)?;
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
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
    match api.create(&PostParams::default(), &request).await {
        Ok(_) => Ok(true),
        Err(error) if kind_of(&error) == ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(RequestError::Create { signer, source: Box::new(source) }),
    }
}

/// What the request's state means.
enum State {
    Pending,
    Signed(Vec<u8>),
    Denied(String),
    Failed(String),
}

fn state(csr: &CertificateSigningRequest) -> State {
    let status = csr.status.as_ref();
    for (type_, state) in [("Denied", State::Denied as fn(String) -> State), ("Failed", State::Failed)] {
        let conditions = status.and_then(|status| status.conditions.as_ref());
        if let Some(found) = conditions.into_iter().flatten().find(|condition| condition.type_ == type_) {
            let why = found.message.clone().filter(|text| !text.is_empty()).or_else(|| found.reason.clone());
            return state(why.unwrap_or_else(|| "no reason was given".to_owned()));
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
    let (asked, mut looks, mut has_told, mut watches) = (Instant::now(), 0, false, true);
    loop {
        let mut seen = None;
        match api.get(name).await {
            Ok(csr) => match state(&csr) {
                State::Signed(certificate) => return Ok(certificate),
                State::Denied(why) => return Err(RequestError::Denied { name: name.to_owned(), why }),
                State::Failed(why) => return Err(RequestError::Failed { name: name.to_owned(), why }),
                State::Pending => seen = csr.metadata.resource_version,
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
        let seen = seen.filter(|_| watches);
        let mut pause = if seen.is_some() { WATCHED } else { LOOK_AGAIN.delay(looks) };
        if !has_told {
            pause = pause.min(TELL_AFTER.saturating_sub(asked.elapsed()));
        }
        if let Some(patience) = patience {
            pause = pause.min(patience.saturating_sub(asked.elapsed()));
        }
        let changed = tokio::select! {
            () = tokio::time::sleep(pause) => None,
            changed = change(api, name, seen.as_deref()) => Some(changed),
        };
        if let Some(changed) = changed {
            watches = changed;
            // Not at once, however often it changes.
            tokio::time::sleep(LOOK_AGAIN.base).await;
        }
    }
}

/// Waits until something happens to the request after what was `seen`. False where nobody will tell: not everyone who may
/// make a request may watch it.
async fn change(api: &Api<CertificateSigningRequest>, name: &str, seen: Option<&str>) -> bool {
    let Some(seen) = seen else { return std::future::pending().await };
    let own = WatchParams::default().fields(&format!("metadata.name={name}"));
    let Ok(events) = api.watch(&own, seen).await else { return false };
    let mut events = pin!(events);
    // What it was is read from the request itself.
    !matches!(events.next().await, None | Some(Err(_) | Ok(WatchEvent::Error(_))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::fake::{Fake, Verdict};

    const DAY: Verdict = Verdict::DAY;

    fn ask(dir: &TempDir, node: &str) -> Ask {
        Ask {
            profile: Profile::KubeletClient { node: node.into() },
            prefix: "node-csr-",
            expiration_seconds: None,
            patience: Some(Duration::from_secs(300)),
            pending: Pending::beside(&dir.path().join("kubelet-client-current.pem")),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_again_comes_back_to_the_request_that_waits() {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new(Verdict::Waits));
        let (client, ask) = (fake.client(), ask(&dir, "a"));
        let waited = obtain(&client, &ask, |_| {}).await.unwrap_err();
        let name = fake.lock().requests.keys().next().unwrap().clone();
        let told = waited.to_string();
        assert!(told.contains(&format!("kubectl certificate approve {name}")), "{told}");
        // As after a restart: nothing is left but the file.
        fake.lock().verdict = DAY;
        let issued = obtain(&client, &ask, |_| {}).await.unwrap();
        assert_eq!((issued.certificate.common_name.as_str(), fake.lock().made), ("system:node:a", 1));
        // Not stored, as when the machine stopped just then: it is not lost.
        let again = obtain(&client, &ask, |_| {}).await.unwrap();
        assert_eq!((again.certificate.der, fake.lock().made), (issued.certificate.der, 1));
        ask.pending.forget();
        obtain(&client, &ask, |_| {}).await.unwrap();
        assert_eq!(fake.lock().made, 2, "the next one has a key of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_can_be_watched_is_not_read_again_and_again() {
        for watched in [true, false] {
            let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new(Verdict::Waits));
            fake.lock().watched = watched;
            let (client, ask, approved) = (fake.client(), ask(&dir, "a"), Duration::from_secs(40));
            let (begun, approver) = (Instant::now(), fake.clone());
            let approve = async {
                tokio::time::sleep(approved).await;
                approver.approve();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = approve => {}
                issued = obtain(&client, &ask, |_| {}) => drop(issued.unwrap()),
            }
            let late = begun.elapsed() - approved;
            let reads = fake.lock().reads;
            match watched {
                true => assert!(reads <= 6 && late < Duration::from_secs(1), "{reads} {late:?}"),
                false => assert!(reads > 6 && late < Duration::from_secs(16), "{reads} {late:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_long_ago_is_no_answer() {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new(Verdict::Signs { life: Duration::ZERO }));
        let (client, ask) = (fake.client(), ask(&dir, "a"));
        let old = obtain(&client, &ask, |_| {}).await.unwrap();
        fake.lock().verdict = DAY;
        let new = obtain(&client, &ask, |_| {}).await.unwrap();
        assert_eq!(fake.lock().made, 2);
        assert_ne!(new.certificate.der, old.certificate.der);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_stands_until_its_request_is_gone() {
        let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new(Verdict::Denies));
        let (client, ask) = (fake.client(), ask(&dir, "a"));
        for _ in 0..2 {
            let denied = obtain(&client, &ask, |_| {}).await.unwrap_err();
            assert!(matches!(denied, RequestError::Denied { .. }), "{denied}");
            assert!(denied.to_string().contains("kubectl delete csr node-csr-"), "{denied}");
        }
        assert_eq!(fake.lock().made, 1);
        fake.lock().requests.clear();
        fake.lock().verdict = DAY;
        obtain(&client, &ask, |_| {}).await.unwrap();
    }

    fn words(status: serde_json::Value) -> String {
        let csr: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {}, "spec": {"request": "", "signerName": "x"}, "status": status,
        }))
        .unwrap();
        match state(&csr) {
            State::Pending => "pending".to_owned(),
            State::Signed(certificate) => format!("{} bytes", certificate.len()),
            State::Denied(why) => format!("denied: {why}"),
            State::Failed(why) => format!("not signed: {why}"),
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
