//! A command line in upstream's form, read by a table: `--name value`, `--name=value`, `--switch`, `-v2`.
//!
//! What a flag says becomes a node of the same document that a configuration file is, so that one reader reads both.

use crate::{
    Mistake,
    section::distance,
    tree::{Entry, Node, Value},
};

/// What is written behind a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// `true` where nothing is written.
    Switch,
    Number,
    /// `a,b`; said twice, both count.
    List,
    /// `a=b,c=d`; said twice, both count.
    Map,
    /// `key=value:effect,key:effect`.
    Taints,
}

impl Kind {
    fn placeholder(self) -> &'static str {
        match self {
            Self::Text => " TEXT",
            Self::Switch => "[=false]",
            Self::Number => " NUMBER",
            Self::List => " A,B",
            Self::Map => " A=B,C=D",
            Self::Taints => " KEY=VALUE:EFFECT",
        }
    }
}

/// Where what a flag says belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This field of the configuration file.
    Field(&'static str),
    /// No field: there is only the flag, and this is its key.
    Alone(&'static str),
}

/// One flag that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) help: &'static str,
}

/// A row of a table of flags.
pub(super) const fn flag(name: &'static str, kind: Kind, place: Place, help: &'static str) -> Flag {
    Flag { name, kind, place, help }
}

/// Everything that one program takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) program: &'static str,
    pub(super) about: &'static str,
    /// Which configuration file it reads.
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    /// Fields of that file in which a zero or an empty text is said on purpose.
    pub(super) meant: &'static [&'static str],
    /// Fields of that file in which zeros inside and an empty list or map are said on purpose too: what they do not name
    /// is off.
    pub(super) whole: &'static [&'static str],
    /// Fields that are as another one of the same file where it says nothing of them.
    pub(super) follows: &'static [(&'static str, &'static str)],
    pub(super) flags: &'static [Flag],
    /// Flags of upstream's that are known and not taken.
    pub(super) refused: &'static [&'static str],
    /// Fields, with dots, whose values are taken since upstream's defaults or kubeadm say them, though they are not what
    /// happens here. Without a value, whatever else is taken is meant.
    pub(super) not_done: &'static [(&'static str, Option<&'static str>)],
    /// The flags that count where `--config` names a file too: all without it, as upstream's program has it.
    pub(super) beside_a_file: Option<&'static [&'static str]>,
}

/// What was typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    /// Each flag and what it says, in the order in which they were typed.
    said: Vec<(&'static Flag, String)>,
    /// As a configuration file would say it.
    pub(super) fields: Node,
    /// What no file can say.
    pub(super) alone: Node,
    pub(super) help: bool,
    pub(super) version: bool,
}

impl Given {
    /// The text of a flag that stands alone.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.alone.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What of it counts where it names a file, and the flags that do not.
    pub(super) fn beside_a_file(mut self, table: &Table) -> (Self, Vec<&'static str>) {
        let Some(counting) =
            table.beside_a_file.filter(|_| self.text("config").is_some_and(|file| !file.is_empty()))
        else {
            return (self, Vec::new());
        };
        (self.fields, self.alone) = (Node::empty(), Node::empty());
        let mut ignored = Vec::new();
        for (flag, text) in std::mem::take(&mut self.said) {
            if counting.contains(&flag.name) && !text.is_empty() {
                // It was read before, without a mistake.
                drop(self.note(flag, &text));
            } else if !counting.contains(&flag.name) && !ignored.contains(&flag.name) {
                ignored.push(flag.name);
            }
        }
        (self, ignored)
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        self.alone.get(key).is_some_and(|node| node.value == Value::Bool(true))
    }
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// Every argument that is wrong, in the order in which they were typed.
pub(super) fn parse(table: &Table, arguments: &[String]) -> Result<Given, Vec<Mistake>> {
    let mut given =
        Given { said: Vec::new(), fields: Node::empty(), alone: Node::empty(), help: false, version: false };
    let (mut mistakes, mut rest) = (Vec::new(), arguments.iter());
    while let Some(argument) = rest.next() {
        let (name, written) = match split(argument) {
            Ok(found) => found,
            Err(text) => {
                mistakes.push(Mistake::new(0, String::new(), text));
                continue;
            }
        };
        match name.as_str() {
            "help" | "h" => given.help = true,
            "version" => given.version = written != Some("false"),
            _ => {
                let Some(flag) = table.flags.iter().find(|flag| flag.name == name) else {
                    mistakes.push(Mistake::new(0, String::new(), table.unknown(&name)));
                    continue;
                };
                let text = match (written, flag.kind) {
                    (Some(text), _) => text,
                    (None, Kind::Switch) => "true",
                    (None, _) => match rest.next() {
                        Some(text) => text,
                        None => {
                            let text = format!("needs a value: --{name}{}", flag.kind.placeholder());
                            mistakes.push(Mistake::new(0, format!("--{name}"), text));
                            continue;
                        }
                    },
                };
                if let Err(text) = given.note(flag, text) {
                    mistakes.push(Mistake::new(0, format!("--{name}"), text));
                }
            }
        }
    }
    if mistakes.is_empty() { Ok(given) } else { Err(mistakes) }
}

/// Name and value of `--name=value`; as upstream, `_` in a name is `-`.
fn split(argument: &str) -> Result<(String, Option<&str>), String> {
    if let Some(long) = argument.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(format!("{argument:?} is no flag"));
        }
        return Ok((name.replace('_', "-"), value));
    }
    let Some(short) = argument.strip_prefix('-') else {
        return Err(format!(
            "unknown argument {argument:?}: everything is said by flags, and the value of a switch by `=`"
        ));
    };
    let mut letters = short.chars();
    match letters.next() {
        Some('h') if letters.as_str().is_empty() => Ok(("help".into(), None)),
        Some('v') => {
            let value = letters.as_str();
            Ok(("v".into(), (!value.is_empty()).then(|| value.strip_prefix('=').unwrap_or(value))))
        }
        _ => Err(format!("unknown flag: {argument}: flags of more than one letter begin with --")),
    }
}

impl Given {
    fn note(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        self.said.push((flag, text.to_string()));
        let (document, path) = match flag.place {
            Place::Field(path) => (&mut self.fields, path),
            Place::Alone(key) => (&mut self.alone, key),
        };
        let value = match flag.kind {
            Kind::Text => Value::Text(text.to_string()),
            Kind::Switch => {
                Value::Bool(switch(text).ok_or_else(|| format!("{text:?} is not true or false"))?)
            }
            Kind::Number => {
                Value::Integer(text.parse().map_err(|_| format!("{text:?} is not a whole number"))?)
            }
            Kind::List => return append(document, path, words(text).map(|word| Value::Text(word.into()))),
            Kind::Taints => {
                let taints: Result<Vec<Value>, String> = words(text).map(taint).collect();
                return append(document, path, taints?.into_iter());
            }
            Kind::Map => {
                let mut entries = Node::empty();
                for pair in words(text) {
                    let (key, value) =
                        pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
                    put(&mut entries, key.trim(), Value::Text(value.trim().to_string()));
                }
                let mut over = Node::empty();
                over.set(path, 0, entries.value);
                let before = std::mem::replace(document, Node::empty());
                *document = before.under(over);
                return Ok(());
            }
        };
        document.set(path, 0, value);
        Ok(())
    }
}

/// Keys here may hold dots.
fn put(map: &mut Node, key: &str, value: Value) {
    if let Value::Map(entries) = &mut map.value {
        entries.retain(|entry| entry.key != key);
        entries.push(Entry { key: key.to_string(), line: 0, node: Node { line: 0, value } });
    }
}

/// As Go's strconv reads it.
fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn append(document: &mut Node, path: &str, more: impl Iterator<Item = Value>) -> Result<(), String> {
    let found = path.split('.').try_fold(&*document, |node, key| node.get(key));
    let mut items = match found.map(|node| &node.value) {
        Some(Value::List(before)) => before.clone(),
        _ => Vec::new(),
    };
    items.extend(more.map(|value| Node { line: 0, value }));
    document.set(path, 0, Value::List(items));
    Ok(())
}

/// `key=value:effect`, `key:effect`.
fn taint(text: &str) -> Result<Value, String> {
    let (marked, effect) =
        text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not KEY=VALUE:EFFECT"))?;
    let (key, value) = marked.split_once('=').unwrap_or((marked, ""));
    let mut taint = Node::empty();
    for (field, said) in [("key", key), ("value", value), ("effect", effect)] {
        put(&mut taint, field, Value::Text(said.to_string()));
    }
    Ok(taint.value)
}

impl Table {
    /// Which of its fields that are not done yet a document has.
    pub(super) fn not_done_in(&self, root: &Node) -> Vec<&'static str> {
        let says = |(path, value): &&(&str, Option<&str>)| {
            let found = path.split('.').try_fold(root, |node, key| node.get(key));
            found.is_some_and(|node| value.is_none_or(|value| node.value.plain() == value))
        };
        self.not_done.iter().filter(says).map(|(path, _)| *path).collect()
    }

    fn unknown(&self, name: &str) -> String {
        let program = self.program;
        if self.refused.contains(&name) {
            return format!(
                "unknown flag: --{name}: upstream's {program} has it, this one does not; take it out (`{program} --help` lists \
                 the flags that work)"
            );
        }
        let near = self.flags.iter().map(|flag| flag.name).min_by_key(|known| distance(known, name));
        match near {
            Some(known) if distance(known, name) <= 3 => {
                format!("unknown flag: --{name}; did you mean --{known}?")
            }
            _ => format!("unknown flag: --{name}; `{program} --help` lists the flags that work"),
        }
    }

    /// The flag that said what stands at `path` of the document.
    pub(super) fn flag_of(&self, path: &str) -> Option<&Flag> {
        let says = |flag: &&Flag| {
            let (Place::Field(own) | Place::Alone(own)) = flag.place;
            path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
        };
        self.flags.iter().filter(says).max_by_key(|flag| {
            let (Place::Field(own) | Place::Alone(own)) = flag.place;
            own.len()
        })
    }

    /// What `--help` prints.
    pub(super) fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage: {} [flags]\n\nFlags:\n", self.about, self.program);
        let heads: Vec<String> =
            self.flags.iter().map(|flag| format!("--{}{}", flag.name, flag.kind.placeholder())).collect();
        let width = heads.iter().map(String::len).max().unwrap_or_default();
        let own = [
            ("-h, --help".to_string(), "print this".to_string()),
            (
                "--version".to_string(),
                format!("print the version of Kubernetes whose {} this is", self.program),
            ),
        ];
        let told = heads.into_iter().zip(self.flags.iter().map(|flag| flag.help.to_string()));
        for (head, help) in told.chain(own) {
            text.push_str(&format!("  {head:width$}  {help}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: Table = Table {
        program: "kubelet",
        about: "About.",
        kind: "KubeletConfiguration",
        api_version: "v1",
        meant: &[],
        whole: &[],
        follows: &[],
        flags: &[
            flag("max-pods", Kind::Number, Place::Field("maxPods"), "pods"),
            flag("cluster-dns", Kind::List, Place::Field("clusterDNS"), "dns"),
            flag("client-ca-file", Kind::Text, Place::Field("authentication.x509.clientCAFile"), "ca"),
            flag("register-node", Kind::Switch, Place::Field("registerNode"), "register"),
            flag("node-labels", Kind::Map, Place::Alone("labels"), "labels"),
            flag("register-with-taints", Kind::Taints, Place::Field("registerWithTaints"), "taints"),
            flag("v", Kind::Number, Place::Field("logging.verbosity"), "log"),
        ],
        refused: &["eviction-hard"],
        not_done: &[],
        beside_a_file: None,
    };

    fn read(line: &str) -> Result<Given, String> {
        let arguments: Vec<String> = line.split(' ').map(str::to_string).collect();
        parse(&TABLE, &arguments).map_err(|mistakes| {
            let words = mistakes.iter().map(|m| format!("{}|{}", m.field, m.text)).collect::<Vec<_>>();
            words.join("\n")
        })
    }

    #[test]
    fn a_value_stands_behind_a_blank_or_an_equals_sign() {
        for line in ["--max-pods 7", "--max-pods=7", "--max_pods=7"] {
            assert_eq!(read(line).unwrap().fields.get("maxPods").unwrap().value, Value::Integer(7), "{line}");
        }
        for line in ["-v2", "-v=2", "-v 2", "--v=2", "--v 2"] {
            let given = read(line).unwrap();
            let verbosity = given.fields.get("logging").unwrap().get("verbosity").unwrap();
            assert_eq!(verbosity.value, Value::Integer(2), "{line}");
        }
    }

    #[test]
    fn a_switch_is_on_alone_and_off_by_an_equals_sign() {
        let value = |line: &str| read(line).unwrap().fields.get("registerNode").unwrap().value.clone();
        assert_eq!(value("--register-node"), Value::Bool(true));
        assert_eq!(value("--register-node=false"), Value::Bool(false));
        assert!(read("--register-node false").unwrap_err().contains("unknown argument \"false\""));
    }

    #[test]
    fn lists_and_maps_said_twice_add_up_and_other_flags_said_twice_are_what_was_said_last() {
        let given =
            read("--cluster-dns=1.1.1.1,2.2.2.2 --max-pods=1 --cluster-dns 3.3.3.3 --max-pods=2").unwrap();
        assert_eq!(given.fields.get("clusterDNS").unwrap().value.plain(), "1.1.1.1,2.2.2.2,3.3.3.3");
        assert_eq!(given.fields.get("maxPods").unwrap().value, Value::Integer(2));
        let given = read("--node-labels=example.com/a=b,c=d --node-labels=c=e").unwrap();
        assert_eq!(given.alone.get("labels").unwrap().value.plain(), "example.com/a=b,c=e");
        let given = read("--register-with-taints=a=b:NoSchedule,c:NoExecute").unwrap();
        let taints = given.fields.get("registerWithTaints").unwrap().value.plain();
        assert_eq!(taints, "key=a,value=b,effect=NoSchedule,key=c,value=empty,effect=NoExecute");
    }

    #[test]
    fn every_wrong_argument_is_told_at_once() {
        let told =
            read("--max-pod=1 --eviction-hard=x --zzzzzzzzzzzz -x --max-pods=many stray --cluster-dns")
                .unwrap_err();
        begin_with(
            &told,
            &[
                "|unknown flag: --max-pod; did you mean --max-pods?",
                "|unknown flag: --eviction-hard: upstream's kubelet has it, this one does not; take it out",
                "|unknown flag: --zzzzzzzzzzzz; `kubelet --help` lists the flags that work",
                "|unknown flag: -x: flags of more than one letter begin with --",
                "--max-pods|\"many\" is not a whole number",
                "|unknown argument \"stray\"",
                "--cluster-dns|needs a value: --cluster-dns A,B",
            ],
        );
    }

    fn begin_with(told: &str, expected: &[&str]) {
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{told}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line:?} does not begin with {expected:?}");
        }
    }

    #[test]
    fn a_field_is_led_back_to_the_flag_that_said_it() {
        let name = |path: &str| TABLE.flag_of(path).map(|flag| flag.name);
        assert_eq!(name("clusterDNS[1]"), Some("cluster-dns"));
        assert_eq!(name("authentication.x509.clientCAFile"), Some("client-ca-file"));
        assert_eq!(name("clusterDNSes"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_argument_makes_the_parser_panic(
            arguments in proptest::collection::vec("(--(max-pods|cluster-dns|node-labels|register-with-taints|v|register-node)[= ]?)?\\PC{0,12}", 0..6)
        ) {
            drop(parse(&TABLE, &arguments));
        }
    }
}
