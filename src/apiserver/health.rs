//! `/healthz`, `/livez`, `/readyz`, `/version`, `/metrics`.

use std::time::Duration;

use http::{Response, StatusCode};
use serde_json::json;
use tracing::warn;

use crate::{
    body::{self, Body},
    encode::accept::Wanted,
    handlers::respond,
    request::RequestInfo,
    server::Inner,
    status::ApiError,
};

const STORE_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Ping,
    /// The store answers. Upstream's name.
    Etcd,
    /// The watch cache follows the store.
    WatchCache,
    /// The server is not stopping.
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Etcd => "etcd",
            Self::WatchCache => "watch-cache",
            Self::Shutdown => "shutdown",
        }
    }
}

const LIVE: &[Check] = &[Check::Ping, Check::Etcd];
const READY: &[Check] = &[Check::Ping, Check::Etcd, Check::WatchCache, Check::Shutdown];

/// `None` if the path is none of these.
pub(crate) async fn page(server: &Inner, info: &RequestInfo) -> Option<Result<Response<Body>, ApiError>> {
    let mut segments = info.path.trim_matches('/').splitn(2, '/');
    let (endpoint, rest) = (segments.next()?, segments.next());
    let checks = match endpoint {
        "healthz" | "livez" => LIVE,
        "readyz" => READY,
        "version" if rest.is_none() => return Some(Ok(version(server))),
        "metrics" if rest.is_none() => return Some(Ok(metrics(server))),
        _ => return None,
    };
    Some(match rest {
        None => Ok(all(server, info, endpoint, checks).await),
        Some(name) => match checks.iter().find(|check| check.name() == name) {
            None => Err(ApiError::unknown_path()),
            Some(check) if passes(server, *check).await => Ok(text(StatusCode::OK, "ok".into())),
            Some(_) => {
                Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld\n".into()))
            }
        },
    })
}

async fn all(server: &Inner, info: &RequestInfo, endpoint: &str, checks: &[Check]) -> Response<Body> {
    let mut report = String::new();
    let mut failed = Vec::new();
    for check in checks {
        let name = check.name();
        if info.query.all("exclude").any(|excluded| excluded == name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if passes(server, *check).await {
            report.push_str(&format!("[+]{name} ok\n"));
        } else {
            failed.push(name);
            report.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    if !failed.is_empty() {
        warn!(endpoint, failed = failed.join(","), "health check failed");
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{report}{endpoint} check failed\n"));
    }
    if info.query.get("verbose").is_some() {
        return text(StatusCode::OK, format!("{report}{endpoint} check passed\n"));
    }
    text(StatusCode::OK, "ok".into())
}

async fn passes(server: &Inner, check: Check) -> bool {
    match check {
        Check::Ping => true,
        Check::Etcd => {
            let revision = server.api.cache.store().current_revision();
            matches!(tokio::time::timeout(STORE_DEADLINE, revision).await, Ok(Ok(_)))
        }
        Check::WatchCache => {
            matches!(tokio::time::timeout(STORE_DEADLINE, server.api.cache.caught_up()).await, Ok(Ok(_)))
        }
        Check::Shutdown => !server.stop.is_cancelled(),
    }
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    respond::response(code, "text/plain; charset=utf-8", body::full(text))
}

fn version(server: &Inner) -> Response<Body> {
    let version = &server.config.version;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let document = json!({
        "major": version.major, "minor": version.minor, "gitVersion": version.git_version,
        "emulationMajor": version.major, "emulationMinor": version.minor,
        "minCompatibilityMajor": version.major, "minCompatibilityMinor": version.minor,
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{architecture}"),
    });
    respond::value(StatusCode::OK, Wanted::default(), &document)
}

fn metrics(server: &Inner) -> Response<Body> {
    let text = server.metrics.render(&server.api.cache);
    respond::response(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        body::full(text),
    )
}
