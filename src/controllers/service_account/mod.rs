//! What every namespace begins with: the service account `default`, and the ConfigMap `kube-root-ca.crt`
//! by which its pods know the API server.

mod plan;
mod task;

pub(crate) use task::start;
