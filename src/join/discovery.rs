//! Reads what a server says of its cluster, first without trusting it, then over TLS with the authority that was verified.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use client::{Client, ConnectError, Credentials, Endpoint, Pem, Secret, connect};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use lifecycle::Scope;
use pki::{BootstrapToken, KeyHash};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    address::ServerAddress,
    facts::{ClusterFacts, FactsError},
    trust::{Clock, Distrust, is_unsigned, verify},
};

const CONNECT: Duration = Duration::from_secs(10);
/// How long a token may take to have signed, on a control plane that is busy; kubeadm waits for minutes.
const UNSIGNED: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(1);
/// A ConfigMap has at most 1 MiB; a stranger's answer must not fill the memory.
const LARGEST_ANSWER: usize = 2 << 20;
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// A cluster that can be trusted, and how to reach it.
pub struct Discovered {
    pub server: ServerAddress,
    /// The address under which the server was reached.
    pub server_ip: IpAddr,
    /// This machine's address on the way there.
    pub own_ip: IpAddr,
    pub authority_pem: Vec<u8>,
    pub facts: ClusterFacts,
    /// Over TLS that was verified, known by the token.
    pub client: Client,
}

impl std::fmt::Debug for Discovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovered").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error("{server} cannot be resolved; check the name, and this machine's DNS (/etc/resolv.conf)")]
    Resolve {
        server: ServerAddress,
        #[source]
        source: io::Error,
    },
    #[error(
        "nothing listens on {server}, or a firewall rejects it; see that the control plane runs there, that the port is right \
         (server.port in its configuration, 6443 without it), and that firewalls let it through"
    )]
    Refused { server: ServerAddress },
    #[error(
        "{server} does not answer; see that the address is right, and that no firewall between here and there keeps TCP port \
         {} back",
        server.port
    )]
    Silent {
        server: ServerAddress,
        #[source]
        source: io::Error,
    },
    #[error(
        "{server} answers, but does not speak TLS as an API server does; the port may be another program's \
         (an API server's is 6443 without server.port)"
    )]
    NotTls {
        server: ServerAddress,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{server} answers as no Kubernetes API server does ({what}); the port may be another program's")]
    NotKubernetes { server: ServerAddress, what: String },
    #[error(
        "{server} shows its cluster to nobody unknown ({status}); on the control plane, `coracle server` or \
         `kubeadm init phase bootstrap-token` allows it for the ConfigMap kube-public/cluster-info"
    )]
    Closed { server: ServerAddress, status: StatusCode },
    #[error(
        "the clock of this machine is {} that of {server}; certificates would not be valid: set it \
         (`timedatectl set-ntp true`, or `date -s`), then join again",
        clock.words()
    )]
    Clock { server: ServerAddress, clock: Clock },
    #[error(transparent)]
    Distrust(#[from] Distrust),
    #[error(
        "{server} has no certificate for the name {:?}, or none of its cluster's authority; join by a name that it \
         has, or add this one to server.extraSANs of the control plane",
        server.host
    )]
    Certificate {
        server: ServerAddress,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{server} said one thing without TLS verified and another with it: somebody stands in between")]
    Changed { server: ServerAddress },
    #[error(
        "{server} refuses the token {id}.…: it may not be used to join (it needs the usage \"authentication\"), or has \
         just expired; make a new one with `coracle token create`"
    )]
    TokenRefused { server: ServerAddress, id: String },
    #[error("ask {server}")]
    Ask {
        server: ServerAddress,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("connect to {server}")]
    Connect {
        server: ServerAddress,
        #[source]
        source: ConnectError,
    },
    #[error(transparent)]
    Facts(#[from] FactsError),
}

/// Finds out which cluster answers at `server`, and whether it is the one that is meant.
///
/// # Errors
/// Why it cannot be reached or is not to be trusted, each with its mend.
pub async fn discover(
    server: &ServerAddress,
    token: &BootstrapToken,
    hashes: &[KeyHash],
    scope: &Scope,
) -> Result<Discovered, DiscoverError> {
    let (own_ip, server_ip) = reach(server).await?;
    let claimed = claimed(server, token, scope).await?;
    let trusted = verify(&server.to_string(), &claimed, token, hashes)?;

    let known = Credentials::Token(Secret::new(token.reveal()));
    let authority = Pem::Data(trusted.authority_pem.clone());
    let client = open(server, endpoint(server, known, Some(authority))?, scope)?;
    let kubeconfig = |map: &ConfigMap| map.data.as_ref().and_then(|data| data.get("kubeconfig").cloned());
    match read(&client, server, CLUSTER_INFO, token).await? {
        Answer::Found(map) if kubeconfig(&map) == kubeconfig(&claimed) => {}
        // A bootstrap token's group may read less than the anonymous user: what was signed is enough.
        Answer::Forbidden(StatusCode::FORBIDDEN) => {}
        Answer::Forbidden(_) => {
            return Err(DiscoverError::TokenRefused { server: server.clone(), id: token.id().to_owned() });
        }
        Answer::Found(_) | Answer::Absent => return Err(DiscoverError::Changed { server: server.clone() }),
    }
    let facts = facts(&client, server, token).await?;
    let authority_pem = trusted.authority_pem;
    Ok(Discovered { server: server.clone(), server_ip, own_ip, authority_pem, facts, client })
}

/// What the server tells strangers of its cluster. A controller signs it for each token, some moments after the token
/// is made: one that has not signed yet is waited for, since only time tells it from a wrong one.
async fn claimed(
    server: &ServerAddress,
    token: &BootstrapToken,
    scope: &Scope,
) -> Result<Box<ConfigMap>, DiscoverError> {
    let mut stranger = endpoint(server, Credentials::None, None)?;
    stranger.insecure = true;
    let client = open(server, stranger, scope)?;
    let until = Instant::now() + UNSIGNED;
    loop {
        let map = match read(&client, server, CLUSTER_INFO, token).await? {
            Answer::Found(map) => map,
            Answer::Absent => {
                return Err(
                    Distrust::Unreadable { server: server.to_string(), what: "it is not there" }.into()
                );
            }
            Answer::Forbidden(status) => {
                return Err(DiscoverError::Closed { server: server.clone(), status });
            }
        };
        if !is_unsigned(&map, token) || Instant::now() >= until {
            return Ok(map);
        }
        tracing::info!(token = token.id(), "{server} does not know the token yet; asking again");
        sleep(AGAIN).await;
    }
}

/// Opens and closes a connection: this machine's address and the server's on the way there.
async fn reach(server: &ServerAddress) -> Result<(IpAddr, IpAddr), DiscoverError> {
    let resolved = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
    let addresses: Vec<SocketAddr> =
        resolved.map_err(|source| DiscoverError::Resolve { server: server.clone(), source })?.collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                let own = stream.local_addr().map(|own| own.ip());
                return own
                    .map(|own| (own, address.ip()))
                    .map_err(|source| DiscoverError::Silent { server: server.clone(), source });
            }
            Err(error) => last = error,
        }
    }
    Err(match last.kind() {
        io::ErrorKind::ConnectionRefused => DiscoverError::Refused { server: server.clone() },
        _ => DiscoverError::Silent { server: server.clone(), source: last },
    })
}

fn endpoint(
    server: &ServerAddress,
    credentials: Credentials,
    authority: Option<Pem>,
) -> Result<Endpoint, DiscoverError> {
    let url = server.url();
    let uri = url.parse().map_err(|_| DiscoverError::Connect {
        server: server.clone(),
        source: ConnectError::NoHost { url: url.clone() },
    })?;
    Ok(Endpoint::new(uri, authority, credentials))
}

fn open(server: &ServerAddress, endpoint: Endpoint, scope: &Scope) -> Result<Client, DiscoverError> {
    let (client, _reconnect) = connect(endpoint, scope)
        .map_err(|source| DiscoverError::Connect { server: server.clone(), source })?;
    Ok(client)
}

enum Answer {
    Found(Box<ConfigMap>),
    Absent,
    /// 401 or 403.
    Forbidden(StatusCode),
}

/// A ConfigMap. The server's clock is looked at on the way: a wrong one of ours explains what comes after.
async fn read(
    client: &Client,
    server: &ServerAddress,
    path: &str,
    token: &BootstrapToken,
) -> Result<Answer, DiscoverError> {
    let request = Request::get(path).body(kube::client::Body::empty());
    let request = request.map_err(|error| ask(server, kube::Error::HttpError(error)))?;
    let response = client.send(request).await.map_err(|source| unanswered(server, source))?;
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    if let Some(clock) = Clock::compare(date, Timestamp::now()) {
        return Err(DiscoverError::Clock { server: server.clone(), clock });
    }
    let status = response.status();
    let strange = |what: String| DiscoverError::NotKubernetes { server: server.clone(), what };
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
    let body = body.map_err(|error| strange(error.to_string()))?.to_bytes();
    // A server of something else may refuse, or have no such page, but does not say so in Kubernetes' form.
    let is_kubernetes = || {
        let answer = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        answer["kind"] == "Status" && answer["apiVersion"] == "v1"
    };
    match status {
        StatusCode::OK => serde_json::from_slice(&body)
            .map(Answer::Found)
            .map_err(|_| strange("it sends something else than a ConfigMap".to_owned())),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_kubernetes() => Ok(Answer::Forbidden(status)),
        StatusCode::NOT_FOUND if is_kubernetes() => Ok(Answer::Absent),
        other => {
            tracing::debug!(token = token.id(), path, "answered {other}");
            Err(strange(format!("HTTP status {other}")))
        }
    }
}

fn ask(server: &ServerAddress, source: kube::Error) -> DiscoverError {
    DiscoverError::Ask { server: server.clone(), source: Box::new(source) }
}

/// Tells by what went wrong who listens there.
fn unanswered(server: &ServerAddress, source: kube::Error) -> DiscoverError {
    let causes = || std::iter::successors(Some(&source as &dyn std::error::Error), |error| error.source());
    let connecting = causes().find_map(|error| error.downcast_ref::<ConnectError>());
    let hung_up = causes()
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    let of_certificate = causes().last().is_some_and(|error| error.to_string().contains("certificate"));
    let server = server.clone();
    match connecting {
        Some(ConnectError::Timeout { .. }) => {
            DiscoverError::Silent { server, source: io::ErrorKind::TimedOut.into() }
        }
        Some(ConnectError::Handshake { .. }) if of_certificate => {
            DiscoverError::Certificate { server, source: Box::new(source) }
        }
        Some(ConnectError::Handshake { .. }) => DiscoverError::NotTls { server, source: Box::new(source) },
        Some(ConnectError::Http { .. }) => {
            DiscoverError::NotKubernetes { server, what: "it does not speak HTTP".to_owned() }
        }
        _ if hung_up => {
            DiscoverError::NotKubernetes { server, what: "it hangs up in the middle of an answer".to_owned() }
        }
        _ => ask(&server, source),
    }
}

/// What the cluster says of its ranges and DNS, as far as the token may read it.
async fn facts(
    client: &Client,
    server: &ServerAddress,
    token: &BootstrapToken,
) -> Result<ClusterFacts, DiscoverError> {
    let mut texts = Vec::new();
    for (map, key) in [("kubeadm-config", "ClusterConfiguration"), ("kubelet-config", "kubelet")] {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{map}");
        texts.push(match read(client, server, &path, token).await? {
            Answer::Found(found) => found.data.and_then(|mut data| data.remove(key)),
            Answer::Absent | Answer::Forbidden(StatusCode::FORBIDDEN) => None,
            Answer::Forbidden(_) => {
                return Err(DiscoverError::TokenRefused {
                    server: server.clone(),
                    id: token.id().to_owned(),
                });
            }
        });
    }
    Ok(ClusterFacts::read(texts[0].as_deref(), texts[1].as_deref())?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pki::{Authority, Issued, Key, Names, Profile, tls};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const TOKEN: &str = "abcdef.0123456789abcdef";

    /// A server of something that answers everything with the same words, over TLS.
    async fn server(scope: &Scope, answer: String) -> ServerAddress {
        drop(rustls::crypto::ring::default_provider().install_default());
        let now = Timestamp::now();
        let authority = Authority::self_signed("x", Key::generate().unwrap(), now).unwrap();
        let profile = Profile::ApiServer { names: Names::from_texts(&["127.0.0.1"]) };
        let issued: Issued = authority.issue(&profile, now).unwrap();
        let mut config = tls::server(tls::Serving::new(&issued).unwrap(), authority.certificate()).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        scope.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                // The first connection is only opened and closed.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    asked.push(byte);
                }
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.shutdown().await);
            }
        });
        ServerAddress { host: "127.0.0.1".into(), port }
    }

    async fn refused(head: &str, body: &str) -> DiscoverError {
        cut_off(head, body, body.len()).await
    }

    /// Of an answer that says how long it is.
    async fn cut_off(head: &str, body: &str, length: usize) -> DiscoverError {
        let scope = Scope::root("test");
        let answer =
            format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        let server = server(&scope, answer).await;
        let token: BootstrapToken = TOKEN.parse().unwrap();
        let found = discover(&server, &token, &[], &scope);
        tokio::time::timeout(Duration::from_secs(30), found).await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn a_clock_that_is_off_is_told_before_anything_else() {
        let behind = Timestamp::now() - jiff::SignedDuration::from_mins(11);
        let date = behind.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let error = refused(&format!("200 OK\r\ndate: {date}"), "{}").await;
        assert!(matches!(error, DiscoverError::Clock { .. }), "{error}");
        assert!(error.to_string().contains("11 minutes ahead of that of 127.0.0.1:"), "{error}");
    }

    #[tokio::test]
    async fn another_programs_port_is_told_from_a_closed_cluster() {
        let error = refused("401 Unauthorized", "Unauthorized").await;
        assert!(matches!(error, DiscoverError::NotKubernetes { .. }), "{error}");
        let error = refused("404 Not Found", "<html>").await;
        assert!(matches!(error, DiscoverError::NotKubernetes { .. }), "{error}");
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":403}"#;
        let error = refused("403 Forbidden", status).await;
        assert!(matches!(error, DiscoverError::Closed { .. }), "{error}");
        let error = refused("404 Not Found", status).await;
        assert!(matches!(error, DiscoverError::Distrust(Distrust::Unreadable { .. })), "{error}");
        let error = cut_off("200 OK", "{}", 9).await;
        assert!(matches!(error, DiscoverError::NotKubernetes { .. }), "{error}");
        let error = refused("200 OK", "{").await;
        assert!(matches!(error, DiscoverError::NotKubernetes { .. }), "{error}");
        let error = refused("200 OK", "{}").await;
        assert!(matches!(error, DiscoverError::Distrust(Distrust::Unreadable { .. })), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_nobody_has_is_told() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let server = ServerAddress { host: "127.0.0.1".into(), port };
        let error = discover(&server, &TOKEN.parse().unwrap(), &[], &Scope::root("test")).await.unwrap_err();
        assert!(matches!(error, DiscoverError::Refused { .. }), "{error}");
    }
}
