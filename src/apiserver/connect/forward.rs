//! `pods/portforward`.

use futures_util::future::BoxFuture;
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use streaming::websocket;

use super::{
    dial::Connector,
    location,
    upgrade::{self, Remote, tell},
};
use crate::{
    registry::{Action, ActionContext, ActionRequest, Respond},
    status::{ApiError, GroupResource},
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
    async fn connect(
        &self,
        context: &ActionContext,
        mut request: ActionRequest,
    ) -> Result<Respond, ApiError> {
        let info = request.info.clone();
        let pods = GroupResource::new("", "pods");
        let pod = context.objects.get(&pods, &info.namespace, &info.name).await?;
        let node = location::node_of(&pod).ok_or_else(|| location::unscheduled(&pod))?;
        let ports: Vec<&str> = info.query.all("ports").collect();
        let pairs = (!ports.is_empty()).then(|| ("port", ports.join(",")));
        let path = format!("/portForward/{}/{}", info.namespace, info.name);
        let path = location::with_query(&path, pairs.as_slice());
        let client = upgrade::client(&mut request)?;
        let to = self.0.endpoint(context, node).await?;
        let headers = &request.parts.headers;
        if upgrade::wants_spdy(headers) {
            return self.0.splice((&to, &path), headers, client).await.map(Respond::Raw);
        }
        if !websocket::offered(headers).any(|offered| offered == TUNNEL) {
            let message = format!("unable to upgrade: the subprotocol is not {TUNNEL}");
            return Err(ApiError::bad_request(message));
        }
        let response = websocket::accept(headers, TUNNEL);
        let response = response.ok_or_else(|| ApiError::bad_request("Upgrade request required"))?;
        let remote = match self.0.spdy(&to, &path, &[HeaderValue::from_static(STREAMS)]).await? {
            Remote::Refused(response) => return Ok(Respond::Raw(response)),
            Remote::Switched(_, remote) => remote,
        };
        self.0.run("port-forward", async move {
            let ended = match client.await {
                Ok(client) => streaming::tunnel(websocket::server(TokioIo::new(client)).await, remote).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            tell("port-forward", ended);
        });
        Ok(Respond::Raw(response))
    }
}
