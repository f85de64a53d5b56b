//! What happened to containers, as it happens: the CRI's own stream, or containerd's where the CRI has none.

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost::Message;
use proto::{
    containerd_events::{
        ContainerRef, Envelope, SubscribeRequest, TaskExit, TaskRef, events_client::EventsClient,
    },
    cri,
};
use tonic::transport::Channel;

use super::{labels, model::RuntimeEvent};

/// containerd's stream, for the namespace that the CRI plugin works in.
pub(super) async fn of_containerd(
    channel: Channel,
) -> Result<BoxStream<'static, RuntimeEvent>, tonic::Status> {
    // Filters of one request are alternatives; each is a conjunction.
    let filters = ["/tasks/start", "/tasks/exit", "/tasks/oom", "/containers/delete"]
        .map(|topic| format!("namespace==k8s.io,topic==\"{topic}\""));
    let request = SubscribeRequest { filters: filters.to_vec() };
    let messages = EventsClient::new(channel).subscribe(request).await?.into_inner();
    Ok(until_error(messages).filter_map(async |envelope| from_containerd(&envelope)).boxed())
}

fn from_containerd(envelope: &Envelope) -> Option<RuntimeEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let container = match envelope.topic.as_str() {
        "/tasks/exit" => {
            let exit = TaskExit::decode(bytes).ok()?;
            // An exec ended, not the container.
            if exit.id != exit.container_id {
                return None;
            }
            exit.container_id
        }
        "/containers/delete" => ContainerRef::decode(bytes).ok()?.id,
        _ => TaskRef::decode(bytes).ok()?.container_id,
    };
    let exited = envelope.topic == "/tasks/exit";
    Some(RuntimeEvent { pod: None, container, exited })
}

pub(super) fn of_cri(
    messages: tonic::Streaming<cri::ContainerEventResponse>,
) -> BoxStream<'static, RuntimeEvent> {
    until_error(messages)
        .map(|event| RuntimeEvent {
            pod: event
                .pod_sandbox_status
                .as_ref()
                .and_then(|sandbox| labels::pod_of(&sandbox.labels))
                .map(|(uid, _)| uid),
            exited: event.container_event_type() == cri::ContainerEventType::ContainerStoppedEvent,
            container: event.container_id,
        })
        .boxed()
}

/// A broken stream ends; whoever reads it subscribes again and looks at everything once.
fn until_error<T: Send + 'static>(messages: tonic::Streaming<T>) -> impl stream::Stream<Item = T> + Send {
    messages
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(async |message| message.ok())
}
