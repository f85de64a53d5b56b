//! Who renews which certificate of a node that belongs to somebody's cluster: decided here, started in `wiring.rs`.
#![deny(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use config::{Config, Serving};
use join::Recovery;
use lifecycle::OnFailure;

/// What is done for the certificates of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renewals {
    pub(crate) client: ClientRenewal,
    pub(crate) serving: ServingRenewal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientRenewal {
    /// This process asks the cluster for the next one.
    Asked { file: PathBuf, recovery: Recovery },
    /// It could, and is told not to.
    SwitchedOff,
    /// It stands in the kubeconfig, or is none: whoever wrote that renews it.
    Others,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServingRenewal {
    /// This process asks the cluster for it.
    Asked,
    /// Somebody else replaces the files.
    Reread { certificate: PathBuf, key: PathBuf },
    /// Nobody vouches for it, or nothing shows one.
    Never,
}

impl ClientRenewal {
    /// What an expired certificate is to this process: where the next start gets another, an end.
    pub(crate) fn on_failure(recovery: &Recovery) -> OnFailure {
        match recovery {
            Recovery::Bootstrap(_) => OnFailure::EndProcess,
            Recovery::Join | Recovery::Kubeconfig => OnFailure::Restart,
        }
    }
}

/// `client_file` is the client certificate with its key, where it is one file.
pub(crate) fn plan(config: &Config, client_file: Option<&Path>) -> Renewals {
    let client = match client_file {
        None => ClientRenewal::Others,
        Some(_) if !config.kubelet.renews_client_certificate => ClientRenewal::SwitchedOff,
        Some(file) => ClientRenewal::Asked { file: file.to_owned(), recovery: recovery(config) },
    };
    let serving = match &config.kubelet.serving {
        Serving::Requested if config.components.kubelet => ServingRenewal::Asked,
        Serving::Requested | Serving::SelfSigned => ServingRenewal::Never,
        Serving::Files { certificate, key } => {
            ServingRenewal::Reread { certificate: certificate.clone(), key: key.clone() }
        }
    };
    Renewals { client, serving }
}

/// How this node comes by a certificate if its own expires.
fn recovery(config: &Config) -> Recovery {
    match (&config.node.kubeconfig, &config.node.bootstrap_kubeconfig) {
        (Some(_), Some(by)) => Recovery::Bootstrap(by.clone()),
        (Some(_), None) => Recovery::Kubeconfig,
        (None, _) => Recovery::Join,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_certificate_has_one_who_renews_it() {
        let file = Path::new("/pki/client.pem");
        let client = |change: &dyn Fn(&mut Config), file: Option<&Path>| {
            let mut config = Config::default();
            change(&mut config);
            plan(&config, file).client
        };
        let asked = |recovery| ClientRenewal::Asked { file: file.into(), recovery };
        let theirs = |config: &mut Config| config.node.kubeconfig = Some("/k".into());
        let bootstrapped = |config: &mut Config| {
            config.node.kubeconfig = Some("/k".into());
            config.node.bootstrap_kubeconfig = Some("/b".into());
        };
        assert_eq!(client(&|_| {}, Some(file)), asked(Recovery::Join));
        assert_eq!(client(&theirs, Some(file)), asked(Recovery::Kubeconfig));
        assert_eq!(client(&bootstrapped, Some(file)), asked(Recovery::Bootstrap("/b".into())));
        assert_eq!(client(&bootstrapped, None), ClientRenewal::Others);
        let off = |config: &mut Config| config.kubelet.renews_client_certificate = false;
        assert_eq!(client(&off, Some(file)), ClientRenewal::SwitchedOff);
        assert_eq!(client(&off, None), ClientRenewal::Others);

        let serving = |serving: Serving, kubelet: bool| {
            let mut config = Config::default();
            config.kubelet.serving = serving;
            config.components.kubelet = kubelet;
            plan(&config, None).serving
        };
        assert_eq!(serving(Serving::Requested, true), ServingRenewal::Asked);
        assert_eq!(serving(Serving::Requested, false), ServingRenewal::Never);
        assert_eq!(serving(Serving::SelfSigned, true), ServingRenewal::Never);
        let files = Serving::Files { certificate: "/c".into(), key: "/k".into() };
        assert_eq!(
            serving(files, true),
            ServingRenewal::Reread { certificate: "/c".into(), key: "/k".into() }
        );
    }

    #[test]
    fn only_a_start_that_would_get_another_certificate_is_worth_an_end() {
        assert_eq!(ClientRenewal::on_failure(&Recovery::Bootstrap("/b".into())), OnFailure::EndProcess);
        assert_eq!(ClientRenewal::on_failure(&Recovery::Join), OnFailure::Restart);
        assert_eq!(ClientRenewal::on_failure(&Recovery::Kubeconfig), OnFailure::Restart);
    }
}
