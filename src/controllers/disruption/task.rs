//! The loop over PodDisruptionBudgets.

use std::{collections::BTreeMap, sync::Arc};

use api::{references::object_reference, selector::Selector};
use client::{Cache, Client, ErrorKind, EventType, ObjectKey, Recorder, Store, WorkQueue, kind_of};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, PodTemplateSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;

use super::{
    plan::{self, Observed, Plan},
    scales::{Failure, Scales, owners},
    stale::{self, Stale},
};
use crate::{
    ClientFor,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

const WORKERS: usize = 5;

struct Budgets {
    client: Client,
    recorder: Recorder,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    scales: Scales,
}

/// What was found out about one budget.
struct Found {
    pods: Vec<Arc<Pod>>,
    /// Pods that a budget of shares cannot take into account.
    unmanaged: usize,
    plan: Plan,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::DISRUPTION);
    let recorder = Recorder::new(client.clone(), names::DISRUPTION, None, scope);
    let budgets = cache.store::<PodDisruptionBudget>();
    let pods = cache.store::<Pod>();
    let scales = Scales::new(client.clone(), cache);

    let queue = WorkQueue::default();
    work::feed(scope, &queue, budgets.changes(), itself);
    // A workload's size counts, and it may be seen after its pods.
    for changes in [
        pods.changes_by(|_, pod| vec![Labelled::of(&pod.metadata, pod.metadata.labels.as_ref())]),
        scales.sets.changes_by(|_, set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.map(|template| Labelled::made(&set.metadata, template)).into_iter().collect()
        }),
        scales.deployments.changes_by(|_, deployment| {
            let template = deployment.spec.as_ref().map(|spec| &spec.template);
            template.map(|template| Labelled::made(&deployment.metadata, template)).into_iter().collect()
        }),
        scales.controllers.changes_by(|_, controller| {
            let template = controller.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.map(|template| Labelled::made(&controller.metadata, template)).into_iter().collect()
        }),
    ] {
        let all = budgets.clone();
        work::feed(scope, &queue, changes, move |whose: Labelled| {
            whose.covered_by(&all.list_in(&whose.namespace))
        });
    }
    let told = WorkQueue::default();
    let concerned =
        |key: &ObjectKey, pod: &Pod| stale::concerns(pod).then(|| key.clone()).into_iter().collect();
    work::feed(scope, &told, pods.changes_by(concerned), itself);

    let stale = Arc::new(Stale { client: client.clone(), pods: pods.clone() });
    work::start(scope, &stale, &told, 1, &recorder);
    let reconciler = Arc::new(Budgets { client, recorder: recorder.clone(), budgets, pods, scales });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

/// What decides which budgets cover a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labelled {
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Labelled {
    fn of(meta: &ObjectMeta, labels: Option<&BTreeMap<String, String>>) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            labels: labels.cloned().unwrap_or_default(),
        }
    }

    /// As the pods that `workload` makes.
    fn made(workload: &ObjectMeta, template: &PodTemplateSpec) -> Self {
        Self::of(workload, template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()))
    }

    /// Those of `budgets`, which are of its namespace, that select it.
    fn covered_by(&self, budgets: &[Arc<PodDisruptionBudget>]) -> Vec<ObjectKey> {
        let covers = |budget: &&Arc<PodDisruptionBudget>| {
            selector(budget).is_ok_and(|selector| selector.matches(&self.labels))
        };
        budgets.iter().filter(covers).map(|budget| ObjectKey::of(&budget.metadata)).collect()
    }
}

/// None selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Result<Selector, Failure> {
    Selector::of_object(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
        .map_err(Failure::Selector)
}

impl Reconciler for Budgets {
    type Key = ObjectKey;
    const NAME: &'static str = names::DISRUPTION;

    async fn ready(&self) {
        self.budgets.wait_synced().await;
        self.pods.wait_synced().await;
        self.scales.ready().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.budgets.get(key).map(|budget| object_reference::<PodDisruptionBudget>(&budget.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::OnChange) };
        let now = Timestamp::now();
        match self.look(key, &budget, now).await {
            Ok(found) => {
                if self.publish(key, &budget, &found.plan.status).await? {
                    self.tell(key, &budget, &found);
                }
                Ok(found.plan.again.map_or(Next::OnChange, Next::After))
            }
            Err(failure) => self.fail(key, &budget, failure, now).await,
        }
    }
}

impl Budgets {
    async fn look(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        now: Timestamp,
    ) -> Result<Found, Failure> {
        let selector = selector(budget)?;
        let mut pods = self.pods.list_in(key.namespace());
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        let (mut scale, mut unmanaged) = (0, 0);
        if plan::needs_scale(budget) {
            let (owners, nobodys) = owners(&pods);
            scale = self.scales.sum(key.namespace(), &owners).await?;
            unmanaged = nobodys;
        }
        let plan = plan::plan(&Observed { budget, pods: &pods, scale }, now).map_err(Failure::Number)?;
        Ok(Found { pods, unmanaged, plan })
    }

    /// Writes the status at the version that was observed: an eviction that the API server allowed meanwhile makes
    /// it fail. False: the budget says it already.
    async fn publish(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        status: &PodDisruptionBudgetStatus,
    ) -> Result<bool, PassError> {
        if budget.status.as_ref().is_some_and(|shown| plan::same(shown, status)) {
            return Ok(false);
        }
        let next = PodDisruptionBudget { status: Some(status.clone()), ..budget.clone() };
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), key.namespace());
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(_) => Ok(true),
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).during("write status of", format!("pod disruption budget {key}")),
        }
    }

    /// Nothing may be evicted while nothing is known. What the API server failed at is tried again; the rest waits
    /// for a change.
    async fn fail(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        failure: Failure,
        now: Timestamp,
    ) -> Result<Next, PassError> {
        let status = plan::failed(budget, &failure.to_string(), now);
        if self.publish(key, budget, &status).await? {
            let about = object_reference::<PodDisruptionBudget>(&budget.metadata);
            let (reason, note) = match &failure {
                Failure::Selector(_) => ("NoPods", format!("Failed to get pods: {failure}")),
                _ => (
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {failure}"),
                ),
            };
            self.recorder.event(&about, EventType::Warning, reason, "", note);
        }
        match failure {
            Failure::Api { verb, what, cause } => Err(PassError::Api { verb, what, source: cause }),
            _ => Ok(Next::OnChange),
        }
    }

    /// Once for each status that is new, so that a busy budget does not repeat itself.
    fn tell(&self, key: &ObjectKey, budget: &PodDisruptionBudget, found: &Found) {
        let about = object_reference::<PodDisruptionBudget>(&budget.metadata);
        if found.pods.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "", "No matching pods found");
        }
        if found.unmanaged > 0 {
            let note = format!(
                "{} of the selected pods have no controller: maxUnavailable and percentages cannot take them into \
                 account. Set spec.minAvailable to an integer to protect them.",
                found.unmanaged
            );
            self.recorder.event(&about, EventType::Warning, "UnmanagedPods", "", note);
        }
        for pod in &found.plan.not_deleted {
            let about = object_reference::<Pod>(&pod.metadata);
            let note = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.event(&about, EventType::Warning, "NotDeleted", "", note);
        }
        self.tell_of_overlaps(key, found);
    }

    /// An eviction of a pod with several budgets is refused: the first of them says so.
    fn tell_of_overlaps(&self, key: &ObjectKey, found: &Found) {
        let budgets = self.budgets.list_in(key.namespace());
        if budgets.len() < 2 {
            return;
        }
        for pod in &found.pods {
            let covering = Labelled::of(&pod.metadata, pod.metadata.labels.as_ref()).covered_by(&budgets);
            if covering.len() > 1 && covering.first() == Some(key) {
                let about = object_reference::<Pod>(&pod.metadata);
                let names: Vec<&str> = covering.iter().map(|key| &*key.name).collect();
                let note = format!("Pod cannot be evicted: it has several budgets ({})", names.join(", "));
                self.recorder.event(&about, EventType::Warning, "MultiplePodDisruptionBudgets", "", note);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn budget(name: &str, selector: Value) -> Arc<PodDisruptionBudget> {
        let budget = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"selector": selector}});
        Arc::new(serde_json::from_value(budget).unwrap())
    }

    #[test]
    fn an_empty_selector_covers_everything_and_none_nothing() {
        let budgets = [
            budget("all", json!({})),
            budget("none", Value::Null),
            budget("other", json!({"matchLabels": {"app": "db"}})),
            budget("web", json!({"matchLabels": {"app": "web"}})),
        ];
        let covering = |labels: Value| {
            let whose = Labelled { namespace: "d".into(), labels: serde_json::from_value(labels).unwrap() };
            let keys = whose.covered_by(&budgets);
            keys.into_iter().map(|key| key.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(covering(json!({"app": "web"})), ["all", "web"]);
        assert_eq!(covering(json!({})), ["all"]);
    }
}
