//! Which resources the API server has: what the garbage collector watches and a namespace's end removes.

use std::collections::HashSet;

use client::Client;
use kube::{client::APIGroupDiscoveryList, core::ApiResource};

/// One kind of object, in the version that is served first.
#[derive(Clone, Debug)]
pub(crate) struct ResourceType {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    verbs: HashSet<String>,
}

impl ResourceType {
    pub(crate) fn allows(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    /// `pods`, `deployments.apps`: how messages name it.
    pub(crate) fn name(&self) -> String {
        if self.resource.group.is_empty() {
            self.resource.plural.clone()
        } else {
            format!("{}.{}", self.resource.plural, self.resource.group)
        }
    }
}

/// What was found, and the group versions whose server does not answer: their resources are unknown, not absent.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) types: Vec<ResourceType>,
    pub(crate) stale: Vec<String>,
}

pub(crate) async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let core = client.list_core_api_versions_aggregated().await?;
    let groups = client.list_api_groups_aggregated().await?;
    let mut discovered = Discovered::default();
    read(core, &mut discovered);
    read(groups, &mut discovered);
    Ok(discovered)
}

fn read(list: APIGroupDiscoveryList, discovered: &mut Discovered) {
    for group in list.items {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let mut seen = HashSet::new();
        // Versions come in order of preference: the first that has a resource is used.
        for version in group.versions {
            let group_version = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some("Stale") {
                discovered.stale.push(format!("{name}/{group_version}"));
                continue;
            }
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                if !seen.insert(plural.clone()) {
                    continue;
                }
                let kind = resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
                discovered.types.push(ResourceType {
                    resource: ApiResource {
                        api_version: if name.is_empty() {
                            group_version.clone()
                        } else {
                            format!("{name}/{group_version}")
                        },
                        group: name.clone(),
                        version: group_version.clone(),
                        kind,
                        plural,
                    },
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs.into_iter().collect(),
                });
            }
        }
    }
}
