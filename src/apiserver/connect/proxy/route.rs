//! A proxied request's path and headers, and those of its answer. No IO.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::authn::TOKEN_PROTOCOL;

/// What concerns one connection and not the one behind it (RFC 9110, 7.6.1).
const OF_ONE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Whom a page may be shown to is the API server's to say, not what is behind it.
const CORS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];
/// What a caller shows to the API server alone.
const CREDENTIALS: [&str; 2] = ["impersonate-", "x-remote-"];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// A path of the API, cut where the other side's begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Up to and with `proxy`, without a slash at its end.
    pub(super) prefix: String,
    /// As sent, with its slash; empty where not even that follows.
    pub(super) path: String,
}

impl Route {
    /// `rest`: how many parts of the path are the other side's.
    pub(super) fn of(path: &str, rest: usize) -> Route {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (ours, theirs) = parts.split_at(parts.len().saturating_sub(rest));
        let mut inner = String::new();
        for part in theirs {
            inner.push('/');
            inner.push_str(part);
        }
        if path.ends_with('/') {
            inner.push('/');
        }
        Route { prefix: format!("/{}", ours.join("/")), path: inner }
    }

    /// What the other side is asked for.
    pub(super) fn target(&self, query: Option<&str>) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        with_query(path, query)
    }

    /// Where a browser has to be for a page's relative links to lead on: behind a slash.
    pub(super) fn with_slash(&self, query: Option<&str>) -> String {
        with_query(&format!("{}/", self.prefix), query)
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

/// A request that asks for another protocol: the header says so to whom the connection goes (RFC 9110, 7.8).
pub(in crate::connect) fn is_upgrade(headers: &HeaderMap) -> bool {
    let options = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = options.flat_map(|value| value.split(','));
    headers.contains_key(header::UPGRADE)
        && options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// What the other side is told: what the caller said, less what concerns only the API server, and where he came from.
pub(super) fn onwards(headers: &HeaderMap, uri: &Uri, route: &Route, caller: Option<IpAddr>) -> HeaderMap {
    let mut told = headers.clone();
    remove_hops(&mut told);
    told.remove(header::AUTHORIZATION);
    let secret = |name: &HeaderName| CREDENTIALS.iter().any(|prefix| name.as_str().starts_with(prefix));
    let secrets: Vec<HeaderName> = told.keys().filter(|name| secret(name)).cloned().collect();
    for name in secrets {
        told.remove(name);
    }
    let offered: Vec<&str> = streaming::websocket::offered(headers).collect();
    if offered.iter().any(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        let others: Vec<&str> = offered.into_iter().filter(|it| !it.starts_with(TOKEN_PROTOCOL)).collect();
        told.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Some(others) = HeaderValue::from_str(&others.join(", ")).ok().filter(|it| !it.is_empty()) {
            told.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
        }
    }
    // HTTP/2 may cut them apart; HTTP/1.1 knows one line (RFC 9113, 8.2.3).
    let cookies: Vec<&[u8]> = told.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
        && cookies.len() > 1
    {
        told.insert(header::COOKIE, joined);
    }
    // HTTP/2 says the host in the URI.
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        told.entry(header::HOST).or_insert(host);
    }
    if let Ok(uri) = HeaderValue::from_str(&format!("{}{}", route.prefix, route.path)) {
        told.insert(FORWARDED_URI, uri);
    }
    if let Some(caller) = caller {
        let before = told.get_all(&FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<String> = before.map(str::to_owned).chain([caller.to_string()]).collect();
        if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
            told.insert(FORWARDED_FOR, value);
        }
    }
    told
}

/// As [`onwards`], for a connection that is to switch protocols.
pub(super) fn upgrading(headers: &HeaderMap, mut told: HeaderMap) -> HeaderMap {
    told.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(upgrade) = headers.get(header::UPGRADE) {
        told.insert(header::UPGRADE, upgrade.clone());
    }
    told
}

/// As [`onwards`], with a body whose length nobody knows: hyper leaves out a GET's which does not say that it has one.
pub(super) fn chunked(mut told: HeaderMap) -> HeaderMap {
    if !told.contains_key(header::CONTENT_LENGTH) {
        told.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    told
}

/// The answer's headers, as the caller gets them.
pub(super) fn back(headers: &mut HeaderMap, links: &Links) {
    remove_hops(headers);
    for name in CORS {
        headers.remove(name);
    }
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|location| HeaderValue::from_str(&links.rewrite(location)).ok())
    {
        headers.insert(header::LOCATION, location);
    }
}

pub(in crate::connect) fn remove_hops(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<HeaderName> =
        named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect();
    for name in OF_ONE_CONNECTION.into_iter().chain(named) {
        headers.remove(name);
    }
}

/// Where links of an answer lead that are meant for its own host.
#[derive(Clone, Debug)]
pub(super) struct Links {
    pub(super) prefix: String,
    /// The other side, as it was dialed.
    pub(super) backend: String,
    /// The host that the caller asked.
    pub(super) asked: String,
}

impl Links {
    /// A link to the other side's own root leads through the proxy; what is relative, or somebody else's, stays.
    pub(super) fn rewrite(&self, link: &str) -> String {
        let (scheme, after) = match link.split_once("//") {
            Some((scheme, after)) if scheme.is_empty() || is_scheme(scheme) => (scheme, Some(after)),
            _ => ("", None),
        };
        let (host, path) = match after {
            Some(after) => after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len())),
            None => ("", link),
        };
        let own = host.is_empty() || host == self.backend || host == self.asked;
        if !own || !path.starts_with('/') {
            return link.to_owned();
        }
        let front =
            if !host.is_empty() && host == self.asked { format!("{scheme}//{host}") } else { String::new() };
        let within = path
            .strip_prefix(self.prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        let prefix = if within { "" } else { &self.prefix };
        format!("{front}{prefix}{path}")
    }
}

fn is_scheme(text: &str) -> bool {
    text.strip_suffix(':')
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/d/pods/web:80/proxy";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        shown.sort();
        shown
    }

    #[test]
    fn a_path_is_cut_behind_proxy() {
        let route = |path: &str, rest| {
            let route = Route::of(&format!("{PREFIX}{path}"), rest);
            assert_eq!(route.prefix, PREFIX);
            (route.target(Some("q=1")), route.path)
        };
        assert_eq!(route("", 0), ("/?q=1".into(), "".into()));
        assert_eq!(route("/", 0), ("/?q=1".into(), "/".into()));
        assert_eq!(route("/a%2Fb/c", 2), ("/a%2Fb/c?q=1".into(), "/a%2Fb/c".into()));
        assert_eq!(route("/a/", 1).1, "/a/");
        assert_eq!(Route::of(PREFIX, 0).with_slash(None), format!("{PREFIX}/"));
    }

    #[test]
    fn the_other_side_hears_where_a_request_came_from_and_no_secret_of_the_callers() {
        let sent = headers(&[
            ("accept", "*/*"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "me"),
            ("x-remote-group", "admins"),
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("x-forwarded-for", "192.0.2.1"),
            ("sec-websocket-protocol", "chat, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        ]);
        let route = Route::of(&format!("{PREFIX}/a/"), 1);
        let uri = "https://api.example:6443/x".parse().unwrap();
        let told = onwards(&sent, &uri, &route, Some([192, 0, 2, 9].into()));
        assert_eq!(
            shown(&told),
            [
                "accept: */*",
                "host: api.example:6443",
                "sec-websocket-protocol: chat",
                "x-forwarded-for: 192.0.2.1, 192.0.2.9",
                &format!("x-forwarded-uri: {PREFIX}/a/"),
            ]
        );
        let switched = upgrading(&headers(&[("upgrade", "websocket")]), HeaderMap::new());
        assert_eq!(shown(&switched), ["connection: Upgrade", "upgrade: websocket"]);
    }

    #[test]
    fn an_upgrade_is_what_both_headers_say() {
        for (upgrade, connection, is) in [
            ("x", "Upgrade", true),
            ("x", "keep-alive, upgrade", true),
            ("x", "keep-alive", false),
            ("x", "upgrades", false),
            ("", "upgrade", false),
        ] {
            let mut said = headers(&[("connection", connection)]);
            if !upgrade.is_empty() {
                said.insert("upgrade", HeaderValue::from_static(upgrade));
            }
            assert_eq!(is_upgrade(&said), is, "{upgrade} {connection}");
        }
        assert!(!is_upgrade(&headers(&[("upgrade", "x")])));
    }

    #[test]
    fn cookies_that_came_apart_go_on_in_one_line() {
        let sent = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
        let told = onwards(&sent, &Uri::from_static("/x"), &Route::of("/x", 0), None);
        let cookies: Vec<_> = told.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
        let told = onwards(&headers(&[]), &Uri::from_static("/x"), &Route::of("/x", 0), None);
        assert!(!told.contains_key("cookie"));
    }

    fn links() -> Links {
        Links { prefix: PREFIX.into(), backend: "10.0.0.7:80".into(), asked: "api:6443".into() }
    }

    #[test]
    fn links_of_the_other_side_lead_through_the_proxy() {
        let links = links();
        for (link, rewritten) in [
            ("/a?b#c", format!("{PREFIX}/a?b#c")),
            ("http://10.0.0.7:80/a", format!("{PREFIX}/a")),
            ("//10.0.0.7:80/a/", format!("{PREFIX}/a/")),
            ("https://api:6443/a", format!("https://api:6443{PREFIX}/a")),
            ("https://elsewhere/a", "https://elsewhere/a".into()),
            ("a/b", "a/b".into()),
            ("?to=http://10.0.0.7:80/a", "?to=http://10.0.0.7:80/a".into()),
            ("mailto:me", "mailto:me".into()),
            ("", "".into()),
        ] {
            assert_eq!(links.rewrite(link), rewritten, "{link}");
        }
        let there = format!("{PREFIX}/a");
        assert_eq!(links.rewrite(&there), there);
        let mut answered = headers(&[
            ("location", "/login"),
            ("transfer-encoding", "chunked"),
            ("access-control-allow-origin", "*"),
            ("x-own", "1"),
        ]);
        back(&mut answered, &links);
        assert_eq!(shown(&answered), [format!("location: {PREFIX}/login"), "x-own: 1".into()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_route_is_its_path_cut_in_two(path in "(/|[a-z%.:?]|\\PC){0,30}", rest in 0..8_usize) {
            let route = Route::of(&path, rest);
            prop_assert!(route.prefix.starts_with('/'));
            prop_assert!(route.path.is_empty() || route.path.starts_with('/'));
            let words = |text: &str| text.trim_matches('/').to_owned();
            let prefix = if route.prefix == "/" { "" } else { &route.prefix };
            let both = words(&format!("{prefix}{}", route.path));
            prop_assert_eq!(both, words(&path));
            prop_assert!(route.target(Some("a=b")).ends_with("?a=b"));
        }

        #[test]
        fn a_link_that_leads_through_the_proxy_stays(
            link in "(https?:|ftp:)?(//|/)?(api:6443|10\\.0\\.0\\.7:80|\\PC{0,4})?([/?#a-z:]|\\PC){0,10}",
        ) {
            let once = links().rewrite(&link);
            prop_assert_eq!(links().rewrite(&once), once.clone());
            prop_assert!(once == link || once.contains(PREFIX));
        }
    }
}
