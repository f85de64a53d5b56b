//! A request, what the other side sees of it, and what comes back.

use lifecycle::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::request;

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

/// What the other side saw, the answer's headers and its body.
async fn proxied(method: &str, path: &str, sent: &'static str, answer: &[u8]) -> (String, HeaderMap, String) {
    let config = rustls::ClientConfig::clone(&streaming::tls::any_certificate());
    let proxy = Proxy { connector: Connector::new(config, &Scope::root("test")), kind: Kind::Pod };
    let asked = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
    let asked = asked.header("host", "api:6443").header("authorization", "Bearer secret");
    let asked = asked.header("content-length", sent.len().to_string());
    let (parts, ()) = asked.body(()).unwrap().into_parts();
    let info = request::parse(&parts.method, &parts.uri).unwrap();
    let route = Route::of(&info.path, info.rest.len());
    let asked = ActionRequest { info, parts, object: Value::Null, body: body::full(sent), dry_run: false };
    let to = Endpoint { host: "10.0.0.7".into(), port: 80 };
    let (near, far) = duplex(1 << 16);
    let (answered, seen) =
        tokio::join!(proxy.exchange(Box::new(near), &to, &route, asked), other_side(far, sent.len(), answer));
    let Ok(Respond::Raw(response)) = answered else { panic!("{answered:?}") };
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (seen, head.headers, String::from_utf8(body.to_vec()).unwrap())
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
