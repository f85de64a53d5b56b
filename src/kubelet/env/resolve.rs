//! A container's variables: envFrom, then env, then what Services add.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, Pod};

use super::{
    downward::{self, DownwardError, Place},
    references::Reference,
};
use crate::runtime::expand;

/// ConfigMaps and Secrets by reference, as bytes by key. One that was looked up and is not there has no entry.
pub type Objects = BTreeMap<Reference, BTreeMap<String, Vec<u8>>>;

/// Upstream's sentences: the container waits with CreateContainerConfigError and one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key { kind: &'static str, key: String, namespace: String, name: String },
    #[error(transparent)]
    Downward(#[from] DownwardError),
    #[error("environment variable {0} takes its value from a file, which is not supported yet")]
    File(String),
}

#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub place: &'a Place,
    pub objects: &'a Objects,
    pub services: &'a BTreeMap<String, String>,
}

/// In the order that they are set; each name once.
pub fn environment(inputs: &Inputs<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut made = Made::default();
    for from in inputs.container.env_from.iter().flatten() {
        let (reference, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(it), _) => (Reference::config_map(&it.name), it.optional),
            (None, Some(it)) => (Reference::secret(&it.name), it.optional),
            (None, None) => continue,
        };
        let Some(object) = inputs.object(&reference, optional)? else { continue };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in object {
            made.set(&format!("{prefix}{key}"), text(value));
        }
    }
    for env in inputs.container.env.iter().flatten() {
        if let Some(value) = inputs.value(env, &made)? {
            made.set(&env.name, value);
        }
    }
    for (name, value) in inputs.services {
        if made.get(name).is_none() {
            made.set(name, value.clone());
        }
    }
    Ok(made.in_order)
}

#[derive(Default)]
struct Made {
    in_order: Vec<(String, String)>,
    at: BTreeMap<String, usize>,
}

impl Made {
    fn get(&self, name: &str) -> Option<&String> {
        self.at.get(name).map(|at| &self.in_order[*at].1)
    }

    fn set(&mut self, name: &str, value: String) {
        match self.at.get(name) {
            Some(at) => self.in_order[*at].1 = value,
            None => {
                self.at.insert(name.into(), self.in_order.len());
                self.in_order.push((name.into(), value));
            }
        }
    }
}

impl Inputs<'_> {
    /// `None` leaves the variable out: what it refers to is optional, and not there.
    fn value(&self, env: &EnvVar, made: &Made) -> Result<Option<String>, EnvError> {
        if let Some(value) = env.value.as_deref().filter(|value| !value.is_empty()) {
            let lookup = |name: &str| made.get(name).or_else(|| self.services.get(name)).cloned();
            return Ok(Some(expand(value, &lookup)));
        }
        match &env.value_from {
            Some(from) => self.sourced(env, from),
            None => Ok(Some(String::new())),
        }
    }

    fn sourced(&self, env: &EnvVar, from: &EnvVarSource) -> Result<Option<String>, EnvError> {
        if let Some(selector) = &from.field_ref {
            return Ok(Some(downward::field(selector, self.pod, self.place)?));
        }
        if let Some(selector) = &from.resource_field_ref {
            let allocatable = self.place.allocatable.as_ref();
            return Ok(Some(downward::resource(selector, self.pod, Some(self.container), allocatable)?));
        }
        if let Some(it) = &from.config_map_key_ref {
            return self.key(&Reference::config_map(&it.name), &it.key, it.optional);
        }
        if let Some(it) = &from.secret_key_ref {
            return self.key(&Reference::secret(&it.name), &it.key, it.optional);
        }
        if from.file_key_ref.is_some() {
            return Err(EnvError::File(env.name.clone()));
        }
        Ok(Some(String::new()))
    }

    fn key(
        &self,
        reference: &Reference,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<String>, EnvError> {
        let Some(object) = self.object(reference, optional)? else { return Ok(None) };
        match object.get(key) {
            Some(value) => Ok(Some(text(value))),
            None if optional == Some(true) => Ok(None),
            None => Err(EnvError::Key {
                kind: reference.kind.as_str(),
                key: key.into(),
                namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                name: reference.name.clone(),
            }),
        }
    }

    fn object(
        &self,
        reference: &Reference,
        optional: Option<bool>,
    ) -> Result<Option<&BTreeMap<String, Vec<u8>>>, EnvError> {
        match self.objects.get(reference) {
            Some(object) => Ok(Some(object)),
            None if optional == Some(true) => Ok(None),
            None => Err(EnvError::Missing { kind: reference.kind.singular(), name: reference.name.clone() }),
        }
    }
}

/// Runtimes take text only.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(container: Value) -> Result<Vec<String>, String> {
        let bytes = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_string(), value.as_bytes().to_vec())).collect()
        };
        let objects = Objects::from([
            (Reference::config_map("cm"), bytes(&[("A", "1"), ("B", "2")])),
            (Reference::secret("s"), bytes(&[("B", "secret"), ("not-a-name", "x")])),
        ]);
        let mut container = container;
        container["name"] = json!("c");
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let services = BTreeMap::from([("WEB_SERVICE_HOST".to_string(), "10.0.0.5".to_string())]);
        let place = Place::default();
        let inputs = Inputs {
            pod: &pod,
            container: &container,
            place: &place,
            objects: &objects,
            services: &services,
        };
        let made = environment(&inputs).map_err(|error| error.to_string())?;
        Ok(made.iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn later_sources_win_and_services_come_last() {
        let made = run(json!({
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [{"name": "B", "value": "own"}, {"name": "EMPTY"}],
        }));
        let expected =
            ["A=1", "B=own", "P_B=secret", "P_not-a-name=x", "EMPTY=", "WEB_SERVICE_HOST=10.0.0.5"];
        assert_eq!(made.unwrap(), expected);
    }

    #[test]
    fn values_may_refer_to_what_was_set_before_and_to_services() {
        let made = run(json!({"env": [
            {"name": "X", "value": "$(Y)"},
            {"name": "Y", "value": "1"},
            {"name": "Z", "value": "$(Y)-$(WEB_SERVICE_HOST)-$$(Y)"},
            {"name": "WEB_SERVICE_HOST", "value": "mine"},
        ]}));
        assert_eq!(made.unwrap(), ["X=$(Y)", "Y=1", "Z=1-10.0.0.5-$(Y)", "WEB_SERVICE_HOST=mine"]);
    }

    #[test]
    fn what_is_missing_is_told_in_upstreams_words_unless_it_is_optional() {
        let from = |kind: &str, name: &str, key: &str, optional: bool| {
            run(
                json!({"env": [{"name": "V", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]}),
            )
        };
        let words = [
            ("configMapKeyRef", "x", "k", "configmap \"x\" not found"),
            ("configMapKeyRef", "cm", "k", "couldn't find key k in ConfigMap shop/cm"),
            ("secretKeyRef", "x", "k", "secret \"x\" not found"),
            ("secretKeyRef", "s", "k", "couldn't find key k in Secret shop/s"),
        ];
        for (kind, name, key, expected) in words {
            assert_eq!(from(kind, name, key, false).unwrap_err(), expected);
            assert_eq!(from(kind, name, key, true).unwrap(), ["WEB_SERVICE_HOST=10.0.0.5"]);
        }
        assert_eq!(
            run(json!({"envFrom": [{"secretRef": {"name": "x"}}]})).unwrap_err(),
            "secret \"x\" not found"
        );
    }
}
