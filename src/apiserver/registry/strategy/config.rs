//! ConfigMaps, Secrets and ServiceAccounts.

use api::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::at::At;
use super::fill::{fill, object_at, remove};
use super::findings::Findings;
use super::rules::Rules;

/// One object's data, decoded.
const MAX_BYTES: usize = 1024 * 1024;
const SEALED: &str = "field is immutable when `immutable` is set";

pub const CONFIG_MAPS: Rules = Rules {
    validate: config_map,
    validate_update: |new, old, found| sealed(new, old, &["data", "binaryData"], found),
    ..Rules::NONE
};

pub const SECRETS: Rules = Rules {
    defaults: |secret| {
        fill(secret, "type", "Opaque");
        encode_string_data(secret);
    },
    prepare_update: |new, old| {
        // An update without a type keeps it.
        if new["type"] == "" {
            new["type"] = old["type"].clone();
        }
    },
    validate: secret,
    validate_update: |new, old, found| {
        found.immutable(&new.get("type"), &old.get("type"));
        sealed(new, old, &["data"], found);
    },
    ..Rules::NONE
};

pub const SERVICE_ACCOUNTS: Rules = Rules::NONE;

/// `stringData` is written only: what it says becomes part of `data`.
fn encode_string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.get_mut("stringData").map(Value::take) else {
        return remove(secret, "stringData");
    };
    remove(secret, "stringData");
    if texts.is_empty() {
        return;
    }
    if let Some(data) = object_at(secret, "data") {
        for (key, text) in texts {
            data.insert(key, STANDARD.encode(text.as_str().unwrap_or_default()).into());
        }
    }
}

fn config_map(map: &At<'_>, found: &mut Findings) {
    let mut bytes = 0;
    for (key, value) in map.get("data").entries() {
        key_name(key, &value, found);
        if map.get("binaryData").value().get(key).is_some() {
            found.invalid_value(&value, key, "duplicate of key present in binaryData");
        }
        bytes += value.text().len();
    }
    for (key, value) in map.get("binaryData").entries() {
        key_name(key, &value, found);
        bytes += decoded_bytes(value.text());
    }
    if bytes > MAX_BYTES {
        found.too_long(&At::named("", &Value::Null), MAX_BYTES);
    }
}

fn key_name(key: &str, at: &At<'_>, found: &mut Findings) {
    for complaint in names::config_map_key(key) {
        found.invalid_value(at, key, &complaint);
    }
}

fn decoded_bytes(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn secret(secret: &At<'_>, found: &mut Findings) {
    let data = secret.get("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        key_name(key, &value, found);
        bytes += decoded_bytes(value.text());
    }
    if bytes > MAX_BYTES {
        found.too_long(&data, MAX_BYTES);
    }
    let mut need = |keys: &[&str]| {
        for key in keys.iter().map(|key| data.key(key)) {
            if !key.present() {
                found.required(&key, "");
            }
        }
    };
    match secret.get("type").text() {
        "kubernetes.io/dockercfg" => {
            need(&[".dockercfg"]);
            json(&data.key(".dockercfg"), found);
        }
        "kubernetes.io/dockerconfigjson" => {
            need(&[".dockerconfigjson"]);
            json(&data.key(".dockerconfigjson"), found);
        }
        "kubernetes.io/basic-auth" if !data.key("username").present() && !data.key("password").present() => {
            need(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            found.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/service-account-token" => {
            let name = secret.get("metadata").get("annotations").key("kubernetes.io/service-account.name");
            if name.is_empty() {
                found.required(&name, "");
            }
        }
        _ => {}
    }
}

fn json(at: &At<'_>, found: &mut Findings) {
    let parsed = STANDARD.decode(at.text()).map(|bytes| serde_json::from_slice::<Value>(&bytes));
    if at.present() && !matches!(parsed, Ok(Ok(_))) {
        found.invalid_value(at, "<secret contents redacted>", "must be JSON");
    }
}

fn sealed(new: &At<'_>, old: &At<'_>, fields: &[&str], found: &mut Findings) {
    if !old.get("immutable").flag() {
        return;
    }
    if !new.get("immutable").flag() {
        found.forbidden(&new.get("immutable"), SEALED);
    }
    for field in fields {
        let (now, then) = (new.get(field), old.get(field));
        if now.value() != then.value() && !(now.is_empty() && then.is_empty()) {
            found.forbidden(&now, SEALED);
        }
    }
}
