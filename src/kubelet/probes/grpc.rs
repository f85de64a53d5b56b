//! gRPC checks: the standard health service, without encryption.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::{Enumeration, Message};
use tonic::{
    Code, Status,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    check::Verdict,
    dial::{dial, shown},
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const USER_AGENT: &str = "kube-probe/1.36";

/// grpc.health.v1.HealthCheckRequest
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl ServingStatus {
    fn as_str(self) -> &'static str {
        match self {
            ServingStatus::Unknown => "UNKNOWN",
            ServingStatus::Serving => "SERVING",
            ServingStatus::NotServing => "NOT_SERVING",
            ServingStatus::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Verdict {
    let until = tokio::time::Instant::now() + timeout;
    let address = shown(host, port);
    let channel = match tokio::time::timeout_at(until, connect(host.to_string(), port)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(why)) => {
            return Verdict::Failure(format!("error: failed to connect service at \"{address}\": {why}"));
        }
        Err(_) => {
            return Verdict::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {}: context deadline exceeded",
                api::duration::format(timeout)
            ));
        }
    };
    match tokio::time::timeout_at(until, ask(channel, service)).await {
        Ok(Ok(ServingStatus::Serving)) => Verdict::Success,
        Ok(Ok(other)) => {
            Verdict::Failure(format!("service unhealthy (responded with \"{}\")", other.as_str()))
        }
        Ok(Err(status)) if status.code() == Code::Unimplemented => Verdict::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Ok(Err(status)) => Verdict::Failure(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
        Err(_) => Verdict::Failure(format!(
            "timeout: health rpc did not complete within {}",
            api::duration::format(timeout)
        )),
    }
}

async fn connect(host: String, port: u16) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", shown(&host, port)))
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| error.to_string())?;
    let connector = tower::service_fn(move |_| {
        let host = host.clone();
        async move { dial(&host, port).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        // Its own words say only that it is a transport's error.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source().filter(|_| !cause.is::<super::dial::DialError>()) {
            cause = deeper;
        }
        cause.to_string()
    })
}

async fn ask(channel: Channel, service: &str) -> Result<ServingStatus, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
    let request = tonic::Request::new(HealthCheckRequest { service: service.into() });
    let response = client.unary(request, PathAndQuery::from_static(CHECK), codec).await?;
    Ok(response.into_inner().status())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};
    use hyper::{body::Frame, service::service_fn};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers with this status, or gRPC's own code.
    async fn server(status: i32, code: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), CHECK);
                    let message = HealthCheckResponse { status }.encode_to_vec();
                    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
                    framed.extend(message);
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static(code));
                    let frames = [
                        Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(framed))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    let response = http::Response::builder().header("content-type", "application/grpc");
                    Ok::<_, std::convert::Infallible>(response.body(body).unwrap())
                });
                let executor = hyper_util::rt::TokioExecutor::new();
                let builder = hyper::server::conn::http2::Builder::new(executor);
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        let _unused: Option<Full<Bytes>> = None;
        port
    }

    #[tokio::test]
    async fn only_serving_is_healthy() {
        let second = Duration::from_secs(5);
        let port = server(1, "0").await;
        assert_eq!(check("127.0.0.1", port, "x", second).await, Verdict::Success);
        let port = server(2, "0").await;
        let expected = "service unhealthy (responded with \"NOT_SERVING\")";
        assert_eq!(check("127.0.0.1", port, "", second).await, Verdict::Failure(expected.into()));
        let port = server(0, "12").await;
        let Verdict::Failure(words) = check("127.0.0.1", port, "", second).await else { panic!("it failed") };
        assert!(
            words.starts_with("error: this server does not implement the grpc health protocol"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn a_closed_door_is_told() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let expected = format!(
            "error: failed to connect service at \"127.0.0.1:{port}\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        );
        let found = check("127.0.0.1", port, "", Duration::from_secs(5)).await;
        assert_eq!(found, Verdict::Failure(expected));
    }
}
