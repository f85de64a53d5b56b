//! Reads from the API what a person wants on one screen.

use k8s_openapi::api::{apps::v1::Deployment, core::v1, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams};

use super::plan::Observed;
use crate::CommandError;

/// # Errors
/// When the API server cannot be asked.
pub async fn observe(client: &Client) -> Result<Observed, CommandError> {
    let (nodes, pods, services, slices, deployments, warnings) = tokio::try_join!(
        list::<v1::Node>(client, "nodes"),
        list::<v1::Pod>(client, "pods"),
        list::<v1::Service>(client, "services"),
        list::<EndpointSlice>(client, "endpointslices"),
        list::<Deployment>(client, "deployments"),
        list_of::<v1::Event>(client, "events", ListParams::default().fields("type=Warning")),
    )?;
    let version =
        client.apiserver_version().await.map_err(CommandError::api("tell its version"))?.git_version;
    Ok(Observed { version, nodes, pods, services, slices, deployments, warnings })
}

async fn list<K>(client: &Client, what: &str) -> Result<Vec<K>, CommandError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    list_of(client, what, ListParams::default()).await
}

async fn list_of<K>(client: &Client, what: &str, which: ListParams) -> Result<Vec<K>, CommandError>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.list(&which).await.map_err(CommandError::api(format!("list {what}")))?;
    Ok(found.items)
}
