//! `coracle join` and `coracle token`: what is typed at both ends of a join.
#![expect(clippy::print_stdout, reason = "printing is what these commands are for")]

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, bail};
use client::Pem;
use config::{Config, ConfigError};
use ipnet::IpNet;
use jiff::Timestamp;
use join::{ClusterFacts, Discovered, Member, Paths, Pending, ServerAddress, tokens};
use lifecycle::Scope;
use pki::{Certificate, KeyHash};
use serde_json::json;

use crate::{
    addresses,
    command::{Join, Token},
    identity, membership, person,
};

const UNIT: &str = "coracle-node.service";
const UNIT_DIRS: [&str; 3] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];

/// What is left to do after a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The service manager runs the node, or nobody was to start it.
    Nothing,
    /// Go on as `coracle node`.
    Run,
    /// The machine is not ready, and what mends it was told.
    Mend,
}

/// # Errors
/// Why this machine is not a member now; nothing was written then.
pub(crate) async fn join(asked: &Join, config: &Config) -> anyhow::Result<Next> {
    let paths = Paths::of(&config.state_dir);
    let name = match &asked.node_name {
        Some(name) => name.clone(),
        None => identity::node_name(config)?,
    };
    let standing = Standing::of(member(&paths)?, &name, asked, Timestamp::now());
    if !joins(&standing, &name, asked, config)? {
        return start(asked, config, false);
    }
    if let Some(ip) = asked.node_ip.or(config.node.ip)
        && (ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || !addresses::is_own(ip))
    {
        bail!(
            "{ip} is no address by which other machines reach this one; `ip -brief address` shows those that it has"
        );
    }
    // Before the cluster is asked: a machine that cannot run pods would only be half a node. The agent of one whose
    // certificate has expired may still run.
    let runs = matches!(standing, Standing::Expired { .. }) && identity::agent_runs(config);
    if !asked.no_start && !person::machine_is_ready(config, person::Role::Node, !runs) {
        return Ok(Next::Mend);
    }
    let scope = Scope::root("join");
    let cluster = join::discover(&asked.server, &asked.token, &asked.ca_cert_hash, &scope).await?;
    println!("{} is the cluster that was meant: its authority and the token agree", cluster.server);
    check_ranges(config, &cluster)?;
    let (life, pending) = (membership::life_seconds(config), Pending::beside(&paths.client));
    let issued = join::enroll(&cluster, &name, life, &pending, |request| {
        println!("waiting for somebody to approve: kubectl certificate approve {request}");
    })
    .await?;
    let joined = joined_yaml(&name, asked, &cluster.facts);
    // Every command reads it from here on.
    Config::parse("joined.yaml", &joined)
        .map_err(ConfigError::Mistakes)
        .context("what the cluster says of itself cannot be a configuration")?;
    if !cluster.own_ip.is_loopback() {
        join::keep_address(&paths.address, cluster.own_ip)?;
    }
    paths.write(&cluster.server, &cluster.authority_pem, &issued, &joined)?;
    let ip = asked.node_ip.or(config.node.ip).unwrap_or(cluster.own_ip);
    println!(
        "joined as node {name} with address {ip}; certificate until {}",
        issued.certificate.not_after.strftime("%Y-%m-%d %H:%M")
    );
    scope.close(Duration::from_secs(1)).await;
    start(asked, config, true)
}

/// Whether there is something to join, for a machine that stands so.
///
/// # Errors
/// When it is something else already.
fn joins(standing: &Standing, name: &str, asked: &Join, config: &Config) -> anyhow::Result<bool> {
    let again = asked.common.repeated();
    match standing {
        Standing::New => {}
        Standing::Same => {
            if let Some(ip) = asked.node_ip.filter(|ip| config.node.ip != Some(*ip)) {
                bail!(
                    "this machine is node {name} of {} already, and keeps its address; to make it {ip}, set node.ip in its \
                     configuration and start the agent again",
                    asked.server
                );
            }
            println!("this machine is node {name} of {} already; nothing was changed", asked.server);
            return Ok(false);
        }
        Standing::Expired { node, not_after } => {
            println!("the certificate of node {node} expired at {not_after}: joining again");
        }
        Standing::Remade { node } => bail!(
            "this machine is node {node:?} of a cluster at {} whose authority is none of those that --ca-cert-hash names: the \
             hash is wrong, or the control plane was made anew; if so, `coracle reset --yes{again}` leaves the old cluster, \
             then join again",
            asked.server
        ),
        Standing::Other { node, server } => bail!(
            "this machine is node {node:?} of {server} already; `coracle reset --yes{again}` leaves that cluster, then join {} \
             as {name:?}",
            asked.server
        ),
    }
    let store = config.state_dir.join("store");
    if store.exists() {
        bail!(
            "this machine runs a control plane of its own ({} is there); `coracle reset --yes{again}` removes it, or give the \
             node another stateDir",
            store.display()
        );
    }
    Ok(true)
}

/// Whether the service manager has this unit of ours.
pub(crate) fn is_installed(unit: &str) -> bool {
    UNIT_DIRS.iter().any(|dir| Path::new(dir).join(unit).exists())
}

/// What this machine is to the cluster that it is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    New,
    /// That node of it, and may be for longer.
    Same,
    /// That node of a cluster at that address, which is not the one that is meant.
    Remade {
        node: String,
    },
    /// A node of it or of another cluster, by another name or of another server.
    Other {
        node: String,
        server: ServerAddress,
    },
    /// It was a node of some cluster, whose certificate is good for nothing now.
    Expired {
        node: String,
        not_after: Timestamp,
    },
}

impl Standing {
    fn of(joined: Option<Membership>, name: &str, asked: &Join, now: Timestamp) -> Self {
        let Some(Membership { member: Member { node_name: node, not_after }, server, authorities }) = joined
        else {
            return Self::New;
        };
        if not_after <= now {
            Self::Expired { node, not_after }
        } else if node != name || server != asked.server {
            Self::Other { node, server }
        } else if asked.ca_cert_hash.iter().any(|hash| authorities.contains(hash)) {
            Self::Same
        } else {
            Self::Remade { node }
        }
    }
}

/// As which node of which cluster this machine has joined.
struct Membership {
    member: Member,
    server: ServerAddress,
    authorities: Vec<KeyHash>,
}

fn member(paths: &Paths) -> anyhow::Result<Option<Membership>> {
    let Some(member) = paths.member()? else { return Ok(None) };
    let endpoint = client::Kubeconfig::load(&paths.kubeconfig)?.endpoint(None)?;
    let authorities = match &endpoint.ca {
        Some(Pem::Data(pem)) => hashes(pem),
        Some(Pem::File(path)) => std::fs::read(path).map(|pem| hashes(&pem)).unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Some(Membership { member, server: endpoint.server.to_string().parse()?, authorities }))
}

/// Of what cannot be read: none, so that no hash is one of them.
fn hashes(pem: &[u8]) -> Vec<KeyHash> {
    Certificate::all_from_pem(pem).unwrap_or_default().iter().map(KeyHash::of).collect()
}

fn check_ranges(config: &Config, cluster: &Discovered) -> anyhow::Result<()> {
    let mut told = config.clone();
    if let Some(net) = first_v4(&cluster.facts.pod_cidrs) {
        told.network.pod_cidr = net;
    }
    if let Some(net) = first_v4(&cluster.facts.service_cidrs) {
        told.network.service_cidr = net;
    }
    told.node.ip.get_or_insert(cluster.own_ip);
    let taken = addresses::taken(&told)?;
    if taken.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = taken.iter().map(|overlap| format!("  {overlap}")).collect();
    bail!(
        "the cluster's addresses are used on this machine already, so pods or this machine would not be reached:\n{}\n\
         take that network off this machine, or make the cluster with other ranges (network.podCIDR and \
         network.serviceCIDR of the control plane)",
        lines.join("\n")
    );
}

fn first_v4(nets: &[IpNet]) -> Option<IpNet> {
    nets.iter().copied().find(|net| net.addr().is_ipv4())
}

/// What the cluster says, as a configuration below this machine's own.
fn joined_yaml(name: &str, asked: &Join, facts: &ClusterFacts) -> String {
    let mut text = format!(
        "# Written by `coracle join`: what the cluster says. The machine's own configuration is put over it.\n\
         apiVersion: coracle.dev/v1alpha1\nkind: CoracleConfiguration\nnode:\n  name: {}\n",
        json!(name)
    );
    if let Some(ip) = asked.node_ip {
        text.push_str(&format!("  ip: {}\n", json!(ip)));
    }
    let (pods, services) = (first_v4(&facts.pod_cidrs), first_v4(&facts.service_cidrs));
    if pods.is_some() || services.is_some() {
        text.push_str("network:\n");
    }
    for (field, net) in [("podCIDR", pods), ("serviceCIDR", services)] {
        text.extend(net.map(|net| format!("  {field}: {net}\n")));
    }
    if facts.cluster_domain.is_some() || !facts.cluster_dns.is_empty() {
        text.push_str("kubelet:\n");
    }
    text.extend(facts.cluster_domain.iter().map(|domain| format!("  clusterDomain: {}\n", json!(domain))));
    if !facts.cluster_dns.is_empty() {
        text.push_str(&format!("  clusterDNS: {}\n", json!(facts.cluster_dns)));
    }
    text
}

/// Starts the unit where there is one; again, where it runs and the machine has joined `anew`.
fn start(asked: &Join, config: &Config, anew: bool) -> anyhow::Result<Next> {
    if asked.no_start {
        println!("`coracle node{}` starts it", asked.common.repeated());
        return Ok(Next::Nothing);
    }
    if !is_installed(UNIT) || !Path::new("/run/systemd/system").exists() {
        if identity::agent_runs(config) {
            println!(
                "its agent runs already (port {} is taken); start it again if it has joined anew",
                config.kubelet.port
            );
            return Ok(Next::Nothing);
        }
        return Ok(Next::Run);
    }
    // Started anew where it runs, with what it has by now: its pods run on meanwhile.
    let verb = if anew { "restart" } else { "start" };
    for arguments in [["enable", UNIT], [verb, UNIT]] {
        let run = Command::new("systemctl").args(arguments).output();
        let run = run.with_context(|| format!("run systemctl {}", arguments.join(" ")))?;
        if !run.status.success() {
            bail!(
                "joined, but systemctl {} failed: {}; see `journalctl -u {UNIT}`",
                arguments.join(" "),
                String::from_utf8_lossy(&run.stderr).trim()
            );
        }
    }
    println!("{UNIT} runs, and starts with the machine; `journalctl -u {UNIT} -f` shows its log");
    Ok(Next::Nothing)
}

/// # Errors
/// What the API answered.
pub(crate) async fn token(asked: &Token) -> anyhow::Result<()> {
    match asked {
        Token::Create { connection, ttl, description } => {
            let client = person::connect(connection)?;
            // As kubeadm: 0 is for ever.
            let life = (!ttl.is_zero()).then_some(*ttl);
            let token = tokens::create(&client, life, description.as_deref(), Timestamp::now()).await?;
            let line = tokens::join_line(&client, &token).await?;
            println!("{}", line.text);
            if !line.signed {
                eprintln!(
                    "coracle: nobody has signed kube-public/cluster-info with this token yet, without which it is refused: is \
                     components.controllers on, or does kube-controller-manager run with --controllers=*,bootstrap-signer-controller?"
                );
            }
        }
        Token::List { connection } => {
            print!("{}", tokens::list(&person::connect(connection)?, Timestamp::now()).await?);
        }
        Token::Delete { connection, tokens: texts } => {
            let client = person::connect(connection)?;
            for text in texts {
                println!("token {} deleted", tokens::delete(&client, text).await?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::PathBuf, sync::Arc};

    use client::{Client, Kubeconfig};
    use join::{ClientRotation, DiscoverError, Distrust, EnrollError, ServingRotation};
    use k8s_openapi::api::{
        authentication::v1::SelfSubjectReview,
        core::v1::{Node, NodeAddress, NodeCondition, NodeStatus},
    };
    use kube::{
        Api, ResourceExt as _,
        api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    };
    use pki::{
        BootstrapToken, Directory, Issued, KeyHash, Names, Profile, Request, SigningPolicy, Usages,
        tls::Serving,
    };

    use super::*;
    use crate::wiring;

    /// A control plane in this process, on a port of its own, as `coracle server` runs it.
    struct ControlPlane {
        scope: Scope,
        state: tempfile::TempDir,
        address: ServerAddress,
        admin: Client,
    }

    /// Looks again until there is something.
    async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found)
            .await
            .unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    impl ControlPlane {
        async fn start() -> ControlPlane {
            drop(rustls::crypto::ring::default_provider().install_default());
            let (scope, state) = (Scope::root("test"), tempfile::tempdir().unwrap());
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut config = Config { state_dir: state.path().join("state"), ..Config::default() };
            config.server.bind_address = [127, 0, 0, 1].into();
            config.server.port = port;
            config.node.ip = Some([127, 0, 0, 1].into());
            config.node.name = Some("a".into());
            std::fs::create_dir_all(&config.state_dir).unwrap();
            let (kubeconfig, token) = (config.admin_kubeconfig(), scope.token());
            scope.spawn("server", async move {
                wiring::server(config, async move { token.cancelled().await }).await.unwrap();
            });
            let admin = eventually("the API answers", async || {
                let endpoint = Kubeconfig::load(&kubeconfig).ok()?.endpoint(None).ok()?;
                let client = client::connect(endpoint, &scope).ok()?.0;
                client.apiserver_version().await.ok().map(|_| client)
            })
            .await;
            let address = ServerAddress { host: "127.0.0.1".into(), port };
            ControlPlane { scope, state, address, admin }
        }

        fn directory(&self) -> Directory {
            Directory::open(&self.state.path().join("state/pki"), Timestamp::now()).unwrap()
        }

        fn hash(&self) -> KeyHash {
            KeyHash::of(self.directory().authority().certificate())
        }

        /// A token that has signed: it is waited for.
        async fn token(&self) -> BootstrapToken {
            let token = tokens::create(&self.admin, None, None, Timestamp::now()).await.unwrap();
            self.discover(&token).await.unwrap();
            token
        }

        async fn discover(&self, token: &BootstrapToken) -> Result<Discovered, DiscoverError> {
            join::discover(&self.address, token, &[self.hash()], &self.scope).await
        }

        async fn stop(self) {
            self.scope.close(Duration::from_secs(20)).await;
        }
    }

    /// A node that has joined: its files, and its own connection.
    struct Joined {
        paths: Paths,
        client: Client,
        reconnect: client::Reconnect,
        _state: tempfile::TempDir,
    }

    impl Joined {
        async fn new(cluster: &ControlPlane, name: &str) -> Joined {
            let discovered = cluster.discover(&cluster.token().await).await.unwrap();
            let state = tempfile::tempdir().unwrap();
            let paths = Paths::of(state.path());
            let pending = Pending::beside(&paths.client);
            let issued = join::enroll(&discovered, name, None, &pending, |_| {}).await.unwrap();
            paths.write(&discovered.server, &discovered.authority_pem, &issued, "").unwrap();
            let endpoint = Kubeconfig::load(&paths.kubeconfig).unwrap().endpoint(None).unwrap();
            let (client, reconnect) = client::connect(endpoint, &cluster.scope).unwrap();
            Joined { paths, client, reconnect, _state: state }
        }

        async fn register(&self, name: &str) {
            let node = Node {
                metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
                ..Node::default()
            };
            let api: Api<Node> = Api::all(self.client.clone());
            api.create(&PostParams::default(), &node).await.unwrap();
            let condition =
                NodeCondition { type_: "Ready".into(), status: "True".into(), ..NodeCondition::default() };
            let status = NodeStatus {
                addresses: Some(vec![NodeAddress {
                    type_: "InternalIP".into(),
                    address: "192.0.2.7".into(),
                }]),
                conditions: Some(vec![condition]),
                ..NodeStatus::default()
            };
            let patch = Patch::Strategic(json!({"status": status}));
            api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
        }

        /// By which credential the API knows us.
        async fn credential(&self) -> String {
            let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
            let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
            let user = review.status.unwrap().user_info.unwrap();
            user.extra.unwrap()["authentication.kubernetes.io/credential-id"].join(",")
        }
    }

    /// A client certificate of ten seconds, five minutes of which are over.
    fn nearly_over(cluster: &ControlPlane, node: &str) -> Issued {
        let key = pki::Key::generate().unwrap();
        let pem = Request::make(&Profile::KubeletClient { node: node.into() }, &key).unwrap();
        let request = Request::from_pem(pem.as_bytes()).unwrap();
        let policy =
            SigningPolicy { usages: Usages::client(), life: Duration::from_secs(10), now: Timestamp::now() };
        Issued::of(cluster.directory().authority().sign(&request, &policy).unwrap(), key).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_is_joined_by_a_token_and_only_by_the_right_one() {
        let cluster = ControlPlane::start().await;
        let token = cluster.token().await;
        let line = tokens::join_line(&cluster.admin, &token).await.unwrap();
        assert!(line.signed);
        let expected = format!(
            "coracle join {} --token {} --ca-cert-hash {}",
            cluster.address,
            token.reveal(),
            cluster.hash()
        );
        assert_eq!(line.text, expected);
        let stranger = BootstrapToken::generate().unwrap();
        let refused = cluster.discover(&stranger).await.unwrap_err();
        assert!(matches!(refused, DiscoverError::Distrust(Distrust::UnknownToken { .. })), "{refused}");
        let other: KeyHash = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let refused = join::discover(&cluster.address, &token, &[other], &cluster.scope).await.unwrap_err();
        assert!(matches!(refused, DiscoverError::Distrust(Distrust::WrongAuthority { .. })), "{refused}");

        let discovered = cluster.discover(&token).await.unwrap();
        assert_eq!(discovered.facts.pod_cidrs, ["10.244.0.0/16".parse().unwrap()]);
        let joined = Joined::new(&cluster, "n1").await;
        let member = joined.paths.member().unwrap().unwrap();
        assert_eq!(member.node_name, "n1");
        joined.register("n1").await;
        let pending = Pending::beside(&joined.paths.client);
        let refused = join::enroll(&discovered, "n1", None, &pending, |_| {}).await.unwrap_err();
        assert!(matches!(refused, EnrollError::Taken { .. }), "{refused}");
        // A token is for joining: it reads no Secrets, and ends when it is deleted.
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::all(discovered.client.clone());
        assert!(secrets.list(&Default::default()).await.is_err());
        tokens::delete(&cluster.admin, token.id()).await.unwrap();
        eventually("the token's end", async || {
            let refused = cluster.discover(&token).await.err()?;
            matches!(refused, DiscoverError::Distrust(Distrust::UnknownToken { .. })).then_some(())
        })
        .await;
        cluster.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_are_renewed_while_a_watch_runs() {
        let cluster = ControlPlane::start().await;
        let joined = Joined::new(&cluster, "n1").await;
        joined.register("n1").await;
        let short = nearly_over(&cluster, "n1");
        pki::write_atomically(&joined.paths.client, short.to_pem().as_bytes(), 0o600).unwrap();
        joined.reconnect.reconnect().await;
        let before = joined.credential().await;

        // One watch, opened before: it must not end when the certificate is renewed.
        let nodes: Api<Node> = Api::all(joined.client.clone());
        let own = WatchParams::default().fields("metadata.name=n1");
        let mut events = Box::pin(nodes.watch(&own, "0").await.unwrap());
        let label = async |value: &str| {
            let patch = Patch::Merge(json!({"metadata": {"labels": {"turn": value}}}));
            let all: Api<Node> = Api::all(cluster.admin.clone());
            all.patch("n1", &PatchParams::default(), &patch).await.unwrap();
        };
        label("first").await;
        let rotation = ClientRotation {
            node_name: "n1".into(),
            file: joined.paths.client.clone(),
            client: joined.client.clone(),
            reconnect: joined.reconnect.clone(),
            expiration_seconds: Some(3600),
            recovery: join::Recovery::Join,
        };
        let scope = cluster.scope.child("rotation");
        let within = scope.clone();
        scope.spawn("client", async move { join::rotate_client(rotation, within).await.unwrap() });
        eventually("new requests show the new certificate", async || {
            (joined.credential().await != before).then_some(())
        })
        .await;
        let renewed = Issued::from_pem(&std::fs::read(&joined.paths.client).unwrap()).unwrap();
        let left = renewed.certificate.not_after.duration_since(Timestamp::now()).as_secs();
        assert!((3500..=3600).contains(&left), "{left}");
        label("second").await;
        let seen = async {
            while let Some(event) = futures_util::StreamExt::next(&mut events).await {
                match event.unwrap() {
                    WatchEvent::Added(node) | WatchEvent::Modified(node)
                        if node.labels().get("turn").is_some_and(|turn| turn == "second") =>
                    {
                        return;
                    }
                    WatchEvent::Error(error) => panic!("{error:?}"),
                    _ => {}
                }
            }
            panic!("the watch ended");
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
        scope.close(Duration::from_secs(5)).await;
        cluster.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_serving_certificate_has_the_nodes_own_names_and_the_clusters_signature() {
        let cluster = ControlPlane::start().await;
        let joined = Joined::new(&cluster, "n1").await;
        let profile = Profile::KubeletServing { node: "n1".into(), names: Names::from_texts(&["n1"]) };
        let serving = Serving::new(&Issued::provisional(&profile, Timestamp::now()).unwrap()).unwrap();
        let file: PathBuf = joined.paths.serving.clone();
        let rotation = ServingRotation {
            node_name: "n1".into(),
            file: file.clone(),
            client: joined.client.clone(),
            serving: Arc::clone(&serving),
            expiration_seconds: None,
        };
        let scope = cluster.scope.child("rotation");
        scope.spawn("serving", join::rotate_serving(rotation, scope.clone()));
        joined.register("n1").await;
        let issued =
            eventually("a serving certificate", async || Issued::from_pem(&std::fs::read(&file).ok()?).ok())
                .await;
        assert_eq!(issued.certificate.names, Names::from_texts(&["n1", "192.0.2.7"]));
        assert!(issued.certificate.is_signed_by(cluster.directory().authority().certificate()));
        scope.close(Duration::from_secs(5)).await;
        cluster.stop().await;
    }

    fn asked(ip: Option<&str>) -> Join {
        Join {
            server: "192.0.2.1:6443".parse().unwrap(),
            token: "abcdef.0123456789abcdef".parse().unwrap(),
            ca_cert_hash: Vec::new(),
            node_name: None,
            node_ip: ip.map(|ip| ip.parse().unwrap()),
            no_start: false,
            common: crate::command::Common { config: None },
        }
    }

    #[test]
    fn a_machine_stands_to_a_cluster_by_name_server_and_certificate() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let server = |text: &str| text.parse::<ServerAddress>().unwrap();
        let now = at("2026-11-21T10:00:00Z");
        let hash = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse::<KeyHash>().unwrap();
        let asking = |digit: &str| Join { ca_cert_hash: vec![hash("0"), hash(digit)], ..asked(None) };
        let standing = |node: &str, of: &str, until: &str| {
            let member = Member { node_name: node.into(), not_after: at(until) };
            let joined = Membership { member, server: server(of), authorities: vec![hash("a")] };
            Standing::of(Some(joined), "a", &asking("a"), now)
        };
        assert_eq!(Standing::of(None, "a", &asking("a"), now), Standing::New);
        let joined = Membership {
            member: Member { node_name: "a".into(), not_after: at("2026-11-21T10:00:01Z") },
            server: server("192.0.2.1:6443"),
            authorities: vec![hash("b")],
        };
        assert_eq!(Standing::of(Some(joined), "a", &asking("a"), now), Standing::Remade { node: "a".into() });
        assert_eq!(standing("a", "192.0.2.1:6443", "2026-11-21T10:00:01Z"), Standing::Same);
        for (node, of) in [("b", "192.0.2.1:6443"), ("a", "192.0.2.2:6443"), ("a", "192.0.2.1:7443")] {
            let other = Standing::Other { node: node.into(), server: server(of) };
            assert_eq!(standing(node, of, "2026-11-21T10:00:01Z"), other);
            let expired = Standing::Expired { node: node.into(), not_after: now };
            assert_eq!(standing(node, of, "2026-11-21T10:00:00Z"), expired);
        }
    }

    #[test]
    fn what_the_cluster_says_is_a_configuration() {
        let facts = ClusterFacts {
            pod_cidrs: vec!["fd00::/56".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.2.0.0/16".parse().unwrap()],
            cluster_domain: Some("c.local".into()),
            cluster_dns: vec!["10.2.0.10".parse().unwrap()],
        };
        let text = joined_yaml("b", &asked(Some("192.0.2.2")), &facts);
        let config = Config::parse("joined.yaml", &text).unwrap();
        assert_eq!(config.node.name.as_deref(), Some("b"));
        assert_eq!(config.node.ip, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(config.network.pod_cidr, "10.1.0.0/16".parse().unwrap());
        assert_eq!(config.network.service_cidr, "10.2.0.0/16".parse().unwrap());
        assert_eq!(config.kubelet.cluster_domain, "c.local");
        assert_eq!(config.kubelet.cluster_dns, facts.cluster_dns);
    }

    #[test]
    fn a_cluster_that_says_nothing_leaves_the_defaults() {
        let text = joined_yaml("b", &asked(None), &ClusterFacts::default());
        let mut config = Config::parse("joined.yaml", &text).unwrap();
        config.node.name = None;
        assert_eq!(config, Config::default());
    }
}
