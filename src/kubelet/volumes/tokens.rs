//! Service account tokens of pods: asked for once, asked for anew before they end, kept in memory only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use tracing::warn;

use super::render::TokenSpec;
use crate::{clock::Clock, pods::PodUid};

const DEADLINE: Duration = Duration::from_secs(10);
/// However long one lives, it is changed once a day.
const OLDEST: SignedDuration = SignedDuration::from_hours(24);

/// Clones share the tokens.
#[derive(Clone)]
pub(super) struct Tokens {
    client: Option<kube::Client>,
    clock: Clock,
    issued: Arc<Mutex<HashMap<PodUid, HashMap<TokenSpec, Issued>>>>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

#[derive(Clone)]
struct Issued {
    token: Vec<u8>,
    /// To be changed from then on.
    refresh: Timestamp,
    expires: Timestamp,
}

impl Tokens {
    pub(super) fn new(client: Option<kube::Client>, clock: Clock) -> Tokens {
        Tokens { client, clock, issued: Arc::default() }
    }

    /// The token, new enough; or upstream's words why there is none.
    pub(super) async fn token(&self, pod: &Pod, spec: &TokenSpec) -> Result<Vec<u8>, String> {
        let uid = PodUid::of(pod);
        let now = self.clock.now();
        let known = self.issued.lock().get(&uid).and_then(|own| own.get(spec)).cloned();
        if let Some(issued) = &known
            && now < issued.refresh
        {
            return Ok(issued.token.clone());
        }
        match self.request(pod, spec).await {
            Ok(issued) => {
                let token = issued.token.clone();
                self.issued.lock().entry(uid).or_default().insert(spec.clone(), issued);
                Ok(token)
            }
            Err(error) => match known {
                None => Err(format!("failed to fetch token: {error}")),
                Some(issued) if issued.expires <= now => {
                    Err(format!("token expired and refresh failed: {error}"))
                }
                Some(issued) => {
                    warn!(%uid, error, "cannot refresh a token");
                    Ok(issued.token)
                }
            },
        }
    }

    /// When the pod's next token is to be changed.
    pub(super) fn due(&self) -> Vec<(PodUid, Timestamp)> {
        let issued = self.issued.lock();
        let first = |own: &HashMap<TokenSpec, Issued>| own.values().map(|it| it.refresh).min();
        issued.iter().filter_map(|(uid, own)| Some((uid.clone(), first(own)?))).collect()
    }

    pub(super) fn forget(&self, uid: &PodUid) {
        self.issued.lock().remove(uid);
    }

    async fn request(&self, pod: &Pod, spec: &TokenSpec) -> Result<Issued, String> {
        let client =
            self.client.clone().ok_or("cannot use TokenManager when kubelet is in standalone mode")?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(spec.audience.iter().cloned().collect()),
                expiration_seconds: Some(spec.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let asked = accounts.create_token_request(account, &params, &request);
        let answer = tokio::time::timeout(DEADLINE, asked).await.map_err(|_| "timed out")?;
        let answer = answer.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        })?;
        let status = answer.status.ok_or("the answer holds no token")?;
        // The server may have made it shorter than asked for, or longer.
        let seconds = answer.spec.and_then(|it| it.expiration_seconds).unwrap_or(spec.expiration_seconds);
        let incomplete = || "the answer holds no token".to_string();
        let expires = status.expiration_timestamp.ok_or_else(incomplete)?.0;
        let token = status.token.ok_or_else(incomplete)?.into_bytes();
        Ok(Issued { token, refresh: refresh_at(expires, seconds), expires })
    }
}

/// At 80 % of its life, or after a day.
fn refresh_at(expires: Timestamp, seconds: i64) -> Timestamp {
    let life = SignedDuration::from_secs(seconds);
    let before = |duration| expires.saturating_sub(duration).unwrap_or(expires);
    let issued = before(life);
    let oldest = issued.saturating_add(OLDEST).unwrap_or(expires);
    before(life / 5).min(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_changed_at_four_fifths_of_its_life_and_at_least_daily() {
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (seconds, expected) in [(3600, 2880), (600, 480), (365 * 86400, 86400)] {
            let expires = issued + SignedDuration::from_secs(seconds);
            assert_eq!(
                refresh_at(expires, seconds) - issued,
                jiff::Span::new().seconds(expected).fieldwise()
            );
        }
    }
}
