//! Whether the node may read what its parts need: told in plain words, with the command that mends it.

use std::time::Duration;

use client::{Client, ErrorKind, kind_of};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use tracing::{info, warn};

/// Of which the Service rules and the routes to other nodes are made.
const NEEDED: [(&str, &str); 3] = [("", "services"), ("discovery.k8s.io", "endpointslices"), ("", "nodes")];
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const MEND: &str = "kubectl create clusterrolebinding coracle:node-proxier --clusterrole=system:node-proxier --group=system:nodes";

/// What the node may not list and watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking(pub Vec<&'static str>);

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "this node may not watch {}, so there are no rules of Services and no routes to other nodes' pods here; an administrator \
             of the cluster allows it with: {MEND}",
            self.0.join(", ")
        )
    }
}

/// Tells what the node may not do, until it may, or `scope` is cancelled.
pub async fn watch_access(client: Client, scope: Scope) {
    let mut told = None;
    loop {
        let lacking = tokio::select! {
            () = scope.cancelled() => return,
            lacking = look(&client) => lacking,
        };
        match lacking {
            Ok(None) => {
                if told.is_some() {
                    info!("this node may now watch everything that it needs");
                }
                return;
            }
            Ok(Some(lacking)) if told.as_ref() != Some(&lacking) => {
                warn!("{lacking}");
                told = Some(lacking);
            }
            Ok(Some(_)) => {}
            // The server is away, or does not know the review: the watches themselves tell.
            Err(error) if kind_of(&error) == ErrorKind::Unavailable => {}
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot ask what this node may do");
                return;
            }
        }
        tokio::select! {
            () = scope.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn look(client: &Client) -> Result<Option<Lacking>, kube::Error> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for (group, resource) in NEEDED {
        for verb in ["list", "watch"] {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.to_owned()),
                        resource: Some(resource.to_owned()),
                        verb: Some(verb.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = api.create(&PostParams::default(), &review).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                lacking.push(resource);
                break;
            }
        }
    }
    Ok((!lacking.is_empty()).then_some(Lacking(lacking)))
}
