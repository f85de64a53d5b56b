//! HTTP checks: GET, any certificate, redirects within the host, and a status from 200 to 399.

use std::{
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use ::http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    check::{MOST_OUTPUT, Verdict},
    dial::{dial, shown},
    spec::HttpCheck,
};

const USER_AGENT: &str = "kube-probe/1.36";
const MOST_REDIRECTS: usize = 10;

/// Where a request goes: a redirect may change all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", shown(&self.host, self.port), self.path)
    }
}

struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
}

pub(super) async fn get(tls: &Tls, host: &str, check: &HttpCheck, timeout: Duration) -> Verdict {
    let place = Place { https: check.https, host: host.into(), port: check.port, path: check.path.clone() };
    let url = place.url();
    match tokio::time::timeout(timeout, follow(tls, place, &check.headers)).await {
        Ok(Ok(answer)) => verdict(&answer),
        Ok(Err(why)) => Verdict::Failure(format!("Get \"{url}\": {why}")),
        Err(_) => {
            let words = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Verdict::Failure(format!("Get \"{url}\": {words}"))
        }
    }
}

fn verdict(answer: &Answer) -> Verdict {
    match answer.status.as_u16() {
        200..300 => Verdict::Success,
        300..400 => Verdict::Warning(format!("Probe terminated redirects, Response body: {}", answer.body)),
        code => Verdict::Failure(format!("HTTP probe failed with statuscode: {code}")),
    }
}

async fn follow(tls: &Tls, mut place: Place, headers: &[(String, String)]) -> Result<Answer, String> {
    for _ in 0..MOST_REDIRECTS {
        let answer = ask(tls, &place, headers).await?;
        let redirects = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        match answer.location.as_deref().filter(|_| redirects) {
            None => return Ok(answer),
            Some(location) => match redirected(&place, location) {
                Some(next) if next.host == place.host => place = next,
                // Another host: where this one points is not its own health.
                _ => return Ok(answer),
            },
        }
    }
    Err(format!("stopped after {MOST_REDIRECTS} redirects"))
}

fn redirected(from: &Place, location: &str) -> Option<Place> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match (uri.scheme_str(), uri.host()) {
        (scheme, Some(host)) => {
            let https = scheme.map_or(from.https, |scheme| scheme == "https");
            let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
            let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            Some(Place { https, host, port, path: path.into() })
        }
        (_, None) if location.starts_with('/') => Some(Place { path: path.into(), ..from.clone() }),
        (_, None) => None,
    }
}

async fn ask(tls: &Tls, place: &Place, headers: &[(String, String)]) -> Result<Answer, String> {
    let request = request(place, headers)?;
    let stream = dial(&place.host, place.port).await.map_err(|error| error.to_string())?;
    if !place.https {
        return exchange(stream, request).await;
    }
    let stream = tls.connect(&place.host, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await
}

fn request(place: &Place, headers: &[(String, String)]) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(&place.path).body(Empty::new()).map_err(|error| error.to_string())?;
    let all = request.headers_mut();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        all.append(name, HeaderValue::from_str(value).map_err(|error| error.to_string())?);
    }
    let host = HeaderValue::from_str(&shown(&place.host, place.port)).map_err(|error| error.to_string())?;
    all.entry(header::HOST).or_insert(host);
    all.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    // Set to nothing, it is not sent at all.
    match all.get(header::ACCEPT) {
        None => drop(all.insert(header::ACCEPT, HeaderValue::from_static("*/*"))),
        Some(value) if value.is_empty() => drop(all.remove(header::ACCEPT)),
        Some(_) => {}
    }
    all.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(String::from);
        let status = response.status();
        let body = read(response.into_body()).await?;
        Ok(Answer { status, location, body })
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It ends with the last byte; what it has read is still to be taken.
        _ = connection => answer.await,
    }
}

/// As much of it as is wanted.
async fn read(mut body: hyper::body::Incoming) -> Result<String, String> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() >= MOST_OUTPUT {
            text.truncate(MOST_OUTPUT);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Encryption without trust: probes and hooks ask whether somebody answers, not who. Clones share one client.
#[derive(Clone, Debug)]
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// The one of this process.
    pub(crate) fn shared() -> &'static Tls {
        static SHARED: LazyLock<Tls> = LazyLock::new(|| Tls(streaming::tls::any_certificate()));
        &SHARED
    }

    /// # Errors
    /// Also when the other side does not speak TLS: the cause is a [`rustls::Error`].
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        tokio_rustls::TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    /// Answers each path by a table, and tells what it was asked.
    async fn server(answers: &'static [(&'static str, &'static str)]) -> (u16, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, asked) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = String::new();
                while !request.contains("\r\n\r\n") {
                    let mut buffer = [0; 1024];
                    let count = stream.read(&mut buffer).await.unwrap();
                    request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                }
                let path = request.split(' ').nth(1).unwrap();
                if let Some((_, answer)) = answers.iter().find(|(own, _)| *own == path) {
                    stream
                        .write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 2\r\n\r\nok").as_bytes())
                        .await
                        .unwrap();
                    told.send(request.clone()).await.unwrap();
                } else {
                    // Says nothing, for ever.
                    std::mem::forget(stream);
                }
            }
        });
        (port, asked)
    }

    async fn probe(port: u16, path: &str, timeout_ms: u64) -> Verdict {
        let headers = vec![("X-Probe".to_string(), "1".to_string())];
        let check = HttpCheck { https: false, host: None, port, path: path.into(), headers };
        get(Tls::shared(), "127.0.0.1", &check, Duration::from_millis(timeout_ms)).await
    }

    #[tokio::test]
    async fn the_status_decides_and_redirects_stay_on_the_host() {
        let (port, mut asked) = server(&[
            ("/ok", "200 OK"),
            ("/bad", "500 No"),
            ("/here", "302 Found\r\nlocation: /ok"),
            ("/away", "302 Found\r\nlocation: http://example.com/"),
            ("/loop", "301 Moved\r\nlocation: /loop"),
        ])
        .await;
        assert_eq!(probe(port, "/ok", 5000).await, Verdict::Success);
        let request = asked.recv().await.unwrap().to_lowercase();
        for line in [
            "get /ok http/1.1",
            "x-probe: 1",
            "user-agent: kube-probe/1.36",
            "accept: */*",
            "connection: close",
        ] {
            assert!(request.contains(line), "{request}");
        }
        assert!(request.contains(&format!("host: 127.0.0.1:{port}")), "{request}");
        let failed = Verdict::Failure("HTTP probe failed with statuscode: 500".into());
        assert_eq!(probe(port, "/bad", 5000).await, failed);
        assert_eq!(probe(port, "/here", 5000).await, Verdict::Success);
        let warned = Verdict::Warning("Probe terminated redirects, Response body: ok".into());
        assert_eq!(probe(port, "/away", 5000).await, warned);
        let looped = format!("Get \"http://127.0.0.1:{port}/loop\": stopped after 10 redirects");
        assert_eq!(probe(port, "/loop", 5000).await, Verdict::Failure(looped));
    }

    #[tokio::test]
    async fn silence_and_closed_doors_are_failures_in_upstreams_words() {
        let (port, _asked) = server(&[]).await;
        let Verdict::Failure(words) = probe(port, "/silence", 50).await else { panic!("it said nothing") };
        assert!(words.contains("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let refused = format!(
            "Get \"http://127.0.0.1:{closed}/x\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        );
        assert_eq!(probe(closed, "/x", 5000).await, Verdict::Failure(refused));
    }

    #[test]
    fn a_redirect_may_be_relative_to_the_host() {
        let from = Place { https: true, host: "::1".into(), port: 8443, path: "/a".into() };
        let to = redirected(&from, "/b?c").unwrap();
        assert_eq!(to.url(), "https://[::1]:8443/b?c");
        assert_eq!(redirected(&from, "http://[::1]/x").unwrap().url(), "http://[::1]:80/x");
    }
}
