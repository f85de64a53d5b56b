//! Packs the descriptions of the API's types and fields for OpenAPI, from the `k8s-openapi` crate's own JSON schemas.
//!
//! Names and shapes are not taken from here: `api::schema` has them. What comes out is text alone, deflated, and
//! unpacked only when OpenAPI is asked for (`openapi/descriptions.rs` reads it).

use std::{collections::BTreeMap, env, error::Error, fs::File, io::Write, path::Path};

use flate2::{Compression, write::DeflateEncoder};
use k8s_openapi::{
    api, apiextensions_apiserver::pkg::apis::apiextensions, apimachinery::pkg::apis::meta,
    kube_aggregator::pkg::apis::apiregistration, schemars::SchemaGenerator,
};
use serde_json::Value;

/// Adds the types, and all that they refer to.
macro_rules! add {
    ($generator:ident, $($package:path { $($kind:ident)* })*) => {$(
        {
            use $package as package;
            $($generator.subschema_for::<package::$kind>();)*
        }
    )*};
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaGenerator::default();
    kinds(&mut generator);
    more_kinds(&mut generator);
    let definitions: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
    let path = Path::new(&env::var("OUT_DIR")?).join("descriptions.deflate");
    let mut packed = DeflateEncoder::new(File::create(path)?, Compression::best());
    packed.write_all(pack(&definitions).as_bytes())?;
    packed.finish()?;
    Ok(())
}

/// For each type a record, ended by U+001E: its name, its description, and for each field its name and description,
/// all ended by U+001F.
fn pack(definitions: &BTreeMap<String, Value>) -> String {
    let mut text = String::new();
    let mut put = |word: &str, end: char| {
        text.push_str(word);
        text.push(end);
    };
    for (name, schema) in definitions {
        put(name, '\u{1f}');
        put(schema["description"].as_str().unwrap_or_default(), '\u{1f}');
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            put(field, '\u{1f}');
            put(schema["description"].as_str().unwrap_or_default(), '\u{1f}');
        }
        put("", '\u{1e}');
    }
    text
}

fn kinds(generator: &mut SchemaGenerator) {
    add!(generator,
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::coordination::v1 { Lease }
        api::core::v1 {
            Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
            PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
    );
}

fn more_kinds(generator: &mut SchemaGenerator) {
    add!(generator,
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
        meta::v1 { DeleteOptions ListMeta ObjectMeta Status }
        apiextensions::v1 { CustomResourceDefinition }
        apiregistration::v1 { APIService }
    );
}
