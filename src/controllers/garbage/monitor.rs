//! Which resources are watched: all that can be listed, watched and deleted, as discovery tells them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use client::{Client, WorkQueue, reflect_metadata};
use lifecycle::Scope;
use tracing::{info, warn};

use super::graph::{Graph, Part, Place, Vertex};
use crate::{
    resources::{Discovered, ResourceType, discover},
    work,
};

/// How often discovery is asked for resources that came or went, as upstream's.
const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);

/// Owned by nobody and many.
const IGNORED: &[&str] = &["events", "events.events.k8s.io"];

pub(super) struct Monitors {
    client: Client,
    graph: Graph,
    queue: WorkQueue<Place>,
    scope: Scope,
    running: HashMap<Arc<str>, (String, Scope)>,
}

impl Monitors {
    pub(super) fn new(client: Client, graph: Graph, queue: WorkQueue<Place>, scope: Scope) -> Self {
        Self { client, graph, queue, scope, running: HashMap::new() }
    }

    /// Follows discovery until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let wait = match discover(&self.client).await {
                Ok(discovered) => {
                    self.follow(discovered);
                    INTERVAL
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "discovery failed");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn follow(&mut self, discovered: Discovered) {
        let wanted = |found: &ResourceType| {
            found.allows(&["list", "watch", "delete"]) && !IGNORED.contains(&found.name().as_str())
        };
        let wanted: HashMap<Arc<str>, ResourceType> = discovered
            .types
            .into_iter()
            .filter(wanted)
            .map(|found| (Arc::from(found.name()), found))
            .collect();
        // A group whose server is away is unknown, not gone: nothing stops while one is.
        if discovered.stale.is_empty() {
            let gone: Vec<Arc<str>> = self
                .running
                .iter()
                .filter(|(name, (version, _))| {
                    wanted.get(*name).is_none_or(|found| found.resource.api_version != *version)
                })
                .map(|(name, _)| Arc::clone(name))
                .collect();
            for name in gone {
                self.stop(&name);
            }
        }
        for (name, found) in wanted {
            if !self.running.contains_key(&name) {
                self.start(name, found);
            }
        }
    }

    fn start(&mut self, name: Arc<str>, found: ResourceType) {
        let scope = self.scope.child("monitor");
        let store = reflect_metadata(&self.client, &found.resource, &scope, Vertex::of);
        let version = found.resource.api_version.clone();
        let part = Part::new(found, store.clone());
        let kin = store.changes_by(|key, vertex: &Vertex| {
            let owners = vertex.owners.iter().map(|owner| owner.uid.clone()).collect();
            vec![Kin { key: key.clone(), uid: vertex.uid.clone(), owners }]
        });
        // In the graph before its first change is told.
        self.graph.insert(Arc::clone(&name), part);
        let (graph, resource) = (self.graph.clone(), Arc::clone(&name));
        work::feed(&scope, &self.queue, kin, move |kin| kin.places(&resource, &graph));
        self.running.insert(name, (version, scope));
    }

    fn stop(&mut self, name: &Arc<str>) {
        info!(resource = %name, "resource is not served any more");
        if let Some((_, scope)) = self.running.remove(name) {
            scope.cancel();
        }
        self.graph.remove(name);
    }
}

/// An object that changed, and whom that concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kin {
    key: client::ObjectKey,
    uid: String,
    owners: Vec<String>,
}

impl Kin {
    /// The object; its dependents, since it may be going or gone; its owners, if they wait for it.
    fn places(&self, resource: &Arc<str>, graph: &Graph) -> Vec<Place> {
        let mut places = vec![Place { resource: Arc::clone(resource), key: self.key.clone() }];
        let gone_or_going =
            graph.get(&places[0]).is_none_or(|vertex| vertex.uid != self.uid || vertex.deleting);
        if gone_or_going {
            places.extend(graph.dependents(&self.uid).into_iter().map(|(place, _)| place));
        }
        let owners = self.owners.iter().filter_map(|uid| graph.by_uid(uid));
        places.extend(owners.filter(|(_, owner)| owner.waits()).map(|(place, _)| place));
        places
    }
}
