//! `pods/exec` and `pods/attach`.

use futures_util::future::BoxFuture;
use http::HeaderMap;
use streaming::{
    Wanted,
    channels::{self, Protocol},
    websocket,
};

use super::{
    dial::{self, Connector},
    location,
    upgrade::Stream,
};
use crate::{
    registry::{Action, ActionContext, ActionRequest, Respond},
    request::Query,
    status::ApiError,
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
    async fn connect(&self, context: &ActionContext, request: ActionRequest) -> Result<Respond, ApiError> {
        let info = &request.info;
        let pod = dial::pod(context, info).await?;
        let container = location::container(&pod, info.query.get("container").unwrap_or_default())?;
        let node = location::node(&pod)?.to_owned();
        let wanted = wanted(&info.query);
        let path = match self.kind {
            Kind::Exec => format!("/exec/{}/{}/{container}", info.namespace, info.name),
            Kind::Attach => format!("/attach/{}/{}/{container}", info.namespace, info.name),
        };
        let path = location::with_query(&path, &pairs(wanted, &info.query));
        let stream = Stream { name: "command", node, path, protocol: channels::V4 };
        let choose = |headers: &HeaderMap| {
            let chosen = protocol(websocket::offered(headers))?;
            Ok((chosen.name, chosen))
        };
        let relay = move |socket, remote, chosen| streaming::translate(socket, remote, wanted, chosen);
        self.connector.bridge(context, request, stream, choose, relay).await
    }
}

/// The best that both know.
pub(super) fn protocol<'a>(offered: impl Iterator<Item = &'a str>) -> Result<Protocol, ApiError> {
    Protocol::choose(offered).ok_or_else(|| {
        let names = Protocol::ALL.map(|known| known.name);
        let known = names.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ");
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
