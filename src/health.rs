//! Where whoever reaches the address may ask whether a part of this process is alive: upstream's `/healthz`, without TLS
//! and without anything else.

use std::{error::Error, net::SocketAddr, time::Duration};

use client::{ObjectKey, Store};
use http::{Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use lifecycle::{BoxError, Scope};
use serde_json::json;
use streaming::serve::{Limits, serve_plain};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tracing::{info, warn};

const LIMITS: Limits = Limits { connections: 64, drain: Duration::from_secs(1) };
/// The port may be taken for a moment by the process before us.
const RETRY: Duration = Duration::from_secs(1);
/// As upstream: more than twice as long as a loop without work lets itself be seen.
const LONGEST_TURN: Duration = Duration::from_secs(300);
/// The autoscaler's mark on a node that it is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Who is asked about.
#[derive(Clone)]
pub(crate) enum Of {
    Kubelet {
        /// When its loop last turned; none before it was to begin.
        turns: watch::Receiver<Option<Instant>>,
    },
    Proxy {
        /// Holds this node, once it is known.
        node: Store<Node>,
        name: String,
        /// How its writes go.
        writes: watch::Receiver<proxy::Health>,
    },
}

/// An answer: code, content type, body.
type Answer = (StatusCode, &'static str, String);

impl Of {
    fn answer(&self, method: &Method, path: &str, now: Timestamp) -> Answer {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*method, Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "405 method not allowed\n".into());
        }
        match (self, path) {
            (Self::Kubelet { .. }, "/healthz/ping" | "/healthz/log") => (StatusCode::OK, TEXT, "ok".into()),
            (Self::Kubelet { turns }, "/healthz" | "/healthz/syncloop") => {
                let (code, body) = of_kubelet(path, *turns.borrow(), Instant::now());
                (code, TEXT, body)
            }
            (Self::Proxy { node, name, writes }, "/healthz" | "/livez") => {
                let writes = Writes::of(&writes.borrow(), now);
                of_proxy(path, node.get(&ObjectKey::cluster(name)).as_deref(), &writes, now)
            }
            _ => (StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
        }
    }
}

/// As upstream's kubelet on its other port: well until its loop has not turned for too long, which is told in upstream's words.
/// Nothing is asked of a loop that waits for the node's first certificate.
fn of_kubelet(path: &str, turned: Option<Instant>, now: Instant) -> (StatusCode, String) {
    let late = turned.map(|turned| now.saturating_duration_since(turned)).filter(|late| *late > LONGEST_TURN);
    let Some(late) = late else { return (StatusCode::OK, "ok".into()) };
    let failed = format!("[-]syncloop failed: the sync loop was last seen {} s ago\n", late.as_secs());
    let body = match path {
        "/healthz" => format!("[+]ping ok\n[+]log ok\n{failed}healthz check failed\n"),
        _ => failed,
    };
    (StatusCode::INTERNAL_SERVER_ERROR, body)
}

/// Whether the rules of Services follow them, and until when they did.
struct Writes {
    healthy: bool,
    updated: Timestamp,
}

impl Writes {
    fn of(health: &proxy::Health, now: Timestamp) -> Self {
        let clock = Instant::now();
        let healthy = health.is_healthy(clock);
        // As upstream: rules that wait for nothing are as new as the answer.
        let since =
            health.written.filter(|_| !healthy).map(|written| clock.saturating_duration_since(written));
        let updated = since.and_then(|since| now.checked_sub(since).ok()).unwrap_or(now);
        Self { healthy, updated }
    }
}

/// As upstream: a node that goes takes no new traffic, but its proxy is alive until it has gone. Neither is one whose rules
/// wait to be written for too long.
fn of_proxy(path: &str, node: Option<&Node>, writes: &Writes, now: Timestamp) -> Answer {
    let mut body = json!({"lastUpdated": writes.updated, "currentTime": now, "healthy": writes.healthy});
    let mut serves = writes.healthy;
    if path != "/livez" {
        let eligible = is_eligible(node);
        body["nodeEligible"] = eligible.into();
        serves &= eligible;
    }
    let code = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, "application/json", body.to_string())
}

/// Whether load balancers may send to this node: as upstream, not before it is known, and not once it goes.
fn is_eligible(node: Option<&Node>) -> bool {
    let Some(node) = node else { return false };
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && taints.into_iter().all(|taint| taint.key != TO_BE_DELETED)
}

/// Answers at `address` until `scope` is cancelled.
pub(crate) async fn serve(address: SocketAddr, of: Of, scope: Scope) -> Result<(), BoxError> {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                warn!(%address, error = &error as &dyn Error, "/healthz cannot be answered there; trying again")
            }
        }
        tokio::select! {
            () = scope.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    };
    info!(%address, "/healthz is answered");
    let connections = scope.child("health connections");
    serve_plain(listener, LIMITS, &connections, move |request: Request<_>| {
        let (code, kind, body) = of.answer(request.method(), request.uri().path(), Timestamp::now());
        async move { response(code, kind, body) }
    })
    .await;
    Ok(())
}

fn response(
    code: StatusCode,
    kind: &'static str,
    body: String,
) -> Response<http_body_util::Full<bytes::Bytes>> {
    let mut response = Response::new(http_body_util::Full::new(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_node_that_goes_or_is_not_known_takes_no_new_traffic() {
        assert!(!is_eligible(None));
        let node = |value: serde_json::Value| serde_json::from_value::<Node>(value).unwrap();
        assert!(is_eligible(Some(&node(
            json!({"metadata": {}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
        ))));
        let marked =
            json!({"metadata": {}, "spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}});
        assert!(!is_eligible(Some(&node(marked))));
        assert!(!is_eligible(Some(&node(
            json!({"metadata": {"deletionTimestamp": "2026-11-21T10:00:00Z"}})
        ))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_whose_node_takes_no_traffic_is_alive_and_one_whose_rules_wait_is_not() {
        let now = "2026-11-21T10:00:00Z";
        let known: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
        let told = |path: &str, node: Option<&Node>, health: &proxy::Health| {
            let now = now.parse().unwrap();
            let (code, _, body) = of_proxy(path, node, &Writes::of(health, now), now);
            (code.as_u16(), serde_json::from_str::<serde_json::Value>(&body).unwrap())
        };
        let ask = |path: &str, node: Option<&Node>| told(path, node, &proxy::Health::default());
        let alive = json!({"lastUpdated": now, "currentTime": now, "healthy": true});
        let eligible = |said: bool| {
            let mut body = alive.clone();
            body["nodeEligible"] = said.into();
            body
        };
        assert_eq!(ask("/livez", None), (200, alive.clone()));
        assert_eq!(ask("/healthz", None), (503, eligible(false)));
        assert_eq!(ask("/healthz", Some(&known)), (200, eligible(true)));

        // Refused for longer than a minute.
        tokio::time::advance(Duration::from_secs(600)).await;
        let before = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        let stuck = proxy::Health { pending_since: before(100), written: before(120) };
        for path in ["/livez", "/healthz"] {
            let (code, body) = told(path, Some(&known), &stuck);
            assert_eq!(
                (code, &body["healthy"], body["lastUpdated"].as_str()),
                (503, &json!(false), Some("2026-11-21T09:58:00Z"))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_whose_loop_turns_no_more_is_not_well() {
        let (turned, turns) = watch::channel(None);
        let of = Of::Kubelet { turns };
        let ask = |path: &str| {
            let (code, _, body) = of.answer(&Method::GET, path, Timestamp::now());
            (code.as_u16(), body)
        };
        tokio::time::advance(2 * LONGEST_TURN).await;
        assert_eq!(ask("/healthz"), (200, "ok".into()), "it waits for its first certificate");
        turned.send_replace(Some(Instant::now()));
        tokio::time::advance(LONGEST_TURN).await;
        assert_eq!(ask("/healthz"), (200, "ok".into()));
        tokio::time::advance(Duration::from_secs(1)).await;
        let (code, body) = ask("/healthz");
        assert!(code == 500 && body.ends_with("healthz check failed\n"), "{body}");
        assert!(body.contains("[-]syncloop failed: the sync loop was last seen 301 s ago"), "{body}");
        assert_eq!(ask("/healthz/syncloop").0, 500);
        assert_eq!(ask("/healthz/ping"), (200, "ok".into()));
        turned.send_replace(Some(Instant::now()));
        assert_eq!(ask("/healthz"), (200, "ok".into()));
    }

    #[tokio::test]
    async fn everybody_is_answered_on_the_path_and_only_there() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let scope = Scope::root("test");
        let (within, of) = (scope.clone(), Of::Kubelet { turns: watch::channel(None).1 });
        scope.spawn("health", async move { serve(address, of, within).await.unwrap() });
        let ask = async |line: &str| {
            let mut stream = loop {
                match tokio::net::TcpStream::connect(address).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = ask("GET /healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(ask("GET /healthz/syncloop").await.starts_with("HTTP/1.1 200"));
        assert!(ask("GET /healthz/pleg").await.starts_with("HTTP/1.1 404"));
        assert!(ask("GET /metrics").await.starts_with("HTTP/1.1 404"));
        assert!(ask("POST /healthz").await.starts_with("HTTP/1.1 405"));
        scope.close(Duration::from_secs(5)).await;
    }
}
