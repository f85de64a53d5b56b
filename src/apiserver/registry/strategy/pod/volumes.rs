//! Validation of a pod's volumes.

use std::collections::BTreeSet;

use api::names;

use super::containers::{descending, no_backsteps};
use super::env;
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn all(list: &At<'_>, found: &mut Findings) {
    let mut seen = BTreeSet::new();
    for volume in list.items() {
        source(&volume, found);
        let name = volume.get("name");
        if name.is_empty() {
            found.required(&name, "");
        } else {
            found.complaints(&name, names::dns1123_label(name.text()));
        }
        if !seen.insert(name.text()) {
            found.duplicate(&name);
        }
    }
}

fn source(volume: &At<'_>, found: &mut Findings) {
    let mut sources = 0;
    for (name, value) in volume.entries() {
        if name == "name" || !value.present() {
            continue;
        }
        sources += 1;
        let at = volume.get(name);
        if sources > 1 {
            found.forbidden(&at, "may not specify more than 1 volume type");
        } else {
            one_source(name, &at, found);
        }
    }
    if sources == 0 {
        found.required(volume, "must specify a volume type");
    }
}

/// What a volume is made from, by the name of its field.
pub(super) fn one_source(name: &str, at: &At<'_>, found: &mut Findings) {
    match name {
        "hostPath" => {
            path(at, found);
            if !at.get("path").is_empty() {
                found.one_of_if_any(&at.get("type"), &HOST_PATH_TYPES);
            }
        }
        "secret" => {
            need(at, &["secretName"], found);
            mode(&at.get("defaultMode"), found);
            keys(&at.get("items"), found);
        }
        "configMap" => {
            need(at, &["name"], found);
            mode(&at.get("defaultMode"), found);
            keys(&at.get("items"), found);
        }
        "persistentVolumeClaim" => need(at, &["claimName"], found),
        "nfs" => {
            need(at, &["server", "path"], found);
            let path = at.get("path");
            if !path.is_empty() && !path.text().starts_with('/') {
                found.invalid(&path, "must be an absolute path");
            }
        }
        "downwardAPI" => {
            mode(&at.get("defaultMode"), found);
            for file in at.get("items").items() {
                downward_file(&file, found);
            }
        }
        "projected" => projected(at, found),
        "csi" => {
            need(at, &["driver"], found);
        }
        "ephemeral" => {
            let claim = at.get("volumeClaimTemplate");
            if claim.present() {
                need(&claim.get("spec"), &["accessModes"], found);
            } else {
                found.required(&claim, "");
            }
        }
        "image" => {
            need(at, &["reference"], found);
            found.one_of(&at.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        // The drivers that have left the tree: the CSI driver behind the name checks what it is given.
        _ => {}
    }
}

/// A path of the node.
pub(super) fn path(at: &At<'_>, found: &mut Findings) {
    need(at, &["path"], found);
    no_backsteps(&at.get("path"), found);
}

fn need(at: &At<'_>, fields: &[&str], found: &mut Findings) {
    for field in fields.iter().map(|name| at.get(name)) {
        if field.is_empty() {
            found.required(&field, "");
        }
    }
}

fn mode(at: &At<'_>, found: &mut Findings) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        found.invalid(at, FILE_MODE);
    }
}

fn keys(list: &At<'_>, found: &mut Findings) {
    for item in list.items() {
        need(&item, &["key", "path"], found);
        file_path(&item.get("path"), found);
        mode(&item.get("mode"), found);
    }
}

/// A path below the volume that does not get in the way of the kubelet's own `..data`.
fn file_path(at: &At<'_>, found: &mut Findings) {
    descending(at, found);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        found.invalid(at, "must not start with '..'");
    }
}

fn downward_file(file: &At<'_>, found: &mut Findings) {
    need(file, &["path"], found);
    file_path(&file.get("path"), found);
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    match (field.present(), resource.present()) {
        (true, both) => {
            env::field_ref(&field, &env::VOLUME_FIELDS, found);
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                found.invalid_value(file, "resource", detail);
            }
        }
        (false, true) => env::resource_ref(&resource, true, found),
        (false, false) => found.required(file, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(&file.get("mode"), found);
}

fn projected(at: &At<'_>, found: &mut Findings) {
    mode(&at.get("defaultMode"), found);
    let list = at.get("sources");
    let mut paths = BTreeSet::new();
    for source in list.items() {
        let present: Vec<_> = source.entries().filter(|(_, value)| value.present()).collect();
        if present.len() > 1 {
            found.forbidden(&source, "may not specify more than 1 volume type per source");
        }
        for (name, _) in present {
            let projected = source.get(name);
            projection(name, &projected, at, found);
            for path in projected_paths(name, &projected) {
                if !path.is_empty() && !paths.insert(path.to_owned()) {
                    let own = projected.get("name").text();
                    let shown = if own.is_empty() { path } else { own };
                    found.invalid_value(at, shown, "conflicting duplicate paths");
                }
            }
        }
    }
}

fn projected_paths<'a>(name: &str, at: &At<'a>) -> Vec<&'a str> {
    match name {
        "serviceAccountToken" | "clusterTrustBundle" => vec![at.get("path").text()],
        _ => at.get("items").items().map(|item| item.get("path").text()).collect(),
    }
}

/// `volume` is the whole projected volume: upstream names it for the path of a token.
fn projection(name: &str, at: &At<'_>, volume: &At<'_>, found: &mut Findings) {
    match name {
        "secret" | "configMap" => {
            need(at, &["name"], found);
            keys(&at.get("items"), found);
        }
        "downwardAPI" => {
            for file in at.get("items").items() {
                downward_file(&file, found);
            }
        }
        "serviceAccountToken" => {
            let expires = at.get("expirationSeconds");
            if expires.int().is_some_and(|seconds| seconds < 600) {
                found.invalid(&expires, "may not specify a duration less than 10 minutes");
            }
            if expires.int().is_some_and(|seconds| seconds > 1 << 32) {
                found.invalid(&expires, "may not specify a duration larger than 2^32 seconds");
            }
            if at.get("path").is_empty() {
                found.required(&volume.get("path"), "");
            }
        }
        "clusterTrustBundle" => {
            let (own, signer) = (at.get("name"), at.get("signerName"));
            match (own.present(), signer.present()) {
                (true, true) => found.invalid(at, "only one of name and signerName may be used"),
                (false, false) => found.required(at, "either name or signerName must be specified"),
                _ => {}
            }
            need(at, &["path"], found);
        }
        _ => {}
    }
}
