//! The labels, annotations, taints and words that are part of the API.

pub mod label {
    pub const HOSTNAME: &str = "kubernetes.io/hostname";
    pub const OS: &str = "kubernetes.io/os";
    pub const ARCH: &str = "kubernetes.io/arch";
    pub const OS_BETA: &str = "beta.kubernetes.io/os";
    pub const ARCH_BETA: &str = "beta.kubernetes.io/arch";
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    pub const REGION: &str = "topology.kubernetes.io/region";
    pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
    pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
    pub const EXCLUDE_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
    pub const HEADLESS: &str = "service.kubernetes.io/headless";
    pub const ENDPOINT_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
    pub const CONTROLLER_REVISION_HASH: &str = "controller-revision-hash";
    pub const POD_TEMPLATE_GENERATION: &str = "pod-template-generation";
    pub const STATEFUL_SET_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
    pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
    pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
    pub const JOB_CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
    pub const LEGACY_JOB_NAME: &str = "job-name";
    pub const LEGACY_JOB_CONTROLLER_UID: &str = "controller-uid";
}

pub mod annotation {
    pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    pub const DEPLOYMENT_REVISION: &str = "deployment.kubernetes.io/revision";
    pub const DEPLOYMENT_REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
    pub const DEPLOYMENT_DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
    pub const DEPLOYMENT_MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
    pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
    pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
    pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
    pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
    pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
    pub const CONTROLLER_MANAGED_ATTACH_DETACH: &str =
        "volumes.kubernetes.io/controller-managed-attach-detach";
    pub const NODE_TTL: &str = "node.alpha.kubernetes.io/ttl";
    pub const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
    pub const SERVICE_ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
    pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
    pub const ENDPOINTS_LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
    pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
    pub const IS_DEFAULT_STORAGE_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
}

pub mod taint {
    pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
    pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
    pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
    pub const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";
    pub const DISK_PRESSURE: &str = "node.kubernetes.io/disk-pressure";
    pub const PID_PRESSURE: &str = "node.kubernetes.io/pid-pressure";
    pub const NETWORK_UNAVAILABLE: &str = "node.kubernetes.io/network-unavailable";
    pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
    pub const CLOUD_PROVIDER_UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
    pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

    pub const NO_SCHEDULE: &str = "NoSchedule";
    pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
    pub const NO_EXECUTE: &str = "NoExecute";
}

pub mod resource {
    pub const CPU: &str = "cpu";
    pub const MEMORY: &str = "memory";
    pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
    pub const PODS: &str = "pods";
    pub const HUGE_PAGES_PREFIX: &str = "hugepages-";
}

pub mod namespace {
    pub const DEFAULT: &str = "default";
    pub const KUBE_SYSTEM: &str = "kube-system";
    pub const KUBE_PUBLIC: &str = "kube-public";
    pub const KUBE_NODE_LEASE: &str = "kube-node-lease";
}

pub mod finalizer {
    pub const FOREGROUND: &str = "foregroundDeletion";
    pub const ORPHAN: &str = "orphan";
    pub const KUBERNETES: &str = "kubernetes";
    pub const JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";
    pub const PV_PROTECTION: &str = "kubernetes.io/pv-protection";
    pub const PVC_PROTECTION: &str = "kubernetes.io/pvc-protection";
}

pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
pub const MIRROR_POD_OWNER_KIND: &str = "Node";
