//! A request, what the other side sees of it, and what comes back.

use std::io::Write;

use lifecycle::Scope;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use super::*;
use crate::request;

const DEADLINE: Duration = Duration::from_secs(30);
const PREFIX: &str = "/api/v1/namespaces/d/pods/web/proxy";

/// Reads a request with its body of `body` bytes, answers, and gives what was read.
async fn other_side(mut far: DuplexStream, body: usize, answer: &[u8]) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(far.read_u8().await.unwrap());
    }
    let mut rest = vec![0; body];
    far.read_exact(&mut rest).await.unwrap();
    seen.extend(rest);
    far.write_all(answer).await.unwrap();
    String::from_utf8(seen).unwrap()
}

fn proxy() -> Proxy {
    let config = rustls::ClientConfig::clone(&streaming::tls::any_certificate());
    Proxy { connector: Connector::new(config, &Scope::root("test")), kind: Kind::Pod, pages: pages() }
}

/// A request of a caller's.
struct Asks {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Body,
    /// How much of the body reaches the other side, in its encoding.
    seen: usize,
}

impl Asks {
    fn of(method: &'static str, path: &'static str) -> Asks {
        Asks { method, path, headers: &[], body: body::empty(), seen: 0 }
    }
}

/// What the other side saw, and what the caller gets.
async fn exchanged(asks: Asks, answer: &[u8]) -> (String, Result<Response<Body>, ApiError>) {
    let Asks { method, path, headers, body, seen } = asks;
    let asked = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
    let mut asked = asked.header("host", "api:6443").header("authorization", "Bearer secret");
    for (name, value) in headers {
        asked = asked.header(*name, *value);
    }
    let (parts, ()) = asked.body(()).unwrap().into_parts();
    let info = request::parse(&parts.method, &parts.uri).unwrap();
    let route = Route::of(&info.path, info.rest.len());
    let asked = ActionRequest { info, parts, object: Value::Null, body, dry_run: false };
    let to = Endpoint { host: "10.0.0.7".into(), port: 80 };
    let (near, far) = duplex(1 << 16);
    let proxy = proxy();
    let both = async {
        tokio::join!(proxy.exchange(Box::new(near), &to, &route, asked), other_side(far, seen, answer))
    };
    let (answered, seen) = timeout(DEADLINE, both).await.expect("it hangs");
    let raw = answered.map(|answered| match answered {
        Respond::Raw(response) => response,
        Respond::Object(..) => panic!("{answered:?}"),
    });
    (seen, raw)
}

/// What the other side saw, the answer's headers and its body.
async fn proxied(
    method: &'static str,
    path: &'static str,
    sent: &'static str,
    answer: &[u8],
) -> (String, HeaderMap, String) {
    let headers: &[_] = if sent.is_empty() { &[] } else { &[("content-length", "5")] };
    let asks = Asks { headers, body: body::full(sent), seen: sent.len(), ..Asks::of(method, path) };
    let (seen, response) = exchanged(asks, answer).await;
    let (headers, body) = read(response.unwrap()).await;
    (seen, headers, body)
}

async fn read(response: Response<Body>) -> (HeaderMap, String) {
    let (head, body) = response.into_parts();
    let body = timeout(DEADLINE, body.collect()).await.expect("it has no end").unwrap().to_bytes();
    (head.headers, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_goes_on_and_its_answer_comes_back() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nx-own: 1\r\n\r\n</a/>";
    let (seen, headers, body) = proxied("POST", "/a/b?c=d", "hello", answer).await;
    assert!(seen.starts_with("POST /a/b?c=d HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nhello"), "{seen}");
    assert!(seen.contains(&format!("x-forwarded-uri: {PREFIX}/a/b\r\n")), "{seen}");
    assert!(seen.contains("host: api:6443\r\n") && !seen.contains("secret"), "{seen}");
    assert_eq!((headers["x-own"].as_bytes(), body.as_str()), (&b"1"[..], "</a/>"));
}

#[tokio::test]
async fn links_of_a_page_and_redirects_lead_through_the_proxy() {
    let page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 26\r\n\r\n<a href=\"/rewriteme\">t</a>";
    let (_, headers, body) = proxied("GET", "/", "", page).await;
    assert_eq!(body, format!("<a href=\"{PREFIX}/rewriteme\">t</a>"));
    assert!(!headers.contains_key("content-length"));
    let elsewhere = b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.7:80/login\r\ncontent-length: 0\r\n\r\n";
    let (_, headers, _) = proxied("GET", "/", "", elsewhere).await;
    assert_eq!(headers["location"].to_str().unwrap(), format!("{PREFIX}/login"));
}

#[tokio::test]
async fn a_page_that_is_too_big_passes_as_it_is() {
    let big = vec![b'x'; MAX_PAGE + 1];
    let Ok(Err(passed)) = whole(body::full(big.clone())).await else { panic!("it was taken whole") };
    assert_eq!(passed.collect().await.unwrap().to_bytes().len(), big.len());
    let Ok(Ok(small)) = whole(body::full("page")).await else { panic!("it was not taken") };
    assert_eq!(small.as_ref(), b"page");
}

/// What would be hundreds of megabytes with its links.
#[tokio::test]
async fn a_page_of_nothing_but_links_passes_as_it_is() {
    let dense = format!("<a{}>", " href=/".repeat(1 << 20));
    assert!(dense.len() < MAX_PAGE && dense.len() + (PREFIX.len() << 20) > MAX_REWRITTEN);
    let length = dense.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n");
    let (_, headers, body) = proxied("GET", "/", "", format!("{head}{dense}").as_bytes()).await;
    assert_eq!(headers["content-length"].to_str().unwrap(), length.to_string());
    assert!(body == dense, "{} bytes", body.len());
    let packed = packed(&dense);
    assert!(packed.len() < 1 << 16, "{}", packed.len());
    let response = Response::builder().header("content-type", "text/html").header("content-encoding", "gzip");
    let response = response.body(body::full(packed.clone())).unwrap();
    let links = Links { prefix: PREFIX.into(), backend: String::new(), asked: String::new() };
    let passed = proxy().with_links(response, &links).await.unwrap();
    assert_eq!(passed.headers()["content-encoding"], "gzip");
    assert!(passed.into_body().collect().await.unwrap().to_bytes() == packed);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_no_worker_is_free_for_passes_as_it_is() {
    let response = Response::builder().header("content-type", "text/html").body(body::full("<a href=/>"));
    let links = Links { prefix: PREFIX.into(), backend: String::new(), asked: String::new() };
    let busy = Proxy { pages: Workers::new(0), ..proxy() };
    let passed = timeout(2 * REWRITING, busy.with_links(response.unwrap(), &links)).await.unwrap();
    assert_eq!(read(passed.unwrap()).await.1, "<a href=/>");
}

fn packed(page: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(page.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_page_may_be_compressed_piece_by_piece() {
    let pieces = [packed("<a href="), packed("/x>")].concat();
    assert_eq!(unpacked(&pieces).unwrap(), b"<a href=/x>");
    assert_eq!(unpacked(b"no gzip"), None);
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_body_goes_on_whatever_the_headers_say_besides() {
    let asks = |method, headers, seen| {
        let pieces = stream::iter([Ok::<_, body::BoxError>(Frame::data(Bytes::from_static(b"hello")))]);
        let body = StreamBody::new(pieces).boxed_unsync();
        Asks { headers, body, seen, ..Asks::of(method, "/x") }
    };
    // No upgrade: the connection's options name none.
    let sent: &[_] = &[("upgrade", "x"), ("content-length", "5")];
    let (seen, answer) = exchanged(asks("POST", sent, 5), OK).await;
    assert!(seen.ends_with("\r\n\r\nhello") && !seen.contains("upgrade"), "{seen}");
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    let sent: &[_] = &[("upgrade", "x"), ("connection", "keep-alive, Upgrade"), ("content-length", "5")];
    let (seen, answer) = exchanged(asks("POST", sent, 5), REFUSED.as_bytes()).await;
    assert!(seen.ends_with("\r\n\r\nhello") && seen.contains("upgrade: x\r\n"), "{seen}");
    assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for sent in [&[("transfer-encoding", "chunked")][..], &[]] {
        let (seen, answer) = exchanged(asks("GET", sent, chunks.len()), OK).await;
        assert!(seen.ends_with(chunks) && seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    let (seen, _) = exchanged(Asks::of("GET", "/x"), OK).await;
    assert!(!seen.contains("transfer-encoding"), "{seen}");
}

const REFUSED: &str = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\nretry-after: 3\r\nset-cookie: a=1\r\n\
    access-control-allow-origin: *\r\nlocation: /login\r\ncontent-length: 2\r\n\r\nno";

#[tokio::test]
async fn a_refused_upgrade_is_told_with_its_headers() {
    let headers = &[("upgrade", "x"), ("connection", "Upgrade")];
    let (_, refused) = exchanged(Asks { headers, ..Asks::of("GET", "/x") }, REFUSED.as_bytes()).await;
    let (headers, body) = read(refused.unwrap()).await;
    assert_eq!(body, "no");
    for (name, value) in [("www-authenticate", "Basic"), ("retry-after", "3"), ("set-cookie", "a=1")] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(headers["location"].to_str().unwrap(), format!("{PREFIX}/login"));
    assert!(!headers.contains_key("access-control-allow-origin") && !headers.contains_key("content-length"));
    let long = REFUSED.replace("content-length: 2", "content-length: 60000").replace("\r\nno", "\r\n");
    let long = long + &"x".repeat(60_000);
    let headers = &[("upgrade", "x"), ("connection", "Upgrade")];
    let (_, refused) = exchanged(Asks { headers, ..Asks::of("GET", "/x") }, long.as_bytes()).await;
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(read(refused).await.1.len(), 50_000);
}

#[tokio::test]
async fn what_does_not_speak_http_is_told_with_the_cause() {
    let (_, answer) = exchanged(Asks::of("GET", "/x"), b"SSH-2.0-x\r\n").await;
    let refused = answer.map(drop).unwrap_err();
    assert_eq!(refused.code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.message, "error trying to reach service: speak HTTP: invalid HTTP version parsed");
}
