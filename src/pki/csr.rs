//! Certificate signing requests: reading them, and the rules by which Kubernetes' own signers know them.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ring::digest::{Context, SHA256};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
};

use crate::certificate;

/// A signing request whose signature proves that its sender holds the private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
    pub emails: BTreeSet<String>,
    pub uris: BTreeSet<String>,
    /// DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// The subject's DER, as it came.
    pub(crate) subject: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    #[error("malformed certificate request")]
    Malformed,
    #[error("the request's signature does not match its public key")]
    Signature,
    #[error("malformed subject alternative names")]
    Names,
}

impl Request {
    pub fn from_pem(pem: &[u8]) -> Result<Request, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| RequestError::NotPem)?;
        Request::from_der(&der)
    }

    pub fn from_der(der: &[u8]) -> Result<Request, RequestError> {
        let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        csr.verify_signature().map_err(|_| RequestError::Signature)?;
        let info = &csr.certification_request_info;
        let mut request = Request {
            common_name: certificate::common_name(&info.subject).ok_or(RequestError::Malformed)?,
            organizations: certificate::organizations(&info.subject).ok_or(RequestError::Malformed)?,
            dns: BTreeSet::new(),
            ips: BTreeSet::new(),
            emails: BTreeSet::new(),
            uris: BTreeSet::new(),
            public_key: info.subject_pki.raw.to_vec(),
            subject: info.subject.as_raw().to_vec(),
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(names) => request.take_names(&names.general_names)?,
                ParsedExtension::ParseError { .. } => return Err(RequestError::Names),
                _ => {}
            }
        }
        Ok(request)
    }

    fn take_names(&mut self, names: &[GeneralName<'_>]) -> Result<(), RequestError> {
        for name in names {
            match name {
                GeneralName::DNSName(text) => drop(self.dns.insert((*text).to_owned())),
                GeneralName::RFC822Name(text) => drop(self.emails.insert((*text).to_owned())),
                GeneralName::URI(text) => drop(self.uris.insert((*text).to_owned())),
                GeneralName::IPAddress(bytes) => {
                    self.ips.insert(certificate::ip(bytes).ok_or(RequestError::Names)?);
                }
                _ => {} // never copied into a certificate
            }
        }
        Ok(())
    }

    /// A request by the holder of `key` for a node's certificate, as PEM: what a node agent sends.
    pub fn make(profile: &crate::Profile, key: &crate::Key) -> Result<String, crate::IssueError> {
        crate::authority::make_request(profile, key)
    }

    /// What tells a request from all others: the key, and what is asked for with it. The same again for the same, which
    /// the request's own bytes, signed with a random number, are not. 32 hexadecimal digits.
    pub fn digest(profile: &crate::Profile, key: &crate::Key) -> String {
        let mut context = Context::new(&SHA256);
        let mut take = |part: &[u8]| {
            // With its length: no two lists of parts read alike.
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        };
        take(&key.public_der());
        take(profile.file_stem().as_bytes());
        take(profile.common_name().as_bytes());
        let names = profile.names();
        names.dns.iter().for_each(|name| take(name.as_bytes()));
        names.ips.iter().for_each(|ip| take(ip.to_string().as_bytes()));
        context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The signers that this control plane runs.
pub mod signers {
    pub const KUBE_API_SERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
    pub const KUBE_API_SERVER_CLIENT_KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
    pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
}

/// What a request is, when it obeys its signer's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node renews its own client certificate.
    SelfNodeClient,
    /// Somebody else, such as a bootstrap token, asks for a node's client certificate.
    NodeClient,
    /// What a node shows on its port. `requested_by_itself`: the requestor is that node.
    NodeServing { requested_by_itself: bool },
    /// Any client: a person approves it.
    ApiServerClient,
}

impl Kind {
    /// The subresource of `certificatesigningrequests` that the requestor must be allowed to `create` for the request
    /// to be approved without a person.
    pub fn approval_subresource(self) -> Option<&'static str> {
        match self {
            Kind::SelfNodeClient => Some("selfnodeclient"),
            Kind::NodeClient => Some("nodeclient"),
            Kind::NodeServing { .. } | Kind::ApiServerClient => None,
        }
    }
}

/// Why a request breaks its signer's rules. The words are those that users see in a CSR's Failed condition.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("unrecognized signerName: {0:?}")]
    UnknownSigner(String),
    #[error("subject organization is not system:nodes")]
    NotSystemNodes,
    #[error("subject common name does not begin with system:node:")]
    NotSystemNode,
    #[error("DNS or IP subjectAltName is required")]
    NoName,
    #[error("DNS subjectAltNames are not allowed")]
    DnsName,
    #[error("Email subjectAltNames are not allowed")]
    EmailName,
    #[error("IP subjectAltNames are not allowed")]
    IpName,
    #[error("URI subjectAltNames are not allowed")]
    UriName,
    #[error("usages did not match [{}]", .0.join(" "))]
    Usages(&'static [&'static str]),
    #[error("invalid usage for client certificate: {0}")]
    NotForClient(String),
    #[error("missing required usage for client certificate: client auth")]
    NoClientAuth,
}

const NODE_CLIENT_USAGES: &[&str] = &["client auth", "digital signature", "key encipherment"];
const NODE_SERVING_USAGES: &[&str] = &["digital signature", "key encipherment", "server auth"];

/// Says what `request` to `signer` is, or which of the signer's rules it breaks.
pub fn recognize<S: AsRef<str>>(
    signer: &str,
    request: &Request,
    requestor: &str,
    usages: &[S],
) -> Result<Kind, Refusal> {
    let requested_by_itself = requestor == request.common_name;
    match signer {
        signers::KUBE_API_SERVER_CLIENT_KUBELET => {
            node_client(request, usages)?;
            Ok(if requested_by_itself { Kind::SelfNodeClient } else { Kind::NodeClient })
        }
        signers::KUBELET_SERVING => {
            node_serving(request, usages)?;
            Ok(Kind::NodeServing { requested_by_itself })
        }
        signers::KUBE_API_SERVER_CLIENT => {
            api_server_client(usages)?;
            Ok(Kind::ApiServerClient)
        }
        other => Err(Refusal::UnknownSigner(other.to_owned())),
    }
}

fn node_client<S: AsRef<str>>(request: &Request, usages: &[S]) -> Result<(), Refusal> {
    check(request.organizations == ["system:nodes"], Refusal::NotSystemNodes)?;
    check(request.dns.is_empty(), Refusal::DnsName)?;
    check(request.emails.is_empty(), Refusal::EmailName)?;
    check(request.ips.is_empty(), Refusal::IpName)?;
    check(request.uris.is_empty(), Refusal::UriName)?;
    check(request.common_name.starts_with("system:node:"), Refusal::NotSystemNode)?;
    usages_are(usages, NODE_CLIENT_USAGES)
}

fn node_serving<S: AsRef<str>>(request: &Request, usages: &[S]) -> Result<(), Refusal> {
    check(request.organizations == ["system:nodes"], Refusal::NotSystemNodes)?;
    check(!request.dns.is_empty() || !request.ips.is_empty(), Refusal::NoName)?;
    check(request.emails.is_empty(), Refusal::EmailName)?;
    check(request.uris.is_empty(), Refusal::UriName)?;
    usages_are(usages, NODE_SERVING_USAGES)?;
    check(request.common_name.starts_with("system:node:"), Refusal::NotSystemNode)
}

fn api_server_client<S: AsRef<str>>(usages: &[S]) -> Result<(), Refusal> {
    for usage in usages.iter().map(AsRef::as_ref) {
        check(NODE_CLIENT_USAGES.contains(&usage), Refusal::NotForClient(usage.to_owned()))?;
    }
    check(usages.iter().any(|usage| usage.as_ref() == "client auth"), Refusal::NoClientAuth)
}

/// Exactly `wanted`; key encipherment may be missing, since only RSA keys encipher.
fn usages_are<S: AsRef<str>>(usages: &[S], wanted: &'static [&'static str]) -> Result<(), Refusal> {
    let mut asked: BTreeSet<&str> = usages.iter().map(AsRef::as_ref).collect();
    asked.insert("key encipherment");
    check(asked.into_iter().eq(wanted.iter().copied()), Refusal::Usages(wanted))
}

fn check(holds: bool, refusal: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal) }
}

/// How long a certificate lives for which `spec.expirationSeconds` asks: never longer than the signer gives, and never
/// so short that back-dating eats it.
pub fn life(expiration_seconds: Option<i32>, longest: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_secs(10 * 60);
    let Some(seconds) = expiration_seconds else { return longest };
    let asked = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if asked > longest { longest } else { asked.max(SHORTEST) }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Key, Names};

    pub(crate) fn request(common_name: &str, organizations: &[&str], names: &[&str]) -> Request {
        let names = Names::from_texts(names);
        let organizations: Vec<String> = organizations.iter().map(|text| (*text).to_owned()).collect();
        let key = Key::generate().unwrap();
        let pem = crate::authority::request_pem(common_name, &organizations, &names, &key).unwrap();
        Request::from_pem(pem.as_bytes()).unwrap()
    }

    fn node(names: &[&str]) -> Request {
        request("system:node:n1", &["system:nodes"], names)
    }

    #[test]
    fn a_request_is_known_again_by_its_key_and_by_what_it_asks_for() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        let client = |node: &str| crate::Profile::KubeletClient { node: node.into() };
        let serving = |names: &[&str]| {
            let names = Names::from_texts(names);
            crate::Profile::KubeletServing { node: "a".into(), names }
        };
        let same = Request::digest(&client("a"), &key);
        assert_eq!(Request::digest(&client("a"), &key), same);
        assert!(same.len() == 32 && same.bytes().all(|byte| byte.is_ascii_hexdigit()), "{same}");
        assert_ne!(Request::digest(&client("a"), &other), same);
        assert_ne!(Request::digest(&client("b"), &key), same);
        assert_ne!(Request::digest(&serving(&[]), &key), same);
        assert_ne!(
            Request::digest(&serving(&["ab", "c"]), &key),
            Request::digest(&serving(&["a", "bc"]), &key)
        );
    }

    const CLIENT: &[&str] = &["digital signature", "client auth"];
    const SERVING: &[&str] = &["server auth", "key encipherment", "digital signature"];

    #[test]
    fn a_nodes_own_request_differs_from_a_bootstrap_tokens() {
        let signer = signers::KUBE_API_SERVER_CLIENT_KUBELET;
        assert_eq!(recognize(signer, &node(&[]), "system:node:n1", CLIENT), Ok(Kind::SelfNodeClient));
        assert_eq!(recognize(signer, &node(&[]), "system:bootstrap:abcdef", CLIENT), Ok(Kind::NodeClient));
        assert_eq!(Kind::NodeClient.approval_subresource(), Some("nodeclient"));
    }

    #[test]
    fn a_node_client_request_is_held_to_its_rules() {
        let check = |request: &Request, usages: &[&str], refusal| {
            let signer = signers::KUBE_API_SERVER_CLIENT_KUBELET;
            assert_eq!(recognize(signer, request, "system:node:n1", usages), Err(refusal));
        };
        check(&request("system:node:n1", &["system:masters"], &[]), CLIENT, Refusal::NotSystemNodes);
        check(&request("system:node:n1", &["system:nodes", "a"], &[]), CLIENT, Refusal::NotSystemNodes);
        check(&request("admin", &["system:nodes"], &[]), CLIENT, Refusal::NotSystemNode);
        check(&node(&["a.example"]), CLIENT, Refusal::DnsName);
        check(&node(&["10.0.0.1"]), CLIENT, Refusal::IpName);
        check(&node(&[]), SERVING, Refusal::Usages(NODE_CLIENT_USAGES));
        check(&node(&[]), &["client auth"], Refusal::Usages(NODE_CLIENT_USAGES));
    }

    #[test]
    fn a_serving_request_needs_a_name() {
        let signer = signers::KUBELET_SERVING;
        let known = recognize(signer, &node(&["10.0.0.1"]), "system:node:n1", SERVING);
        assert_eq!(known, Ok(Kind::NodeServing { requested_by_itself: true }));
        assert_eq!(recognize(signer, &node(&[]), "system:node:n1", SERVING), Err(Refusal::NoName));
        let told = recognize(signer, &node(&["n1"]), "x", CLIENT).unwrap_err().to_string();
        assert_eq!(told, "usages did not match [digital signature key encipherment server auth]");
    }

    #[test]
    fn a_plain_client_request_is_held_to_client_usages_only() {
        let signer = signers::KUBE_API_SERVER_CLIENT;
        let jane = request("jane", &["dev", "ops"], &[]);
        assert_eq!(recognize(signer, &jane, "jane", &["client auth"]), Ok(Kind::ApiServerClient));
        let told = recognize(signer, &jane, "jane", &["server auth"]).unwrap_err().to_string();
        assert_eq!(told, "invalid usage for client certificate: server auth");
        assert_eq!(recognize(signer, &jane, "jane", &["digital signature"]), Err(Refusal::NoClientAuth));
        assert!(matches!(recognize("example.com/x", &jane, "jane", CLIENT), Err(Refusal::UnknownSigner(_))));
    }

    #[test]
    fn the_life_asked_for_is_held_between_ten_minutes_and_the_signers() {
        let longest = Duration::from_secs(86400);
        assert_eq!(life(None, longest), longest);
        assert_eq!(life(Some(i32::MAX), longest), longest);
        assert_eq!(life(Some(3600), longest), Duration::from_secs(3600));
        assert_eq!(life(Some(1), longest), Duration::from_secs(600));
        assert_eq!(life(Some(-1), longest), Duration::from_secs(600));
    }

    #[test]
    fn a_changed_request_is_refused() {
        let key = Key::generate().unwrap();
        let pem = crate::authority::request_pem("jane", &[], &Names::default(), &key).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let at = der.windows(4).position(|bytes| bytes == b"jane").unwrap();
        der[at] = b'x';
        assert_eq!(Request::from_der(&der), Err(RequestError::Signature));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Request::from_der(&bytes).unwrap_err();
            Request::from_pem(&bytes).unwrap_err();
            Request::from_pem(certificate::pem("CERTIFICATE REQUEST", &bytes).as_bytes()).unwrap_err();
        }

        #[test]
        fn a_request_with_any_byte_changed_does_not_panic_the_reader(at in 0usize..300, to in any::<u8>()) {
            static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let key = Key::generate().unwrap();
                let names = Names::from_texts(&["a.example", "10.0.0.1"]);
                let pem = crate::authority::request_pem("jane", &["a".to_owned()], &names, &key).unwrap();
                CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
            });
            let mut der = DER.clone();
            let at = at % der.len();
            der[at] = to;
            drop(Request::from_der(&der));
        }
    }
}
