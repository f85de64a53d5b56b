//! Which of the runtime's handlers a pod's RuntimeClass names.
//!
//! Asked of the API when a sandbox is made, which is seldom; what it said last counts while it cannot be reached.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use parking_lot::Mutex;
use tracing::warn;

pub trait RuntimeClasses: Send + Sync + 'static {
    /// The handler of the class of this name.
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<String, RuntimeClassError>>;
}

/// A pod that asks for a class never runs without it: its sandbox may be all that keeps it from the host.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeClassError {
    /// Upstream's words, shown in the event.
    #[error("runtimeclass.node.k8s.io \"{name}\" not found")]
    NotFound { name: String },
    #[error("failed to lookup RuntimeClass {name}")]
    Lookup {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

impl RuntimeClassError {
    /// For the event, which has no other place for the cause.
    pub fn shown(&self) -> String {
        match self {
            RuntimeClassError::NotFound { .. } => self.to_string(),
            RuntimeClassError::Lookup { source, .. } => format!("{self}: {source}"),
        }
    }
}

/// Static pods only: there is no API to have classes.
#[derive(Debug)]
pub struct NoRuntimeClasses;

impl RuntimeClasses for NoRuntimeClasses {
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<String, RuntimeClassError>> {
        Box::pin(std::future::ready(Err(RuntimeClassError::NotFound { name: class.into() })))
    }
}

/// Those of the API.
pub struct ApiRuntimeClasses {
    api: Api<RuntimeClass>,
    known: Mutex<BTreeMap<String, String>>,
}

impl std::fmt::Debug for ApiRuntimeClasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiRuntimeClasses").field("known", &self.known.lock()).finish_non_exhaustive()
    }
}

impl ApiRuntimeClasses {
    pub fn new(client: Client) -> ApiRuntimeClasses {
        ApiRuntimeClasses { api: Api::all(client), known: Mutex::default() }
    }

    async fn ask(&self, name: &str) -> Result<String, RuntimeClassError> {
        match self.api.get(name).await {
            Ok(class) => {
                self.known.lock().insert(name.into(), class.handler.clone());
                Ok(class.handler)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.known.lock().remove(name);
                Err(RuntimeClassError::NotFound { name: name.into() })
            }
            Err(error) => match self.known.lock().get(name) {
                Some(handler) => {
                    warn!(
                        class = name,
                        error = &error as &dyn std::error::Error,
                        "using the RuntimeClass as last seen"
                    );
                    Ok(handler.clone())
                }
                None => Err(RuntimeClassError::Lookup { name: name.into(), source: Box::new(error) }),
            },
        }
    }
}

impl RuntimeClasses for ApiRuntimeClasses {
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<String, RuntimeClassError>> {
        Box::pin(self.ask(class))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    use kube::client::Body;
    use serde_json::json;
    use tower::BoxError;

    use super::*;

    #[tokio::test]
    async fn a_class_is_known_as_last_seen_while_the_api_is_away_and_forgotten_when_it_says_so() {
        let code = Arc::new(Mutex::new(500));
        let answers = code.clone();
        let client = client::from_service(tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/apis/node.k8s.io/v1/runtimeclasses/safe");
            let code = *answers.lock();
            let body = match code {
                200 => json!({"metadata": {"name": "safe"}, "handler": "runsc"}),
                _ => json!({"kind": "Status", "code": code, "message": "no"}),
            };
            let body = Full::new(Bytes::from(body.to_string())).map_err(BoxError::from);
            let answer = Response::builder().status(code).body(body).unwrap();
            std::future::ready(Ok::<_, BoxError>(answer))
        }));
        let classes = ApiRuntimeClasses::new(client);
        let mut seen = Vec::new();
        for answer in [503, 200, 503, 404, 503] {
            *code.lock() = answer;
            seen.push(classes.handler("safe").await.map_err(|error| error.to_string()));
        }
        let lookup = || Err("failed to lookup RuntimeClass safe".to_string());
        let absent = Err("runtimeclass.node.k8s.io \"safe\" not found".to_string());
        assert_eq!(seen, [lookup(), Ok("runsc".into()), Ok("runsc".into()), absent, lookup()]);
    }
}
