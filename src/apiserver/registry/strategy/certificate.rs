//! CertificateSigningRequests. Who asks is written by the server (see `admission/certificates.rs`).

use std::collections::BTreeSet;

use api::names;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;

use super::at::At;
use super::findings::Findings;
use super::rules::Rules;
use crate::registry::NameRule;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const VERDICTS: [&str; 2] = ["Approved", "Denied"];

pub const CERTIFICATE_SIGNING_REQUESTS: Rules = Rules {
    defaults: |csr| {
        let conditions = csr.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            super::fill::fill(condition, "status", "True");
        }
    },
    prepare_create: |csr| csr["status"] = json!({}),
    // The request itself never changes.
    prepare_update: |new, old| new["spec"] = old["spec"].clone(),
    // The signer writes the certificate; the verdict is written through /approval.
    prepare_status: keep_verdict,
    validate,
    validate_status: |new, old, found| {
        conditions(new, found);
        nothing_removed(new, old, found);
        let (now, then) = (new.get("status").get("certificate"), old.get("status").get("certificate"));
        if !then.is_empty() && now.text() != then.text() {
            found.forbidden(&now, "updates may not modify existing certificate content");
        }
    },
    name_rule: NameRule::PathSegment,
    ..Rules::NONE
};

/// `certificatesigningrequests/approval`: beside metadata, only the conditions change.
pub const APPROVAL: Rules = Rules {
    prepare_update: |new, old| {
        let conditions = new["status"]["conditions"].take();
        new["spec"] = old["spec"].clone();
        new["status"] = old["status"].clone();
        new["status"]["conditions"] = if conditions.is_null() { json!([]) } else { conditions };
    },
    validate_update: |new, old, found| {
        conditions(new, found);
        nothing_removed(new, old, found);
    },
    ..CERTIFICATE_SIGNING_REQUESTS
};

fn keep_verdict(new: &mut Value, old: &Value) {
    let verdict = |condition: &Value| condition["type"].as_str().is_some_and(|kind| VERDICTS.contains(&kind));
    let list = |csr: &Value| csr["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (kept, mut rest) = (list(old), list(new));
    rest.retain(|condition| !verdict(condition));
    let conditions: Vec<Value> = kept.into_iter().filter(verdict).chain(rest).collect();
    if !conditions.is_empty() {
        new["status"]["conditions"] = conditions.into();
    }
}

fn validate(csr: &At<'_>, found: &mut Findings) {
    let spec = csr.get("spec");
    let request = spec.get("request");
    if let Err(complaint) = parse(request.text()) {
        found.invalid(&request, complaint);
    }
    let usages = spec.get("usages");
    if usages.is_empty() {
        found.required(&usages, "");
    }
    let mut seen = BTreeSet::new();
    for usage in usages.items() {
        if !USAGES.contains(&usage.text()) {
            found.not_supported(&usage, &USAGES);
        }
        if !seen.insert(usage.text()) {
            found.duplicate(&usage);
        }
    }
    signer(&spec.get("signerName"), found);
    let expires = spec.get("expirationSeconds");
    if expires.int().is_some_and(|seconds| seconds < 600) {
        found.invalid(&expires, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

fn parse(request: &str) -> Result<(), &'static str> {
    let not_pem = "PEM block type must be CERTIFICATE REQUEST";
    let pem = STANDARD.decode(request).map_err(|_error| not_pem)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_error| not_pem)?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(not_pem);
    }
    x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map(|_parsed| ())
        .map_err(|_error| "asn1: structure error")
}

/// `domain/path`, e.g. `kubernetes.io/kubelet-serving`.
fn signer(at: &At<'_>, found: &mut Findings) {
    let name = at.text();
    if name.is_empty() {
        return found.required(at, "");
    }
    if name == "kubernetes.io/legacy-unknown" {
        return found.invalid(at, "the legacy signerName is not allowed via this API version");
    }
    let Some((domain, path)) = name.split_once('/') else {
        return found
            .invalid(at, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if !domain.contains('.') || path.contains('/') {
        found.invalid(at, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    }
    found.complaints(at, names::dns1123_subdomain(domain));
    if !path.contains('/') {
        found.complaints(at, names::dns1123_subdomain(path));
    }
}

fn conditions(csr: &At<'_>, found: &mut Findings) {
    let list = csr.get("status").get("conditions");
    let mut seen = BTreeSet::new();
    for condition in list.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        if kind.is_empty() {
            found.required(&kind, "");
        }
        if VERDICTS.contains(&kind.text()) || kind.text() == "Failed" {
            found.one_of(&status, &["True"]);
        } else {
            found.one_of(&status, &["False", "True", "Unknown"]);
        }
        let other = VERDICTS.iter().find(|verdict| **verdict != kind.text());
        if VERDICTS.contains(&kind.text()) && other.is_some_and(|other| seen.contains(other)) {
            found.invalid_value(&list, kind.text(), "Approved and Denied conditions are mutually exclusive");
        }
        if !seen.insert(kind.text()) {
            found.duplicate(&kind);
        }
    }
}

fn nothing_removed(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let list = new.get("status").get("conditions");
    let count = |csr: &At<'_>, kind: &str| {
        csr.get("status").get("conditions").items().filter(|c| c.get("type").text() == kind).count()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if count(new, kind) < count(old, kind) {
            found.forbidden(&list, &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}
