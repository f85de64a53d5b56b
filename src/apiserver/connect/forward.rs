//! `pods/portforward`.

use futures_util::future::BoxFuture;
use http::HeaderMap;
use streaming::websocket;

use super::{
    dial::{self, Connector},
    location,
    upgrade::Stream,
};
use crate::{
    registry::{Action, ActionContext, ActionRequest, Respond},
    status::ApiError,
};

/// SPDY in the binary messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const STREAMS: &str = "portforward.k8s.io";

pub(super) struct PortForward(pub(super) Connector);

impl Action for PortForward {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(self.connect(context, request))
    }
}

impl PortForward {
    async fn connect(&self, context: &ActionContext, request: ActionRequest) -> Result<Respond, ApiError> {
        let info = &request.info;
        let pod = dial::pod(context, info).await?;
        let node = location::node(&pod)?.to_owned();
        let ports: Vec<&str> = info.query.all("ports").collect();
        let pairs = (!ports.is_empty()).then(|| ("port", ports.join(",")));
        let path = format!("/portForward/{}/{}", info.namespace, info.name);
        let path = location::with_query(&path, pairs.as_slice());
        let stream = Stream { name: "port-forward", node, path, protocol: STREAMS };
        let relay = |socket, remote, ()| streaming::tunnel(socket, remote);
        self.0.bridge(context, request, stream, protocol, relay).await
    }
}

fn protocol(headers: &HeaderMap) -> Result<(&'static str, ()), ApiError> {
    let tunnels = websocket::offered(headers).any(|offered| offered == TUNNEL);
    let refusal = || ApiError::bad_request(format!("unable to upgrade: the subprotocol is not {TUNNEL}"));
    tunnels.then_some((TUNNEL, ())).ok_or_else(refusal)
}
