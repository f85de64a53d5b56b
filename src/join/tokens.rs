//! The other end of joining: tokens as the person at the control plane makes, lists and deletes them.

use std::{collections::BTreeMap, time::Duration};

use client::{Client, ErrorKind, kind_of};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use pki::{BootstrapError, BootstrapToken, KeyHash};
use tokio::time::Instant;

use crate::{
    address::{AddressError, ServerAddress},
    cluster_info::ClusterInfo,
};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME: &str = "bootstrap-token-";
/// The group whose members may ask for a node's certificate, as kubeadm names it.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("make a token")]
    Make(#[source] BootstrapError),
    #[error("{verb} {what}")]
    Api {
        verb: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{text:?} is no token and no token's id; `coracle token list` shows them")]
    NoId { text: String },
    #[error("there is no token {id:?}; `coracle token list` shows those that there are")]
    Absent { id: String },
    #[error(
        "the cluster does not say how it is joined ({what} in the ConfigMap kube-public/cluster-info); \
         `coracle up` and `coracle server` write it at their start"
    )]
    NoInfo { what: &'static str },
    #[error("the server's address in the ConfigMap kube-public/cluster-info")]
    Address(#[source] AddressError),
}

fn during<T>(
    result: Result<T, kube::Error>,
    verb: &'static str,
    what: impl ToString,
) -> Result<T, TokensError> {
    result.map_err(|source| TokensError::Api { verb, what: what.to_string(), source: Box::new(source) })
}

/// Makes a token. Without a `life` it never expires.
///
/// # Errors
/// What the API answered.
pub async fn create(
    client: &Client,
    life: Option<Duration>,
    description: Option<&str>,
    now: Timestamp,
) -> Result<BootstrapToken, TokensError> {
    let token = BootstrapToken::generate().map_err(TokensError::Make)?;
    let secret = secret(&token, life, description, now);
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    during(api.create(&PostParams::default(), &secret).await, "create the Secret of", token.id())?;
    Ok(token)
}

fn secret(
    token: &BootstrapToken,
    life: Option<Duration>,
    description: Option<&str>,
    now: Timestamp,
) -> Secret {
    let mut data: BTreeMap<&str, String> = BTreeMap::from([
        ("token-id", token.id().to_owned()),
        ("token-secret", token.secret().to_owned()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
        ("auth-extra-groups", GROUP.to_owned()),
    ]);
    if let Some(life) = life {
        let end = now.saturating_add(life).unwrap_or(Timestamp::MAX);
        data.insert("expiration", end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    if let Some(description) = description {
        data.insert("description", description.to_owned());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{NAME}{}", token.id())),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(
            data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect(),
        ),
        ..Secret::default()
    }
}

/// How long the control plane may take to sign by a new token.
const SIGNING: Duration = Duration::from_secs(5);

/// What is pasted on the machine that joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    /// Whether the control plane has signed by the token. Until then it lets nobody in.
    pub signed: bool,
}

/// The line to paste on the machine that joins, when the control plane has signed by the token, or has had the time to.
///
/// # Errors
/// When the cluster does not say how it is joined.
pub async fn join_line(client: &Client, token: &BootstrapToken) -> Result<Line, TokensError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let until = Instant::now() + SIGNING;
    loop {
        let map = match api.get("cluster-info").await {
            Ok(map) => map,
            Err(error) if kind_of(&error) == ErrorKind::NotFound => {
                return Err(TokensError::NoInfo { what: "it is not there" });
            }
            Err(error) => return during(Err(error), "read the ConfigMap", "kube-public/cluster-info"),
        };
        let signature = format!("jws-kubeconfig-{}", token.id());
        let signed = map.data.as_ref().is_some_and(|data| data.contains_key(&signature));
        if signed || Instant::now() >= until {
            return line(&map, token).map(|text| Line { text, signed });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn line(map: &ConfigMap, token: &BootstrapToken) -> Result<String, TokensError> {
    let info =
        ClusterInfo::text(map).and_then(ClusterInfo::parse).map_err(|what| TokensError::NoInfo { what })?;
    let server: ServerAddress = info.server.parse().map_err(TokensError::Address)?;
    let hashes: String = info
        .authorities
        .iter()
        .map(|authority| format!(" --ca-cert-hash {}", KeyHash::of(authority)))
        .collect();
    Ok(format!("coracle join {server} --token {}{hashes}", token.reveal()))
}

/// All tokens, as kubeadm shows them.
///
/// # Errors
/// What the API answered.
pub async fn list(client: &Client, now: Timestamp) -> Result<String, TokensError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().fields(&format!("type={TYPE}"));
    let found = during(api.list(&params).await, "list", "the tokens")?;
    Ok(table(&found.items, now))
}

fn table(secrets: &[Secret], now: Timestamp) -> String {
    let mut rows =
        vec![["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"].map(str::to_owned)];
    rows.extend(secrets.iter().map(|secret| row(secret, now)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn row(secret: &Secret, now: Timestamp) -> [String; 6] {
    let text = |key: &str| -> String {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let (ttl, expires) = match text("expiration").parse::<Timestamp>() {
        Ok(end) if end <= now => ("<expired>".to_owned(), end.to_string()),
        Ok(end) => (short(end.duration_since(now)), end.to_string()),
        Err(_) if text("expiration").is_empty() => ("<forever>".to_owned(), "<never>".to_owned()),
        Err(_) => ("<invalid>".to_owned(), text("expiration")),
    };
    let usages: Vec<&str> = ["authentication", "signing"]
        .into_iter()
        .filter(|usage| text(&format!("usage-bootstrap-{usage}")) == "true")
        .collect();
    [
        // The id alone: whoever looks over a shoulder must not be able to join.
        format!("{}.<hidden>", text("token-id")),
        ttl,
        expires,
        or_none(usages.join(",")),
        or_none(text("description")),
        or_none(text("auth-extra-groups")),
    ]
}

/// `23h`, `59m`, `12s`
fn short(left: SignedDuration) -> String {
    match left.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Ends a token, given whole or by its id. Nodes that have joined with it stay.
///
/// # Errors
/// When there is no such token.
pub async fn delete(client: &Client, text: &str) -> Result<String, TokensError> {
    let id = text.split('.').next().unwrap_or_default();
    if !BootstrapToken::is_id(id) {
        return Err(TokensError::NoId { text: text.to_owned() });
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    match api.delete(&format!("{NAME}{id}"), &DeleteParams::default()).await {
        Ok(_) => Ok(id.to_owned()),
        Err(error) if kind_of(&error) == ErrorKind::NotFound => {
            Err(TokensError::Absent { id: id.to_owned() })
        }
        Err(error) => during(Err(error), "delete the Secret of", id),
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use pki::{Authority, Key};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn token() -> BootstrapToken {
        "abcdef.0123456789abcdef".parse().unwrap()
    }

    #[test]
    fn the_list_shows_tokens_without_their_secrets() {
        let day = secret(&token(), Some(Duration::from_secs(86_400)), Some("for rack 2"), now());
        let forever = secret(&"zzzzzz.0123456789abcdef".parse().unwrap(), None, None, now());
        let shown = table(&[day, forever], now());
        assert_eq!(
            shown,
            "TOKEN             TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS\n\
             abcdef.<hidden>   24h         2026-11-22T10:00:00Z   authentication,signing   for rack 2    system:bootstrappers:kubeadm:default-node-token\n\
             zzzzzz.<hidden>   <forever>   <never>                authentication,signing   <none>        system:bootstrappers:kubeadm:default-node-token\n"
        );
    }

    #[test]
    fn the_line_has_everything_that_a_machine_needs() {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now()).unwrap();
        let kubeconfig = format!(
            "clusters:\n- cluster: {{server: 'https://192.0.2.1:6443', certificate-authority-data: {}}}\n  name: ''\n",
            STANDARD.encode(authority.certificate().to_pem())
        );
        let map: ConfigMap = serde_json::from_value(json!({"data": {"kubeconfig": kubeconfig}})).unwrap();
        let hash = KeyHash::of(authority.certificate());
        assert_eq!(
            line(&map, &token()).unwrap(),
            format!("coracle join 192.0.2.1:6443 --token abcdef.0123456789abcdef --ca-cert-hash {hash}")
        );
        assert!(matches!(line(&ConfigMap::default(), &token()), Err(TokensError::NoInfo { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_cluster_info_panics_the_reader(text in "[ -~\n]{0,120}") {
            let map: ConfigMap = serde_json::from_value(json!({"data": {"kubeconfig": text}})).unwrap();
            drop(line(&map, &token()));
        }
    }
}
