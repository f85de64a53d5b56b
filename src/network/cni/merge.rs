//! What a plugin reads on its stdin (spec, "Deriving request configuration from plugin configuration").
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::{
    list::{NetworkList, Plugin},
    model::AttachmentId,
};

/// The configuration of one plugin of a chain for one attachment.
#[must_use]
pub fn plugin_config(
    list: &NetworkList,
    plugin: &Plugin,
    capabilities: &Map<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut config = base(list, plugin);
    let wanted: Map<String, Value> = plugin
        .capabilities
        .iter()
        .filter_map(|name| capabilities.get(name).map(|value| (name.clone(), value.clone())))
        .collect();
    if !wanted.is_empty() {
        config.insert("runtimeConfig".to_string(), Value::Object(wanted));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".to_string(), previous.clone());
    }
    Value::Object(config)
}

/// The configuration of one plugin for GC: what is still in use.
#[must_use]
pub fn gc_config(list: &NetworkList, plugin: &Plugin, valid: &[AttachmentId]) -> Value {
    let mut config = base(list, plugin);
    config.insert("cni.dev/valid-attachments".to_string(), json!(valid));
    Value::Object(config)
}

fn base(list: &NetworkList, plugin: &Plugin) -> Map<String, Value> {
    let mut config = plugin.config.clone();
    config.remove("capabilities");
    config.remove("runtimeConfig");
    config.remove("prevResult");
    config.insert("name".to_string(), json!(list.name));
    config.insert("cniVersion".to_string(), json!(list.version.as_str()));
    config
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_plugin_gets_the_capabilities_that_it_declares_and_no_others() {
        let text = r#"{"cniVersion":"0.4.0","name":"net","plugins":[
            {"type":"portmap","snat":true,"capabilities":{"portMappings":true,"bandwidth":false}}]}"#;
        let list = NetworkList::parse(text, Path::new("x")).unwrap();
        let Value::Object(capabilities) = json!({"portMappings": [1], "bandwidth": {}, "mac": "x"}) else {
            panic!()
        };
        let config = plugin_config(&list, &list.plugins[0], &capabilities, Some(&json!({"ips": []})));
        assert_eq!(
            config,
            json!({"cniVersion": "0.4.0", "name": "net", "type": "portmap", "snat": true,
                   "runtimeConfig": {"portMappings": [1]}, "prevResult": {"ips": []}})
        );
    }
}
