//! Writes the Service and its slice, as a user of our own.

use client::{Client, ErrorKind, kind_of};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};

use super::{NAMESPACE, SLICE, plan::Step};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("create the Service {NAMESPACE}/kube-dns")]
    CreateService(#[source] kube::Error),
    #[error("write the EndpointSlice {NAMESPACE}/{SLICE}")]
    WriteSlice(#[source] kube::Error),
    #[error("delete the EndpointSlice {NAMESPACE}/{SLICE}")]
    DeleteSlice(#[source] kube::Error),
}

pub(super) async fn apply(client: &Client, step: Step) -> Result<(), PublishError> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    let params = PostParams::default();
    match step {
        Step::CreateService(service) => {
            let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
            unless_settled(services.create(&params, &service).await).map_err(PublishError::CreateService)
        }
        Step::CreateSlice(slice) => {
            unless_settled(slices.create(&params, &slice).await).map_err(PublishError::WriteSlice)
        }
        Step::ReplaceSlice(slice) => {
            unless_settled(slices.replace(SLICE, &params, &slice).await).map_err(PublishError::WriteSlice)
        }
        Step::DeleteSlice => unless_settled(slices.delete(SLICE, &DeleteParams::default()).await)
            .map_err(PublishError::DeleteSlice),
    }
}

/// Somebody was first: the cache will say so, and the next pass sees what is there.
fn unless_settled<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match kind_of(&error) {
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        },
    }
}
