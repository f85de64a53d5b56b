//! `pods/ephemeralcontainers`: containers that are added to a running pod, and stay.

use serde_json::Value;

use super::validate;
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::strategy::rules::Rules;

/// Everything but the ephemeral containers stays as it is.
pub const EPHEMERAL_CONTAINERS: Rules = Rules {
    prepare_update: |new, old| {
        let added = new["spec"]["ephemeralContainers"].take();
        *new = old.clone();
        super::super::fill::within(new, "spec", |spec| {
            super::super::fill::remove(spec, "ephemeralContainers");
            if !added.is_null() {
                spec["ephemeralContainers"] = added;
            }
        });
        super::defaults::pod(new);
    },
    validate: validate::pod,
    validate_update: update,
    ..Rules::NONE
};

fn update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let mirror = old.get("metadata").get("annotations").key("kubernetes.io/config.mirror");
    if mirror.present() {
        return found
            .forbidden(&At::named("", &Value::Null), "static pods do not support ephemeral containers");
    }
    let at = new.get("spec").get("ephemeralContainers");
    for before in old.get("spec").get("ephemeralContainers").items() {
        let name = before.get("name").text();
        match at.items().find(|now| now.get("name").text() == name) {
            None => {
                found.forbidden(&at, &format!("existing ephemeral containers {name:?} may not be removed\n"))
            }
            Some(now) if now.value() != before.value() => {
                found.forbidden(&at, &format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}
