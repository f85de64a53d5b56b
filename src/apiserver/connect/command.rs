//! `pods/exec` and `pods/attach`.

use futures_util::future::BoxFuture;
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use streaming::{Wanted, channels, websocket};

use super::{
    dial::Connector,
    location,
    upgrade::{self, Remote, tell},
};
use crate::{
    registry::{Action, ActionContext, ActionRequest, Respond},
    request::Query,
    status::{ApiError, GroupResource},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exec,
    Attach,
}

pub(super) struct Command {
    pub(super) connector: Connector,
    pub(super) kind: Kind,
}

impl Action for Command {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(self.connect(context, request))
    }
}

impl Command {
    async fn connect(
        &self,
        context: &ActionContext,
        mut request: ActionRequest,
    ) -> Result<Respond, ApiError> {
        let info = request.info.clone();
        let pods = GroupResource::new("", "pods");
        let pod = context.objects.get(&pods, &info.namespace, &info.name).await?;
        let container = location::container(&pod, info.query.get("container").unwrap_or_default())?;
        let node = location::node_of(&pod).ok_or_else(|| location::unscheduled(&pod))?;
        let wanted = wanted(&info.query);
        let path = match self.kind {
            Kind::Exec => format!("/exec/{}/{}/{container}", info.namespace, info.name),
            Kind::Attach => format!("/attach/{}/{}/{container}", info.namespace, info.name),
        };
        let path = location::with_query(&path, &pairs(wanted, &info.query));
        let client = upgrade::client(&mut request)?;
        let to = self.connector.endpoint(context, node).await?;
        let headers = &request.parts.headers;
        if upgrade::wants_spdy(headers) {
            return self.connector.splice((&to, &path), headers, client).await.map(Respond::Raw);
        }
        let protocol = protocol(websocket::offered(headers))?;
        let response = websocket::accept(headers, protocol);
        let response = response.ok_or_else(|| ApiError::bad_request("Upgrade request required"))?;
        let protocols = [HeaderValue::from_static(channels::V4)];
        let remote = match self.connector.spdy(&to, &path, &protocols).await? {
            Remote::Refused(response) => return Ok(Respond::Raw(response)),
            Remote::Switched(_, remote) => remote,
        };
        self.connector.run("command", async move {
            let ended = match client.await {
                Ok(client) => {
                    let socket = websocket::server(TokioIo::new(client)).await;
                    streaming::translate(socket, remote, wanted).await
                }
                Err(error) => Err(std::io::Error::other(error)),
            };
            tell("command", ended);
        });
        Ok(Respond::Raw(response))
    }
}

/// The best that both know. With `v4`, a client cannot end its stdin.
pub(super) fn protocol<'a>(offered: impl Iterator<Item = &'a str>) -> Result<&'static str, ApiError> {
    let offered: Vec<&str> = offered.collect();
    [channels::V5, channels::V4].into_iter().find(|known| offered.contains(known)).ok_or_else(|| {
        let known = [channels::V5, channels::V4].join(", ");
        ApiError::bad_request(format!("unable to upgrade: none of the subprotocols is one of {known}"))
    })
}

pub(super) fn wanted(query: &Query) -> Wanted {
    let on = |key| query.flag(key);
    Wanted { stdin: on("stdin"), stdout: on("stdout"), stderr: on("stderr"), tty: on("tty") }
}

/// As kubelets take them.
pub(super) fn pairs(wanted: Wanted, query: &Query) -> Vec<(&'static str, String)> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let flags = [("input", stdin), ("output", stdout), ("error", stderr), ("tty", tty)];
    let set = flags.into_iter().filter(|(_, on)| *on).map(|(key, _)| (key, "1".to_owned()));
    set.chain(query.all("command").map(|word| ("command", word.to_owned()))).collect()
}
