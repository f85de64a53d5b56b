//! `/containerLogs`: what a container has written, from the runtime's log file.

mod choose;
mod follow;
mod line;
mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::stream;
use http::{Response, StatusCode};

use self::{
    follow::{LogStream, Writing},
    options::LogOptions,
};
use super::{Body, Server, host::runtime_uid, query::Query, routes};
use crate::{pods, runtime::ContainerId};

pub(super) async fn answer(
    server: &Server,
    (namespace, name, container): (&str, &str, &str),
    query: &Query,
) -> Response<Body> {
    let options = match LogOptions::read(query, jiff::Timestamp::now()) {
        Ok(options) => options,
        Err(invalid) => return routes::text(invalid.code(), invalid.words()),
    };
    let Some(pod) = server.host.pod(namespace, name) else {
        return routes::text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"));
    };
    if !choose::has_container(&pod, container) {
        let words = format!("container {container:?} not found in pod {name:?}");
        return routes::text(StatusCode::NOT_FOUND, words);
    }
    let uid = runtime_uid(&pod);
    let observation = match server.host.observe(&uid).await {
        Ok(observation) => observation,
        Err(error) => return routes::text(StatusCode::INTERNAL_SERVER_ERROR, error.shown()),
    };
    let chosen = match choose::choose(&pod, &observation, container, options.previous) {
        Ok(chosen) => chosen,
        Err(words) => return routes::text(StatusCode::BAD_REQUEST, words),
    };
    let path = chosen.log_path.clone();
    let writing = writing(server, uid, chosen.id.clone());
    match LogStream::open(&path, options, writing).await {
        Ok(log) => routes::streaming(stream::try_unfold(log, |mut log| async move {
            Ok(log.next().await?.map(|bytes| (bytes, log)))
        })),
        Err(error) => {
            let words = format!("failed to open log file {:?}: {error}", path.display().to_string());
            routes::text(StatusCode::BAD_REQUEST, words)
        }
    }
}

/// Does this container still run, as far as anybody knows?
fn writing(server: &Server, uid: pods::PodUid, id: ContainerId) -> Writing {
    let host = Arc::clone(&server.host);
    Box::new(move || {
        let (host, uid, id) = (Arc::clone(&host), uid.clone(), id.clone());
        Box::pin(async move {
            match host.observe(&uid).await {
                // An unknown is not an end.
                Err(_) => true,
                Ok(seen) => seen.running().any(|container| container.id == id),
            }
        })
    })
}
