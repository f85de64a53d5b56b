//! PersistentVolumes, claims for them, their attachment to nodes, and how much storage is left.

use api::{names, quantity::Quantity, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::at::{At, same};
use super::fill::{fill, quantities, quantity, remove, within, within_made};
use super::findings::{Findings, IMMUTABLE, NOT_NEGATIVE, POSITIVE};
use super::rules::Rules;
use super::{meta, pod};

pub const PERSISTENT_VOLUMES: Rules = Rules {
    defaults: |volume| {
        within_made(volume, "spec", |spec| {
            volume_defaults(spec);
            fill(spec, "persistentVolumeReclaimPolicy", "Retain");
            fill(spec, "volumeMode", "Filesystem");
        });
    },
    prepare_create: |volume| volume["status"] = json!({"phase": "Pending"}),
    stamp: phase_time,
    validate: |volume, found| volume_spec(&volume.get("spec"), Of::Cluster, found),
    validate_update: volume_update,
    ..Rules::NONE
};

pub const PERSISTENT_VOLUME_CLAIMS: Rules = Rules {
    defaults: claim_defaults,
    prepare_create: |claim| {
        claim["status"] = json!({"phase": "Pending"});
        within(claim, "spec", |spec| data_sources(spec, None));
    },
    prepare_update: |new, old| within(new, "spec", |spec| data_sources(spec, old.get("spec"))),
    validate: |claim, found| claim_spec(&claim.get("spec"), found),
    validate_update: claim_update,
    validate_status: |new, _old, found| {
        for field in ["capacity", "allocatedResources"] {
            for (_, size) in new.get("status").get(field).entries() {
                basic(&size, found);
            }
        }
    },
    ..Rules::NONE
};

pub const VOLUME_ATTACHMENTS: Rules = Rules {
    prepare_create: |attachment| attachment["status"] = json!({"attached": false}),
    defaults: |attachment| {
        within(attachment, "spec", |spec| {
            within(spec, "source", |source| within(source, "inlineVolumeSpec", volume_defaults));
        });
    },
    validate: |attachment, found| attachment_spec(&attachment.get("spec"), found),
    validate_update: |new, old, found| {
        let (now, then) = (new.get("spec"), old.get("spec"));
        if !same(now.value(), then.value()) {
            found.invalid(&now, IMMUTABLE);
        }
    },
    updates_unconditionally: false,
    ..Rules::NONE
};

pub const CSI_STORAGE_CAPACITIES: Rules = Rules {
    defaults: |capacity| {
        quantity(capacity, "capacity");
        quantity(capacity, "maximumVolumeSize");
    },
    validate: |capacity, found| {
        meta::label_selector(&capacity.get("nodeTopology"), found);
        let class = capacity.get("storageClassName");
        for complaint in names::dns1123_subdomain(class.text()) {
            found.invalid_value(&class, class.text(), &complaint);
        }
        not_negative(&capacity.get("capacity"), found);
    },
    validate_update: |new, old, found| {
        for field in ["nodeTopology", "storageClassName"] {
            found.immutable(&new.get(field), &old.get(field));
        }
    },
    updates_unconditionally: false,
    ..Rules::NONE
};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Fields of a volume's spec that are not its source.
const NO_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Whose spec it is: a volume's of its own, or one that an attachment carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Cluster,
    Attachment,
}

fn volume_defaults(spec: &mut Value) {
    quantities(spec, "capacity");
    pod::defaults::volume_sources(spec);
}

/// When a volume came into its phase; who changes the phase may say so themselves.
fn phase_time(new: &mut Value, old: Option<&Value>, now: Timestamp) {
    const TIME: &str = "lastPhaseTransitionTime";
    let (phase, said) = (new["status"]["phase"].clone(), new["status"][TIME].clone());
    let then = old.map(|old| &old["status"]);
    let time = match then {
        Some(then) if then["phase"] == phase && said.is_null() => then[TIME].clone(),
        Some(then) if then["phase"] == phase || (!said.is_null() && said != then[TIME]) => said,
        _ => time::seconds(now).into(),
    };
    within_made(new, "status", |status| status[TIME] = time);
}

fn volume_spec(spec: &At<'_>, of: Of, found: &mut Findings) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        found.required(&modes, "");
    }
    access_modes(&modes, found);
    if of == Of::Cluster {
        capacity(&spec.get("capacity"), found);
        let policy = spec.get("persistentVolumeReclaimPolicy");
        found.one_of_if_any(&policy, &["Delete", "Recycle", "Retain"]);
        found.one_of_if_any(&spec.get("volumeMode"), &VOLUME_MODES);
        class_name(&spec.get("storageClassName"), found);
        let attributes = spec.get("volumeAttributesClassName");
        if attributes.present() && attributes.is_empty() {
            found.required(&attributes, "an empty string is disallowed");
        }
        class_name(&attributes, found);
        if attributes.present() && !spec.get("csi").present() {
            found.required(&spec.get("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
    let affinity = spec.get("nodeAffinity");
    if affinity.present() {
        let required = affinity.get("required");
        if required.present() {
            pod::node_selector(&required, found);
        } else {
            found.required(&required, "must specify required node constraints");
        }
    }
    sources(spec, found);
    let path = spec.get("hostPath").get("path");
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if policy.text() == "Recycle" && !path.is_empty() && path.text().trim_matches('/').is_empty() {
        found.forbidden(&policy, "may not be 'recycle' for a hostPath mount of '/'");
    }
}

fn sources(spec: &At<'_>, found: &mut Findings) {
    let all: Vec<&str> = spec
        .value()
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !NO_SOURCE.contains(&name.as_str()) && !value.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    for (count, name) in all.iter().enumerate() {
        let at = spec.get(name);
        if count > 0 {
            found.forbidden(&at, "may not specify more than 1 volume type");
            continue;
        }
        match *name {
            "csi" => {
                driver_name(&at.get("driver"), found);
                if at.get("volumeHandle").is_empty() {
                    found.required(&at.get("volumeHandle"), "");
                }
            }
            "local" => {
                pod::volume_path(&at, found);
                if !spec.get("nodeAffinity").present() {
                    found.required(&spec.get("nodeAffinity"), "Local volume requires node affinity");
                }
            }
            _ => pod::volume_source(name, &at, found),
        }
    }
    if all.is_empty() {
        found.required(spec, "must specify a volume type");
    }
}

fn access_modes(modes: &At<'_>, found: &mut Findings) {
    let mut supported: Vec<&str> = Vec::new();
    for mode in modes.items() {
        // Upstream names the list and not the element here.
        found.one_of_if_any(&At::named(modes.path(), mode.value()), &ACCESS_MODES);
        supported.extend(ACCESS_MODES.iter().filter(|known| **known == mode.text()));
    }
    let of_one_pod = supported.iter().filter(|mode| **mode == "ReadWriteOncePod").count();
    if of_one_pod > 0 && of_one_pod < supported.len() {
        found.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

fn capacity(capacity: &At<'_>, found: &mut Findings) {
    if capacity.is_empty() {
        found.required(capacity, "");
    }
    if !capacity.get("storage").present() || capacity.len() > 1 {
        found.not_supported(capacity, &["storage"]);
    }
    for (_, size) in capacity.entries() {
        basic(&size, found);
        positive(&size, found);
    }
}

fn amount(at: &At<'_>) -> Option<Quantity> {
    if at.present() { Quantity::of_value(at.value()).ok() } else { None }
}

/// As [`not_negative`], in the words that upstream has for sizes of volumes.
fn basic(at: &At<'_>, found: &mut Findings) {
    if let Some(amount) = amount(at).filter(Quantity::is_negative) {
        found.invalid_value(at, amount.value(), "must be a valid resource quantity");
    }
}

fn not_negative(at: &At<'_>, found: &mut Findings) {
    if amount(at).is_some_and(|amount| amount.is_negative()) {
        found.invalid(at, NOT_NEGATIVE);
    }
}

fn positive(at: &At<'_>, found: &mut Findings) {
    if amount(at).is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
        found.invalid(at, POSITIVE);
    }
}

fn class_name(at: &At<'_>, found: &mut Findings) {
    if !at.is_empty() {
        found.complaints(at, names::dns1123_subdomain(at.text()));
    }
}

/// The name of a CSI driver, or of one for devices.
pub fn driver_name(at: &At<'_>, found: &mut Findings) {
    if at.is_empty() {
        return found.required(at, "");
    }
    if at.len() > 63 {
        found.too_long(at, 63);
    }
    found.complaints(at, names::dns1123_subdomain(&at.text().to_lowercase()));
}

fn volume_update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (now, then) = (new.get("spec"), old.get("spec"));
    if !same(&source_of(now.value(), then.value()), &source_of(then.value(), now.value())) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        found.forbidden(&At::named("spec.persistentvolumesource", now.value()), detail);
    }
    let (mode, mode_before) = (now.get("volumeMode"), then.get("volumeMode"));
    if mode.value() != mode_before.value() {
        found.invalid(&At::named("volumeMode", mode.value()), IMMUTABLE);
    }
    let (affinity, affinity_before) = (now.get("nodeAffinity"), then.get("nodeAffinity"));
    if affinity_before.present() && !same(affinity.value(), affinity_before.value()) {
        let detail = format!("{IMMUTABLE}, except for updating from beta label to GA");
        found.invalid(&At::named("nodeAffinity", affinity.value()), &detail);
    }
    let attributes = |spec: &At<'_>| spec.get("volumeAttributesClassName").present();
    if attributes(&then) && !attributes(&now) {
        found.forbidden(
            &now.get("volumeAttributesClassName"),
            "update from non-nil value to nil is forbidden",
        );
    }
}

/// Where a volume is. The secret for growing it may be added where there was none.
fn source_of(spec: &Value, other: &Value) -> Value {
    let mut source = spec.clone();
    NO_SOURCE.iter().for_each(|field| remove(&mut source, field));
    if other["csi"]["controllerExpandSecretRef"].is_null() {
        within(&mut source, "csi", |csi| remove(csi, "controllerExpandSecretRef"));
    }
    source
}

/// Of a claim, or of a template for claims.
pub fn claim_defaults(claim: &mut Value) {
    within_made(claim, "spec", |spec| {
        fill(spec, "volumeMode", "Filesystem");
        within(spec, "resources", |resources| {
            quantities(resources, "requests");
            quantities(resources, "limits");
        });
    });
    within_made(claim, "status", |status| {
        fill(status, "phase", "Pending");
        quantities(status, "capacity");
        quantities(status, "allocatedResources");
    });
}

/// What a claim's volume is filled from has an old field and a new one: each is told in the other as well. The old one
/// takes claims and snapshots only, and anything else in it has always been dropped without a word.
fn data_sources(spec: &mut Value, old: Option<&Value>) {
    let given = |spec: &Value, field: &str| spec.get(field).is_some_and(|source| !source.is_null());
    let had = old.is_some_and(|old| given(old, "dataSource") || given(old, "dataSourceRef"));
    // Behind a gate that is closed in upstream's release: a source in another namespace.
    let elsewhere = !At::root(spec).get("dataSourceRef").get("namespace").is_empty();
    if elsewhere && !old.is_some_and(|old| given(old, "dataSourceRef")) {
        remove(spec, "dataSourceRef");
    }
    let source = &spec["dataSource"];
    let known = matches!(
        (source["apiGroup"].as_str().unwrap_or_default(), source["kind"].as_str().unwrap_or_default()),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !had && !given(spec, "dataSourceRef") && !known {
        remove(spec, "dataSource");
    }
    match (given(spec, "dataSource"), given(spec, "dataSourceRef")) {
        (true, false) => spec["dataSourceRef"] = spec["dataSource"].clone(),
        (false, true) if At::root(&spec["dataSourceRef"]).get("namespace").is_empty() => {
            spec["dataSource"] = spec["dataSourceRef"].clone();
            within(spec, "dataSource", |source| remove(source, "namespace"));
        }
        _ => {}
    }
}

pub fn claim_spec(spec: &At<'_>, found: &mut Findings) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        found.required(&modes, "at least 1 access mode is required");
    }
    meta::label_selector(&spec.get("selector"), found);
    access_modes(&modes, found);
    // Upstream leaves `requests` out of the path.
    let path = format!("{}[storage]", spec.get("resources").path());
    let size = spec.get("resources").get("requests").get("storage");
    let size = At::named(path, size.value());
    if size.present() {
        positive(&size, found);
    } else {
        found.required(&size, "");
    }
    class_name(&spec.get("storageClassName"), found);
    found.one_of_if_any(&spec.get("volumeMode"), &VOLUME_MODES);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    data_source(&source, found);
    data_source(&reference, found);
    if !source.present() || !reference.present() {
        return class_name(&spec.get("volumeAttributesClassName"), found);
    }
    let differ = ["apiGroup", "kind", "name"]
        .iter()
        .any(|name| source.get(name).value() != reference.get(name).value());
    if !reference.get("namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        found.invalid_value(spec, json!({}), detail);
    } else if differ {
        found.invalid_value(spec, json!({}), "must match dataSourceRef");
    }
    class_name(&spec.get("volumeAttributesClassName"), found);
}

fn data_source(at: &At<'_>, found: &mut Findings) {
    if !at.present() {
        return;
    }
    for field in ["name", "kind"].map(|name| at.get(name)) {
        if field.is_empty() {
            found.required(&field, "");
        }
    }
    let (group, kind) = (at.get("apiGroup"), at.get("kind"));
    if !group.is_empty() {
        found.complaints(&group, names::dns1123_subdomain(group.text()));
    } else if kind.text() != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        found.invalid_value(at, kind.text(), detail);
    }
    let namespace = at.get("namespace");
    if !namespace.is_empty() {
        found.complaints(&namespace, names::dns1123_label(namespace.text()));
    }
}

const CLAIM_STAYS: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn claim_update(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (now, then) = (new.get("spec"), old.get("spec"));
    let bound = new.get("status").get("phase").text() == "Bound";
    if !same(&claim_fixed(now.value(), then.value(), bound), &claim_fixed(then.value(), then.value(), bound))
    {
        found.forbidden(&now, CLAIM_STAYS);
    }
    let size = |spec: &At<'_>| amount(&spec.get("resources").get("requests").get("storage"));
    let (wanted, before) = (size(&now).unwrap_or_default(), size(&then).unwrap_or_default());
    let has = amount(&old.get("status").get("capacity").get("storage")).unwrap_or_default();
    // Less than was asked for is allowed as long as it is more than there is: who asked for too much can go back.
    if wanted < before && wanted <= has {
        let at = now.get("resources").get("requests").get("storage");
        found.forbidden(&at, "field can not be less than status.capacity");
    }
    let (mode, mode_before) = (now.get("volumeMode"), then.get("volumeMode"));
    if mode.value() != mode_before.value() {
        found.invalid(&At::named("volumeMode", mode.value()), IMMUTABLE);
    }
    let attributes = now.get("volumeAttributesClassName");
    if old.get("status").get("currentVolumeAttributesClassName").present() && attributes.is_empty() {
        let to = if attributes.present() { "empty string" } else { "nil" };
        let detail =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        found.forbidden(&attributes, &detail);
    }
}

/// What of a claim stays as it is: all but the volume and the class that are given to it once, and of one that has its
/// volume, the size and the attributes.
fn claim_fixed(spec: &Value, then: &Value, bound: bool) -> Value {
    let mut fixed = spec.clone();
    for field in ["volumeName", "storageClassName"] {
        let unset =
            then.get(field).is_none_or(|value| value.is_null() || (field == "volumeName" && value == ""));
        if unset {
            remove(&mut fixed, field);
        }
    }
    if bound {
        remove(&mut fixed, "volumeAttributesClassName");
        within(&mut fixed, "resources", |resources| {
            within(resources, "requests", |requests| remove(requests, "storage"));
        });
    }
    fixed
}

fn attachment_spec(spec: &At<'_>, found: &mut Findings) {
    driver_name(&spec.get("attacher"), found);
    let source = spec.get("source");
    let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.present(), name.present()) {
        (false, false) => found.required(&source, one),
        (true, true) => found.forbidden(&source, one),
        (false, true) if name.is_empty() => {
            found.required(&name, "must specify non empty persistentVolumeName");
        }
        (true, false) => volume_spec(&inline, Of::Attachment, found),
        (false, true) => {}
    }
    if name.present() {
        for complaint in names::dns1123_subdomain(name.text()) {
            found.invalid_value(&name, name.text(), &complaint);
        }
    }
    let node = spec.get("nodeName");
    for complaint in names::dns1123_subdomain(node.text()) {
        found.invalid_value(&node, node.text(), &complaint);
    }
}
