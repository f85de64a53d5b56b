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
            settle(services.create(&params, &service).await, CREATED).map_err(PublishError::CreateService)
        }
        Step::CreateSlice(slice) => {
            settle(slices.create(&params, &slice).await, CREATED).map_err(PublishError::WriteSlice)
        }
        Step::ReplaceSlice(slice) => {
            settle(slices.replace(SLICE, &params, &slice).await, CHANGED).map_err(PublishError::WriteSlice)
        }
        Step::DeleteSlice => settle(slices.delete(SLICE, &DeleteParams::default()).await, CHANGED)
            .map_err(PublishError::DeleteSlice),
    }
}

/// Somebody was first: the cache will say so, and the next pass sees what is there. What is not found by whoever creates is
/// the namespace, and no cache of ours tells when it comes.
const CREATED: &[ErrorKind] = &[ErrorKind::AlreadyExists];
const CHANGED: &[ErrorKind] = &[ErrorKind::Conflict, ErrorKind::NotFound];

fn settle<T>(result: Result<T, kube::Error>, settled: &[ErrorKind]) -> Result<(), kube::Error> {
    match result {
        Err(error) if !settled.contains(&kind_of(&error)) => Err(error),
        _ => Ok(()),
    }
}
