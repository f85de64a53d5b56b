//! What a person types: status, why, doctor, kubeconfig
