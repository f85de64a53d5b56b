//! Called as `kubelet` or `kube-proxy`: upstream's flags and configuration files, read into the same [`Config`] that
//! `CoracleConfiguration` gives.
//!
//! ```text
//!   arguments ──flags.rs──▶ a document ─┐ over
//!                                       ├──▶ one document ──kubelet.rs, proxy.rs──▶ Config, or every mistake at once
//!   --config FILE ──────────tree.rs────▶┘
//! ```
//!
//! - A field or flag that is taken works, or says what is so anyway, or provably makes no difference. Everything else is
//!   a mistake that names it, but for a few defaults of upstream's that are not done yet: those are told.
//! - As upstream: what is empty or zero in a file is not set. A kubelet's flags win over the file; of a kube-proxy's with a
//!   file, only a few count.

mod flags;
mod kubelet;
mod proxy;
mod shared;

use std::{io, path::Path};

use self::flags::{Given, Table};
use crate::{
    Config, ConfigError, Mistake, Mistakes, Upstream,
    tree::{self, Entry, Node, Value},
};

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// To run, until told to stop.
    Run(Box<Config>),
    /// To take away what the program made, and end.
    CleanUp(Box<Config>),
    /// To print this.
    Help(String),
    /// To print the version.
    Version,
}

/// What `kubelet` is to do with these arguments (without its own name). `read` gives the text of the file that
/// `--config` names.
///
/// # Errors
/// Every mistake in the arguments, or every one in them and in the file.
pub fn kubelet(
    arguments: &[String],
    read: impl FnOnce(&Path) -> io::Result<String>,
) -> Result<Asked, ConfigError> {
    asked(&kubelet::FLAGS, arguments, read, kubelet::read)
}

/// As [`kubelet`], for `kube-proxy`.
///
/// # Errors
/// As [`kubelet`].
pub fn kube_proxy(
    arguments: &[String],
    read: impl FnOnce(&Path) -> io::Result<String>,
) -> Result<Asked, ConfigError> {
    asked(&proxy::FLAGS, arguments, read, proxy::read)
}

/// Reads the document of file and flags, with what only flags say.
type Reader = fn(Node, &Given, &mut Vec<Mistake>) -> Config;

fn asked(
    table: &Table,
    arguments: &[String],
    read: impl FnOnce(&Path) -> io::Result<String>,
    reader: Reader,
) -> Result<Asked, ConfigError> {
    let failed = |file: &str, mistakes| ConfigError::Mistakes(Mistakes { file: file.to_string(), mistakes });
    let given = flags::parse(table, arguments).map_err(|mistakes| failed("", mistakes))?;
    if given.help {
        return Ok(Asked::Help(table.help()));
    }
    if given.version {
        return Ok(Asked::Version);
    }
    let (mut given, ignored_flags) = given.beside_a_file(table);
    let file = given.text("config").unwrap_or_default().to_string();
    let root = if file.is_empty() {
        let mut root = Node::empty();
        root.set("kind", 0, Value::Text(table.kind.to_string()));
        root.set("apiVersion", 0, Value::Text(table.api_version.to_string()));
        root
    } else {
        let text =
            read(Path::new(&file)).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        tree::parse(&text).map_err(|error| {
            let text = format!("not valid YAML: {}", error.message);
            failed(&file, vec![Mistake::new(error.line, String::new(), text)])
        })?
    };
    let mut root = without_zeros(root, table);
    for (field, other) in table.follows {
        if root.get(field).is_none()
            && let Some(said) = root.get(other).cloned()
        {
            root.set(field, said.line, said.value);
        }
    }
    let root = without_empties(root.under(given.fields.clone()), table);
    if let Value::Map(entries) = &mut given.alone.value {
        entries.retain(|entry| says_something(entry, table));
    }
    let not_done = table.not_done_in(&root);
    let mut mistakes = Vec::new();
    let mut config = reader(root, &given, &mut mistakes);
    config.upstream = Some(Upstream { program: table.program, ignored_flags, not_done });
    if mistakes.is_empty() {
        let config = Box::new(config);
        return Ok(if given.is_on("cleanup") { Asked::CleanUp(config) } else { Asked::Run(config) });
    }
    for mistake in mistakes.iter_mut().filter(|mistake| mistake.line == 0) {
        if let Some(flag) = table.flag_of(&mistake.field) {
            mistake.field = format!("--{}", flag.name);
        }
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    Err(failed(&file, mistakes))
}

/// The document without Go's zero values, which say nothing: written by upstream's own programs, every field is there.
fn without_zeros(mut node: Node, table: &Table) -> Node {
    if let Value::Map(entries) = node.value {
        let kept = entries.into_iter().filter_map(|mut entry| {
            if table.whole.contains(&entry.key.as_str()) {
                return (entry.node.value != Value::Null).then_some(entry);
            }
            entry.node = without_zeros(entry.node, table);
            let is_zero = match &entry.node.value {
                Value::Null => true,
                Value::Map(entries) => entries.is_empty(),
                Value::List(items) => items.is_empty(),
                Value::Integer(number) => *number == 0 && !table.meant.contains(&entry.key.as_str()),
                Value::Float(number) => *number == 0.0,
                Value::Text(text) if text.is_empty() => !table.meant.contains(&entry.key.as_str()),
                Value::Text(text) => matches!(text.as_str(), "0" | "0s"),
                Value::Bool(_) => false,
            };
            (!is_zero).then_some(entry)
        });
        node.value = Value::Map(kept.collect());
    }
    node
}

/// The document without the flags that say nothing: a number is said on purpose there, an empty text is not.
fn without_empties(mut node: Node, table: &Table) -> Node {
    if let Value::Map(entries) = &mut node.value {
        entries.retain(|entry| says_something(entry, table));
        for entry in entries {
            let below = std::mem::replace(&mut entry.node, Node::empty());
            entry.node = without_empties(below, table);
        }
    }
    node
}

fn says_something(entry: &Entry, table: &Table) -> bool {
    match &entry.node.value {
        Value::Text(text) => !text.is_empty() || table.meant.contains(&entry.key.as_str()),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
