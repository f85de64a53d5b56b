//! The files of a volume that shows objects of the API.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::plan;
use crate::env::{
    Objects, Reference,
    downward::{self, DownwardError, Place},
};

#[derive(Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    pub owner: Option<u32>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("bytes", &self.data.len())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// By path below the volume.
pub type Payload = BTreeMap<String, File>;

/// A token that a volume asks for: what it is good for, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSpec {
    pub audience: Option<String>,
    pub expiration_seconds: i64,
}

const HOUR_SECONDS: i64 = 3600;

impl TokenSpec {
    fn of(token: &ServiceAccountTokenProjection) -> TokenSpec {
        TokenSpec {
            audience: token.audience.clone().filter(|audience| !audience.is_empty()),
            expiration_seconds: token.expiration_seconds.unwrap_or(HOUR_SECONDS),
        }
    }
}

/// The tokens that the volume needs.
pub fn tokens(volume: &Volume) -> Vec<TokenSpec> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).map(TokenSpec::of).collect()
}

/// Upstream's sentences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("configmap references non-existent config key: {0}")]
    ConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    #[error(transparent)]
    Downward(#[from] DownwardError),
    #[error("{0}")]
    Token(String),
    #[error("projected volume source {0} is not supported yet")]
    Unsupported(&'static str),
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<RenderError>),
}

#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub place: &'a Place,
    pub objects: &'a Objects,
    /// What was issued, or why it was not.
    pub tokens: &'a BTreeMap<TokenSpec, Result<Vec<u8>, String>>,
}

const DEFAULT_MODE: i32 = 0o644;

pub fn payload(inputs: &Inputs<'_>, volume: &Volume) -> Result<Payload, RenderError> {
    if let Some(it) = &volume.config_map {
        let reference = Reference::config_map(&it.name);
        return inputs.object(&reference, it.items.as_deref(), it.default_mode, it.optional);
    }
    if let Some(it) = &volume.secret {
        let reference = Reference::secret(it.secret_name.as_deref().unwrap_or_default());
        return inputs.object(&reference, it.items.as_deref(), it.default_mode, it.optional);
    }
    if let Some(it) = &volume.downward_api {
        return inputs.downward(it.items.as_deref().unwrap_or_default(), it.default_mode);
    }
    let mut payload = Payload::new();
    let mut errors = Vec::new();
    if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            match inputs.source(source, projected.default_mode) {
                Ok(files) => payload.extend(files),
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
    }
    match errors.len() {
        0 => Ok(payload),
        1 => Err(errors.remove(0)),
        _ => Err(RenderError::Several(errors)),
    }
}

impl Inputs<'_> {
    fn source(&self, source: &VolumeProjection, mode: Option<i32>) -> Result<Payload, RenderError> {
        if let Some(it) = &source.config_map {
            return self.object(&Reference::config_map(&it.name), it.items.as_deref(), mode, it.optional);
        }
        if let Some(it) = &source.secret {
            return self.object(&Reference::secret(&it.name), it.items.as_deref(), mode, it.optional);
        }
        if let Some(it) = &source.downward_api {
            return self.downward(it.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(it) = &source.service_account_token {
            return self.token(it, mode);
        }
        if source.cluster_trust_bundle.is_some() {
            return Err(RenderError::Unsupported("clusterTrustBundle"));
        }
        if source.pod_certificate.is_some() {
            return Err(RenderError::Unsupported("podCertificate"));
        }
        Ok(Payload::new())
    }

    fn object(
        &self,
        reference: &Reference,
        items: Option<&[KeyToPath]>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Payload, RenderError> {
        let optional = optional == Some(true);
        let nothing = BTreeMap::new();
        let data = match self.objects.get(reference) {
            Some(data) => data,
            None if optional => &nothing,
            None => {
                return Err(RenderError::Missing {
                    kind: reference.kind.singular(),
                    name: reference.name.clone(),
                });
            }
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            let file =
                |data: &Vec<u8>| File { data: data.clone(), mode: bits(None, default_mode), owner: None };
            return Ok(data.iter().map(|(key, data)| (key.clone(), file(data))).collect());
        };
        let mut payload = Payload::new();
        for item in items {
            match data.get(&item.key) {
                Some(data) => {
                    let mode = bits(item.mode, default_mode);
                    payload.insert(item.path.clone(), File { data: data.clone(), mode, owner: None });
                }
                None if optional => {}
                None if *reference == Reference::secret(&reference.name) => {
                    return Err(RenderError::SecretKey(item.key.clone()));
                }
                None => return Err(RenderError::ConfigMapKey(item.key.clone())),
            }
        }
        Ok(payload)
    }

    fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        default_mode: Option<i32>,
    ) -> Result<Payload, RenderError> {
        let mut payload = Payload::new();
        for item in items {
            let text = if let Some(field) = &item.field_ref {
                downward::object_field(&field.field_path, self.pod)?
            } else if let Some(selector) = &item.resource_field_ref {
                downward::resource(selector, self.pod, None, self.place.allocatable.as_ref())?
            } else {
                String::new()
            };
            let mode = bits(item.mode, default_mode);
            payload.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
        }
        Ok(payload)
    }

    /// A token is for one user where that is known: nobody else may read it.
    fn token(
        &self,
        token: &ServiceAccountTokenProjection,
        default_mode: Option<i32>,
    ) -> Result<Payload, RenderError> {
        let owner = plan::fs_user(self.pod);
        let own = owner.is_some() || plan::fs_group(self.pod).is_some();
        let mode = if own { 0o600 } else { bits(None, default_mode) };
        match self.tokens.get(&TokenSpec::of(token)) {
            Some(Ok(data)) => {
                Ok(Payload::from([(token.path.clone(), File { data: data.clone(), mode, owner })]))
            }
            Some(Err(error)) => Err(RenderError::Token(error.clone())),
            None => Err(RenderError::Token("failed to fetch token: none was asked for".into())),
        }
    }
}

fn bits(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0) & 0o777
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(source: Value) -> Result<Vec<String>, String> {
        let bytes = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_string(), value.as_bytes().to_vec())).collect()
        };
        let objects = Objects::from([
            (Reference::config_map("cm"), bytes(&[("a", "1"), ("b", "2")])),
            (Reference::secret("s"), bytes(&[("p", "x")])),
        ]);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"securityContext": {"runAsUser": 7}, "containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]},
        }))
        .unwrap();
        let token = TokenSpec { audience: Some("x".into()), expiration_seconds: 600 };
        let tokens = BTreeMap::from([(token, Ok(b"jwt".to_vec()))]);
        let inputs = Inputs { pod: &pod, place: &Place::default(), objects: &objects, tokens: &tokens };
        let mut source = source;
        source["name"] = json!("v");
        let made =
            payload(&inputs, &serde_json::from_value(source).unwrap()).map_err(|error| error.to_string())?;
        let shown = |(path, file): (&String, &File)| {
            format!("{path}={} {:o} {:?}", String::from_utf8_lossy(&file.data), file.mode, file.owner)
        };
        Ok(made.iter().map(shown).collect())
    }

    #[test]
    fn items_choose_keys_paths_and_modes() {
        let all = run(json!({"configMap": {"name": "cm", "defaultMode": 0o400}}));
        assert_eq!(all.unwrap(), ["a=1 400 None", "b=2 400 None"]);
        let some =
            run(json!({"configMap": {"name": "cm", "items": [{"key": "b", "path": "x/y", "mode": 0o777}]}}));
        assert_eq!(some.unwrap(), ["x/y=2 777 None"]);
    }

    #[test]
    fn what_is_missing_is_an_error_unless_it_is_optional() {
        let items = json!([{"key": "z", "path": "z"}]);
        for (source, expected) in [
            (json!({"configMap": {"name": "x"}}), "configmap \"x\" not found"),
            (json!({"secret": {"secretName": "x"}}), "secret \"x\" not found"),
            (
                json!({"configMap": {"name": "cm", "items": items}}),
                "configmap references non-existent config key: z",
            ),
            (json!({"secret": {"secretName": "s", "items": items}}), "references non-existent secret key: z"),
            (
                json!({"projected": {"sources": [{"configMap": {"name": "x"}}, {"clusterTrustBundle": {"path": "p"}}]}}),
                "[configmap \"x\" not found, projected volume source clusterTrustBundle is not supported yet]",
            ),
        ] {
            assert_eq!(run(source).unwrap_err(), expected);
        }
        assert_eq!(run(json!({"secret": {"secretName": "x", "optional": true}})), Ok(vec![]));
        assert_eq!(run(json!({"configMap": {"name": "cm", "optional": true, "items": items}})), Ok(vec![]));
    }

    #[test]
    fn a_projected_volume_joins_its_sources_and_a_token_is_its_users_alone() {
        let made = run(json!({"projected": {"defaultMode": 0o644, "sources": [
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}},
            {"secret": {"name": "s"}},
            {"serviceAccountToken": {"path": "token", "audience": "x", "expirationSeconds": 600}},
            {"downwardAPI": {"items": [
                {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                {"path": "cpu", "mode": 0o400, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
            ]}},
        ]}}));
        // A limit that is set needs no node to compare it with.
        let expected =
            ["a=1 644 None", "cpu=2 400 None", "name=web 644 None", "p=x 644 None", "token=jwt 600 Some(7)"];
        assert_eq!(made.unwrap(), expected);
    }
}
