//! Network configuration lists (spec, section 1).
//!
//! Strict where the spec is: a list without a name, a version or plugins is refused, with the file named.
//! Unknown keys belong to plugins and pass through.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::version::{UnsupportedVersion, Version};

/// Why a file is no network configuration list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not JSON", .path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: {field} {problem}", .path.display())]
    Field { path: PathBuf, field: String, problem: &'static str },
    #[error("{}: cniVersion", .path.display())]
    Version {
        path: PathBuf,
        #[source]
        source: UnsupportedVersion,
    },
}

/// A chain of plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    pub name: String,
    pub version: Version,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<Plugin>,
}

/// One plugin of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// The binary's name.
    pub kind: String,
    /// Names of the capabilities that it declares as true.
    pub capabilities: Vec<String>,
    /// Everything that the file says of it.
    pub config: Map<String, Value>,
}

impl NetworkList {
    /// # Errors
    /// When the file cannot be read, or is no list.
    pub fn load(path: &Path) -> Result<Self, ListError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ListError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text, path)
    }

    /// # Errors
    /// When `text` is no list; `path` is for the message.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ListError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|source| ListError::Json { path: path.to_path_buf(), source })?;
        let field = |field: &str, problem| ListError::Field {
            path: path.to_path_buf(),
            field: field.to_string(),
            problem,
        };
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
        if !is_network_name(name) {
            return Err(field(
                "name",
                "must begin with a letter or digit and hold letters, digits, '_', '.', '-'",
            ));
        }
        let plugins = value
            .get("plugins")
            .and_then(Value::as_array)
            .filter(|plugins| !plugins.is_empty())
            .ok_or_else(|| field("plugins", "must be a list of at least one plugin"))?;
        let plugins = plugins
            .iter()
            .enumerate()
            .map(|(index, plugin)| {
                read_plugin(plugin).map_err(|problem| field(&format!("plugins[{index}]"), problem))
            })
            .collect::<Result<_, _>>()?;
        let flag = |name: &str| match value.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            // Old files write the boolean as text.
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(_) => Err(field(name, "must be true or false")),
        };
        Ok(Self {
            name: name.to_string(),
            version: read_version(&value, path)?,
            disable_check: flag("disableCheck")?,
            disable_gc: flag("disableGC")?,
            plugins,
        })
    }

    /// The capabilities of all plugins, without repetition.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.plugins.iter().flat_map(|plugin| plugin.capabilities.clone()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// The newest version of `cniVersions` that is spoken here, else `cniVersion`.
fn read_version(value: &Value, path: &Path) -> Result<Version, ListError> {
    let offered = value.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let single = value.get("cniVersion").and_then(Value::as_str);
    let newest = offered.filter_map(Value::as_str).chain(single).filter_map(|text| text.parse().ok()).max();
    newest.ok_or_else(|| ListError::Version {
        path: path.to_path_buf(),
        source: UnsupportedVersion(single.unwrap_or_default().to_string()),
    })
}

fn read_plugin(value: &Value) -> Result<Plugin, &'static str> {
    let config = value.as_object().ok_or("must be an object")?;
    let kind =
        config.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()).ok_or("has no type")?;
    if kind.contains('/') {
        return Err("has a type that is a path; it must be the name of a binary");
    }
    let capabilities = match config.get("capabilities") {
        None => Vec::new(),
        Some(Value::Object(flags)) => {
            flags.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
        }
        Some(_) => return Err("has capabilities that are no object"),
    };
    Ok(Plugin { kind: kind.to_string(), capabilities, config: config.clone() })
}

fn is_network_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        NetworkList::parse(text, Path::new("/etc/cni/net.d/x.conflist")).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_names_the_file_and_the_field() {
        assert!(
            refused(r#"{"cniVersion":"1.0.0","name":"a b","plugins":[{"type":"x"}]}"#)
                .contains("x.conflist: name")
        );
        assert!(refused(r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#).contains("x.conflist: plugins"));
        assert!(
            refused(r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../x"}]}"#)
                .contains("plugins[0]")
        );
        assert!(
            refused(r#"{"cniVersion":"7.0.0","name":"a","plugins":[{"type":"x"}]}"#).contains("cniVersion")
        );
        assert!(refused("{").contains("x.conflist"));
    }

    #[test]
    fn the_newest_offered_version_is_taken() {
        let text =
            r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","9.0.0"],"name":"a","plugins":[{"type":"x"}]}"#;
        assert_eq!(NetworkList::parse(text, Path::new("x")).unwrap().version, Version::V1_0_0);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(
            text in r#"(\{|\}|\[|\]|"name"|"plugins"|"type"|"cniVersion"|"1.0.0"|"a"|:|,|1|true|null| ){0,24}"#
        ) {
            drop(NetworkList::parse(&text, Path::new("x")));
        }
    }
}
