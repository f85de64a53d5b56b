//! Keeps the Service at which pods find us: kube-system/kube-dns, as everybody's cluster DNS is called.
//!
//! ```text
//!   Service and slice in the read cache ──plan (pure)──▶ create, repair or remove ──apply──▶ API
//! ```
//!
//! The Service is ours while it has our label and no selector. Whoever gives it a selector (CoreDNS's manifest does)
//! has taken it over: our slice goes, and nothing else is touched.

mod apply;
mod plan;

use std::{net::IpAddr, time::Duration};

use client::{Cache, Changes, Client, ObjectKey, Store};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use lifecycle::{Backoff, Scope};
use tracing::{info, warn};

use plan::{Observed, plan};

pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const SERVICE: &str = "kube-dns";
pub(crate) const SLICE: &str = "kube-dns-coracle";

const RETRY: Backoff = Backoff::doubling(Duration::from_millis(200), Duration::from_secs(30));

/// Where the Service is, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// What pods' resolv.conf names.
    pub(crate) cluster_ip: IpAddr,
    /// Where we listen.
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

struct Publisher {
    client: Client,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    changed_services: Changes<()>,
    changed_slices: Changes<()>,
    wanted: Published,
}

/// Keeps Service and slice until `scope` is cancelled. The stores must be synced.
pub(crate) async fn run(client: Client, cache: &Cache, wanted: Published, scope: Scope) {
    let (services, slices): (Store<Service>, Store<EndpointSlice>) = (cache.store(), cache.store());
    let is = |key: &ObjectKey, name| key.namespace() == NAMESPACE && &*key.name == name;
    let mut publisher = Publisher {
        client,
        changed_services: services
            .changes_by(move |key, _| is(key, SERVICE).then_some(()).into_iter().collect()),
        changed_slices: slices.changes_by(move |key, _| is(key, SLICE).then_some(()).into_iter().collect()),
        services,
        slices,
        wanted,
    };
    let mut failures = 0;
    loop {
        let wait = match publisher.pass().await {
            Ok(()) => {
                failures = 0;
                None
            }
            Err(error) => {
                failures += 1;
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the DNS Service could not be written; trying again"
                );
                Some(RETRY.delay(failures))
            }
        };
        tokio::select! {
            () = scope.cancelled() => return,
            _ = publisher.changed_services.next() => {}
            _ = publisher.changed_slices.next() => {}
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
        }
    }
}

impl Publisher {
    async fn pass(&self) -> Result<(), apply::PublishError> {
        let service = self.services.get(&ObjectKey::namespaced(NAMESPACE, SERVICE));
        let slice = self.slices.get(&ObjectKey::namespaced(NAMESPACE, SLICE));
        let observed = Observed { service: service.as_deref(), slice: slice.as_deref() };
        for step in plan(observed, &self.wanted) {
            info!(step = step.name(), service = SERVICE, "publishing the cluster's DNS");
            apply::apply(&self.client, step).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use bytes::Bytes;
    use http::{Method, Request, Response, StatusCode};
    use http_body_util::Full;
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_not_there_yet_is_waited_for() {
        let (scope, tries) = (Scope::root("test"), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&tries);
        let api = tower::service_fn(move |request: Request<kube::client::Body>| {
            let count = Arc::clone(&count);
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                    std::future::pending::<()>().await;
                }
                let (status, body) = if *request.method() == Method::POST {
                    count.fetch_add(1, Ordering::SeqCst);
                    let refused = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                        "message": "namespaces \"kube-system\" not found", "code": 404});
                    (StatusCode::NOT_FOUND, refused)
                } else {
                    (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": []}))
                };
                let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        });
        let client = client::from_service(api);
        let cache = Cache::new(client.clone(), &scope);
        let wanted =
            Published { cluster_ip: [10, 96, 0, 10].into(), address: [192, 0, 2, 1].into(), port: 10053 };
        tokio::select! {
            () = run(client, &cache, wanted, scope.clone()) => panic!("it ended"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        let tries = tries.load(Ordering::SeqCst);
        assert!((5..=20).contains(&tries), "{tries}");
        scope.close(Duration::from_secs(5)).await;
    }
}
