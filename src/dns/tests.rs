//! The server over real sockets on loopback, with an API and upstream resolvers that the test plays.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use client::Cache;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};
use http::{Request, Response};
use http_body_util::Full;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use lifecycle::Scope;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::{
    clients::Clients,
    forward::{Forwarder, Settings},
    observe::Objects,
    respond::{Responder, Step, Transport},
    serve::{self, Sockets},
    zone::Zone,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn objects(path: &str) -> Vec<Value> {
    let service =
        |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    match path.rsplit('/').next() {
        Some("nodes") => vec![json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.5"}, {"type": "ExternalIP", "address": "192.0.2.5"},
            {"type": "Hostname", "address": "n1"}]}})],
        Some("namespaces") => vec![json!({"metadata": {"name": "default"}})],
        Some("services") => vec![
            service("web", json!({"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]})),
            service("many", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        ],
        Some("endpointslices") => {
            let endpoints: Vec<Value> =
                (0..200).map(|n| json!({"addresses": [format!("10.244.0.{n}")]})).collect();
            vec![json!({
                "metadata": {"name": "many-1", "namespace": "default", "labels": {
                    "kubernetes.io/service-name": "many", "service.kubernetes.io/headless": "",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
                "addressType": "IPv4", "endpoints": endpoints,
            })]
        }
        _ => Vec::new(),
    }
}

/// Lists what there is and never ends a watch; without `ready`, no list is answered either.
fn cache(ready: bool, scope: &Scope) -> Cache {
    let api = tower::service_fn(move |request: Request<kube::client::Body>| async move {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        if watch || !ready {
            std::future::pending::<()>().await;
        }
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": objects(request.uri().path())});
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(list.to_string()))))
    });
    Cache::new(client::from_service(api), scope)
}

struct Server {
    address: SocketAddr,
    responder: Arc<Responder>,
    scope: Scope,
    files: TempDir,
}

impl Server {
    async fn start(ready: bool, port: u16, resolvers: &[&str]) -> Self {
        let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        Self::start_on(sockets, ready, port, resolvers).await
    }

    async fn start_on(sockets: Sockets, ready: bool, port: u16, resolvers: &[&str]) -> Self {
        let (scope, files) = (Scope::root("test"), TempDir::new().unwrap());
        let cache = cache(ready, &scope);
        let objects = Objects::new(&cache);
        if ready {
            let nodes = cache.store::<Node>();
            tokio::time::timeout(DEADLINE, objects.wait_synced()).await.unwrap();
            tokio::time::timeout(DEADLINE, nodes.wait_synced()).await.unwrap();
        }
        let resolv_conf = files.path().join("resolv.conf");
        write(&resolv_conf, resolvers);
        let ranges: Vec<IpNet> = vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
        let responder = Arc::new(Responder {
            zone: Zone::new("cluster.local", ranges.clone(), 30, 1).unwrap(),
            objects,
            forwarder: Arc::new(Forwarder::new(Settings { resolv_conf, port, ourselves: Vec::new() })),
            clients: Clients::new(ranges, &cache),
        });
        let address = sockets.address().unwrap();
        scope.spawn("dns", serve::run(sockets, Arc::clone(&responder), scope.clone()));
        Self { address, responder, scope, files }
    }

    async fn udp(&self, question: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(question).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        Message::from_vec(&self.udp(&question(name, kind, None)).await).unwrap()
    }

    async fn stop(self) {
        assert!(self.scope.close(DEADLINE).await, "every task ends");
        drop(self.files);
    }
}

fn write(file: &Path, resolvers: &[&str]) {
    let text: String = resolvers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let part = file.with_extension("part");
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, file).unwrap();
}

fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = message(name, kind);
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A resolver that has one address for every name, and counts who asks.
struct Resolver {
    asked: Arc<AtomicUsize>,
    port: u16,
    scope: Scope,
}

impl Resolver {
    /// With `cut`, every reply by UDP says that there is more by TCP.
    async fn start(address: IpAddr, cut: bool, code: ResponseCode) -> Self {
        let tcp = TcpListener::bind((address, 0)).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((address, port)).await.unwrap();
        let (scope, asked) = (Scope::root("resolver"), Arc::new(AtomicUsize::new(0)));
        let reply = move |bytes: &[u8], cut: bool| {
            let mut message = Message::from_vec(bytes).unwrap();
            message.metadata.message_type = MessageType::Response;
            message.metadata.recursion_available = true;
            message.metadata.response_code = code;
            message.metadata.truncation = cut;
            let name = message.queries[0].name().clone();
            if !cut && code == ResponseCode::NoError {
                message.add_answer(Record::from_rdata(name, 600, RData::A(A::new(192, 0, 2, 80))));
            }
            message.to_vec().unwrap()
        };
        let (token, count) = (scope.token(), Arc::clone(&asked));
        scope.spawn("resolver", async move {
            let mut buffer = vec![0; 4096];
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    received = udp.recv_from(&mut buffer) => {
                        let (length, peer) = received.unwrap();
                        let probe = Message::from_vec(&buffer[..length]).unwrap().queries[0].query_type();
                        count.fetch_add(usize::from(probe != RecordType::HINFO), Ordering::SeqCst);
                        udp.send_to(&reply(&buffer[..length], cut), peer).await.unwrap();
                    }
                    accepted = tcp.accept() => {
                        let mut stream = accepted.unwrap().0;
                        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                        stream.read_exact(&mut bytes).await.unwrap();
                        let bytes = reply(&bytes, false);
                        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                        stream.write_all(&bytes).await.unwrap();
                    }
                }
            }
        });
        Self { asked, port, scope }
    }

    async fn local(cut: bool) -> Self {
        Self::start(Ipv4Addr::LOCALHOST.into(), cut, ResponseCode::NoError).await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn names_of_the_cluster_are_answered_by_udp_with_all_that_belongs_to_an_answer() {
    let server = Server::start(true, 53, &[]).await;
    let reply = server.udp(&question("wEb.default.SVC.cluster.local.", RecordType::A, Some(4096))).await;
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((reply.metadata.id, data(&reply)), (77, vec!["10.96.0.9".to_string()]));
    assert!(
        reply.metadata.authoritative
            && reply.metadata.recursion_available
            && reply.metadata.recursion_desired
    );
    let asked = Name::from_ascii("wEb.default.SVC.cluster.local.").unwrap();
    assert!(reply.queries[0].name().eq_case(&asked) && reply.answers[0].name.eq_case(&asked));
    assert_eq!((reply.answers[0].ttl, reply.edns.unwrap().max_payload()), (30, 1232));

    let reply = server.ask("no.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NXDomain, 0));
    assert_eq!((reply.authorities[0].record_type(), reply.authorities[0].ttl), (RecordType::SOA, 30));
    assert!(reply.edns.is_none(), "who has no EDNS gets none");
    let reply = server.ask("web.default.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_room_in_a_datagram_is_told_by_tcp() {
    let server = Server::start(true, 53, &[]).await;
    for (payload, limit) in [(None, 512), (Some(1000), 1000), (Some(4096), 1232)] {
        let reply = server.udp(&question("many.default.svc.cluster.local.", RecordType::A, payload)).await;
        assert!(reply.len() <= limit, "{} of {limit}", reply.len());
        assert!(Message::from_vec(&reply).unwrap().metadata.truncation);
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        let question = question("many.default.svc.cluster.local.", RecordType::A, None);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert!(!reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_proper_question_is_refused_by_name_or_not_answered() {
    let server = Server::start(true, 53, &[]).await;
    let code =
        async |bytes: &[u8]| Message::from_vec(&server.udp(bytes).await).unwrap().metadata.response_code;
    let web = "web.default.svc.cluster.local.";
    let good = question(web, RecordType::A, None);
    assert_eq!(code(&good[..good.len() - 1]).await, ResponseCode::FormErr);
    let mut none = good.clone();
    none[5] = 0;
    assert_eq!(code(&none).await, ResponseCode::FormErr);
    let mut update = good.clone();
    update[2] = 0x28;
    assert_eq!(code(&update).await, ResponseCode::NotImp);
    let mut chaos = message("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos.to_vec().unwrap()).await, ResponseCode::Refused);
    assert_eq!(code(&question("cluster.local.", RecordType::AXFR, None)).await, ResponseCode::Refused);
    let mut later = message(web, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    later.set_edns(edns);
    assert_eq!(u16::from(code(&later.to_vec().unwrap()).await), u16::from(ResponseCode::BADVERS));
    // Replies and scraps are not answered: the next answer is the one to the next question.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut reply = good.clone();
    reply[2] |= 0x80;
    for bytes in [&reply[..], &good[..11], &good[..]] {
        socket.send_to(bytes, server.address).await.unwrap();
    }
    let mut buffer = [0; 512];
    let length = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(data(&Message::from_vec(&buffer[..length]).unwrap()), ["10.96.0.9"]);
    server.stop().await;
}

#[tokio::test]
async fn before_the_cluster_is_known_its_names_are_not_denied() {
    let resolver = Resolver::local(false).await;
    let server = Server::start(false, resolver.port, &["127.0.0.1"]).await;
    for name in ["no.default.svc.cluster.local.", "9.0.96.10.in-addr.arpa."] {
        let reply = server.ask(name, RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
    assert_eq!(data(&server.ask("example.com.", RecordType::A).await), ["192.0.2.80"]);
    server.stop().await;
    resolver.scope.close(DEADLINE).await;
}

#[tokio::test]
async fn other_names_are_asked_for_whoever_belongs_to_the_cluster_and_for_nobody_else() {
    let told = |server: &Server, name: &str, peer: &str| {
        let kind = if name.ends_with(".arpa.") { RecordType::PTR } else { RecordType::A };
        let question = question(name, kind, None);
        match server.responder.begin(&question, Transport::Udp, peer.parse().unwrap()) {
            Step::Ask(_) => "asked".to_owned(),
            Step::Drop => "dropped".to_owned(),
            Step::Reply(reply) => {
                let reply = Message::from_vec(&reply).unwrap();
                format!(
                    "{} {:?} {}",
                    reply.metadata.response_code,
                    data(&reply),
                    reply.metadata.recursion_available
                )
            }
        }
    };
    let server = Server::start(true, 53, &[]).await;
    // Loopback, a pod, a node (as the masqueraded packet of a pod), each also as IPv6 writes it.
    for peer in ["127.0.0.1", "::1", "10.244.3.9", "::ffff:10.244.3.9", "192.0.2.5", "::ffff:192.0.2.5"] {
        assert_eq!(told(&server, "example.com.", peer), "asked", "{peer}");
        assert_eq!(told(&server, "out.default.svc.cluster.local.", peer), "asked", "{peer}");
    }
    let stranger = "198.51.100.9";
    assert_eq!(told(&server, "example.com.", stranger), "Query Refused [] false");
    assert_eq!(
        told(&server, "7.113.0.203.in-addr.arpa.", stranger),
        "Query Refused [] false",
        "nor addresses"
    );
    assert_eq!(told(&server, "web.default.svc.cluster.local.", stranger), "No Error [\"10.96.0.9\"] false");
    assert_eq!(
        told(&server, "out.default.svc.cluster.local.", stranger),
        "No Error [\"www.example.com.\"] false",
        "the alias is the cluster's, and what it leads to is not"
    );
    server.stop().await;
    let early = Server::start(false, 53, &[]).await;
    assert_eq!(told(&early, "example.com.", "192.0.2.5"), "Server Failure [] false", "it may be a node");
    assert_eq!(told(&early, "7.113.0.203.in-addr.arpa.", "192.0.2.5"), "Server Failure [] false");
    assert_eq!(told(&early, "example.com.", "10.244.3.9"), "asked");
    early.stop().await;
}

#[tokio::test]
async fn other_names_are_asked_upstream_and_kept_for_a_while() {
    let resolver = Resolver::local(true).await;
    // The first of them is nobody.
    let server = Server::start(true, resolver.port, &["127.0.0.3", "127.0.0.1"]).await;
    let reply = server.ask("www.Example.com.", RecordType::A).await;
    assert_eq!((data(&reply), reply.answers[0].ttl), (vec!["192.0.2.80".to_string()], 30));
    assert!(!reply.metadata.authoritative && !reply.metadata.truncation, "TCP was asked for the whole");
    let reply = server.ask("WWW.example.com.", RecordType::A).await;
    assert!(reply.queries[0].name().eq_case(&Name::from_ascii("WWW.example.com.").unwrap()));
    assert_eq!((data(&reply), resolver.asked()), (vec!["192.0.2.80".to_string()], 1));

    let reply = server.ask("out.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply), ["www.example.com.", "192.0.2.80"]);
    // Addresses outside of the cluster's ranges are somebody else's; names of the cluster never are.
    server.ask("1.2.0.192.in-addr.arpa.", RecordType::PTR).await;
    let before = resolver.asked();
    server.ask("1.0.96.10.in-addr.arpa.", RecordType::PTR).await;
    server.ask("no.such.cluster.local.", RecordType::A).await;
    assert_eq!(resolver.asked(), before);
    server.stop().await;
    resolver.scope.close(DEADLINE).await;
}

#[tokio::test]
async fn a_resolver_that_cannot_is_passed_over_and_its_word_is_the_last() {
    let broken = Resolver::start(Ipv4Addr::new(127, 0, 0, 4).into(), false, ResponseCode::ServFail).await;
    let server = Server::start(true, broken.port, &["127.0.0.4", "127.0.0.5"]).await;
    let reply = server.ask("example.com.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let none = Server::start(true, broken.port, &[]).await;
    assert_eq!(none.ask("example.com.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    none.stop().await;
    server.stop().await;
    broken.scope.close(DEADLINE).await;
}

#[tokio::test]
async fn a_resolver_that_asks_us_in_turn_is_found_out() {
    let sockets = Sockets::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let port = sockets.address().unwrap().port();
    let server = Server::start_on(sockets, true, port, &["127.0.0.1"]).await;
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        // The first question finds the resolver; the circle is seen soon after, and the questions in it end.
        let reply = server.ask("example.com.", RecordType::A).await;
        assert!([ResponseCode::ServFail, ResponseCode::Refused].contains(&reply.metadata.response_code));
        let asked = std::time::Instant::now();
        server.ask("example.org.", RecordType::A).await;
        if asked.elapsed() < Duration::from_millis(100) {
            break;
        }
        assert!(std::time::Instant::now() < until, "questions still go round");
    }
    server.stop().await;
}
