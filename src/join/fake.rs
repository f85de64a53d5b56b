//! A control plane that the tests play: it keeps signing requests, and signs them as the test wants.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use client::Client;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use pki::{Authority, Key, SigningPolicy, Usages};
use serde_json::{Value, json};
use tokio::sync::Notify;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verdict {
    Waits,
    Signs { life: Duration },
    Denies,
}

impl Verdict {
    pub(crate) const DAY: Self = Self::Signs { life: Duration::from_secs(86_400) };
}

pub(crate) struct Inner {
    authority: Authority,
    pub(crate) verdict: Verdict,
    /// By name, with the certificate once there is one.
    pub(crate) requests: BTreeMap<String, Value>,
    /// How many were made, also those that are gone.
    pub(crate) made: usize,
    /// How often one was read.
    pub(crate) reads: usize,
    /// Whether they may be watched. The answer comes with the first event: within a minute, for our connection to wait.
    pub(crate) watched: bool,
    pub(crate) node: Option<Value>,
    /// Requests beyond it are not answered: a loop that never pauses ends the test by its deadline, not the machine.
    most: usize,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<Inner>>, Arc<Notify>);

impl Fake {
    pub(crate) fn new(verdict: Verdict) -> Self {
        let authority =
            Authority::self_signed("kubernetes", Key::generate().unwrap(), Timestamp::now()).unwrap();
        let inner = Inner {
            authority,
            verdict,
            requests: BTreeMap::new(),
            made: 0,
            reads: 0,
            watched: false,
            node: None,
            most: 500,
        };
        Self(Arc::new(Mutex::new(inner)), Arc::default())
    }

    /// As a person who types it: whoever watches is told.
    pub(crate) fn approve(&self) {
        self.lock().verdict = Verdict::DAY;
        self.1.notify_waiters();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        client::from_service(tower::service_fn(move |request: Request<kube::client::Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                if parts.uri.query().is_some_and(|query| query.contains("watch=")) && fake.lock().watched {
                    fake.1.notified().await;
                    let metadata = json!({"name": "x"});
                    let object = json!({"metadata": metadata, "spec": {"request": "", "signerName": "x"}});
                    let event = json!({"type": "MODIFIED", "object": object});
                    return Ok(Response::new(Full::new(Bytes::from(format!("{event}\n")))));
                }
                let body = body.collect().await.unwrap().to_bytes();
                let answer = fake.lock().answer(&parts.method, parts.uri.path(), &body);
                let Some((status, value)) = answer else { return std::future::pending().await };
                let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        }))
    }
}

impl Inner {
    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> Option<(StatusCode, Value)> {
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            return Some(
                self.node
                    .clone()
                    .map_or_else(|| refused(404, "NotFound", name), |node| (StatusCode::OK, node)),
            );
        }
        let name = path.strip_prefix(REQUESTS)?.trim_start_matches('/');
        if *method == Method::POST {
            let request: Value = serde_json::from_slice(body).unwrap();
            let name = request["metadata"]["name"].as_str().unwrap().to_owned();
            if self.requests.contains_key(&name) {
                return Some(refused(409, "AlreadyExists", &name));
            }
            self.made += 1;
            let mut request = request;
            request["metadata"]["resourceVersion"] = "1".into();
            self.requests.insert(name, request.clone());
            return (self.made <= self.most).then_some((StatusCode::CREATED, request));
        }
        self.reads += 1;
        let Some(mut request) = self.requests.get(name).cloned() else {
            return Some(refused(404, "NotFound", name));
        };
        if request["status"].is_null() {
            request["status"] = self.status(&request);
            self.requests.insert(name.to_owned(), request.clone());
        }
        Some((StatusCode::OK, request))
    }

    fn status(&self, request: &Value) -> Value {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let Verdict::Signs { life } = self.verdict else {
            let denied = json!({"conditions": [{"type": "Denied", "status": "True", "message": "not you"}]});
            return if matches!(self.verdict, Verdict::Denies) { denied } else { Value::Null };
        };
        let pem = STANDARD.decode(request["spec"]["request"].as_str().unwrap()).unwrap();
        let asked = pki::Request::from_pem(&pem).unwrap();
        let usages = request["spec"]["usages"].as_array().unwrap();
        let serves = usages.iter().any(|usage| usage == "server auth");
        let usages = if serves { Usages::server() } else { Usages::client() };
        let policy = SigningPolicy { usages, life, now: Timestamp::now() };
        let certificate = self.authority.sign(&asked, &policy).unwrap().to_pem();
        json!({"certificate": STANDARD.encode(certificate)})
    }
}

fn refused(code: u16, reason: &str, name: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": name, "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), status)
}
