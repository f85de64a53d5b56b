//! The loop over signing requests.

use std::{sync::Arc, time::Duration};

use api::references::object_reference;
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Store, WorkQueue, kind_of};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
        },
        core::v1::{Node, ObjectReference},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use lifecycle::Scope;
use pki::{Request, SigningPolicy, Usages, life};
use tracing::{debug, info};

use super::plan::{FAILED, Step, names_are_of, plan};
use crate::{
    ClientFor, Config,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

/// How soon a request is held against its node again.
const NODE_MAY_FOLLOW: Duration = Duration::from_secs(5);

struct Requests {
    config: Arc<Config>,
    client: Client,
    requests: Store<CertificateSigningRequest>,
    nodes: Store<Node>,
}

pub(crate) fn start(config: &Arc<Config>, clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::CERTIFICATES);
    let recorder = Recorder::new(client.clone(), names::CERTIFICATES, None, scope);
    let requests = cache.store::<CertificateSigningRequest>();
    let queue = WorkQueue::default();
    work::feed(scope, &queue, requests.changes(), itself);
    let nodes = cache.store::<Node>();
    let reconciler = Arc::new(Requests { config: Arc::clone(config), client, requests, nodes });
    work::start(scope, &reconciler, &queue, 1, &recorder);
}

impl Reconciler for Requests {
    type Key = ObjectKey;
    const NAME: &'static str = names::CERTIFICATES;

    async fn ready(&self) {
        self.requests.wait_synced().await;
        self.nodes.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.requests.get(key).map(|csr| object_reference::<CertificateSigningRequest>(&csr.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(csr) = self.requests.get(key) else { return Ok(Next::OnChange) };
        match plan(&csr, self.config.signer.is_some(), Timestamp::now()) {
            Step::Keep(wait) => Ok(Next::After(wait)),
            Step::Delete => self.delete(key).await,
            Step::ApproveIfAllowed { subresource, message } => {
                if self.may_create(&csr, subresource).await? {
                    self.approve(&csr, message).await?;
                } else {
                    debug!(csr = %key, subresource, "requestor may not approve itself");
                }
                Ok(Next::OnChange)
            }
            Step::ApproveForNode(request) => {
                let node = request.common_name.trim_start_matches("system:node:");
                match self.nodes.get(&ObjectKey::cluster(node)) {
                    Some(node) if names_are_of(&node, &request) => {
                        let message = "The names and addresses are the node's own.";
                        self.approve(&csr, message).await?;
                        Ok(Next::OnChange)
                    }
                    _ => {
                        debug!(csr = %key, node, "names of the serving certificate are not the node's");
                        // The node may have told its addresses just before: its watch is another one than this.
                        Ok(Next::After(NODE_MAY_FOLLOW))
                    }
                }
            }
            Step::Sign(request) => self.sign(&csr, &request).await,
            Step::Fail(why) => {
                let mut status = csr.status.clone().unwrap_or_default();
                add(&mut status, FAILED, "SignerValidationFailure", &why);
                self.publish(&csr, status).await
            }
        }
    }
}

impl Requests {
    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    async fn may_create(
        &self,
        csr: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, PassError> {
        let spec = &csr.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                groups: spec.groups.clone(),
                uid: spec.uid.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    verb: Some("create".into()),
                    subresource: Some(subresource.into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        let answer = api.create(&PostParams::default(), &review).await.during("review access for", name)?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> Result<(), PassError> {
        let mut approved = csr.clone();
        add(approved.status.get_or_insert_default(), "Approved", "AutoApproved", message);
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams::default();
        let written = self.api().replace_subresource("approval", name, &params, &approved).await;
        match written {
            Ok(_) => {
                info!(csr = name, "certificate signing request approved");
                Ok(())
            }
            // Upstream's API server lets this controller approve no serving certificates: a person does.
            Err(error) if kind_of(&error) == ErrorKind::Forbidden => {
                info!(csr = name, "approval is left to an administrator");
                Ok(())
            }
            Err(error) => Err(error).during("approve", name),
        }
    }

    async fn sign(&self, csr: &CertificateSigningRequest, request: &Request) -> Result<Next, PassError> {
        let Some(authority) = &self.config.signer else { return Ok(Next::OnChange) };
        let name = csr.metadata.name.clone().unwrap_or_default();
        let usages = Usages::from_names(csr.spec.usages.as_deref().unwrap_or_default())
            .map_err(|source| PassError::Usages { what: name.clone(), source })?;
        let policy = SigningPolicy {
            usages,
            life: life(csr.spec.expiration_seconds, self.config.signing_duration),
            now: Timestamp::now(),
        };
        let certificate = authority
            .sign(request, &policy)
            .map_err(|source| PassError::Sign { what: name.clone(), source })?;
        let mut status = csr.status.clone().unwrap_or_default();
        status.certificate = Some(ByteString(certificate.to_pem().into_bytes()));
        info!(csr = name, "certificate signed");
        self.publish(csr, status).await
    }

    async fn publish(
        &self,
        csr: &CertificateSigningRequest,
        status: CertificateSigningRequestStatus,
    ) -> Result<Next, PassError> {
        let name = csr.metadata.name.as_deref().unwrap_or_default();
        let next = CertificateSigningRequest { status: Some(status), ..csr.clone() };
        self.api()
            .replace_status(name, &PostParams::default(), &next)
            .await
            .during("write status of", name)?;
        Ok(Next::OnChange)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<Next, PassError> {
        match self.api().delete(&key.name, &DeleteParams::default()).await {
            Err(error) if kind_of(&error) != ErrorKind::NotFound => Err(error).during("delete", key),
            _ => Ok(Next::OnChange),
        }
    }
}

fn add(status: &mut CertificateSigningRequestStatus, type_: &str, reason: &str, message: &str) {
    let now = Time(Timestamp::now());
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: type_.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    });
}
