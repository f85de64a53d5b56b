//! Reads the table of built-in types, one type at a time.

use std::{fmt, sync::OnceLock};

use super::{Field, ListKind, Merge, Name, Scalar, Shape, Type, TypeRef};

/// Its legend is at its top.
const FACTS: &str = include_str!("facts.txt");

/// A type's place in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Index(u16);

impl Index {
    pub(super) fn get(self) -> &'static Type {
        let entry = &table().types[usize::from(self.0)];
        entry.parsed.get_or_init(|| entry.parse())
    }

    pub(super) fn name(self) -> &'static str {
        table().types[usize::from(self.0)].name
    }

    pub(super) fn read(self) -> Type {
        table().types[usize::from(self.0)].parse()
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A type that has a kind of its own, such as `("apps", "v1", "Deployment")`.
///
/// `DeleteOptions` and `WatchEvent` are there in every group and version.
pub fn lookup(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    let kinds = &table().kinds;
    let found = kinds.binary_search_by(|known| known.0.cmp(&(group, version, kind)));
    let at = found.or_else(|_| kinds.binary_search_by(|known| known.0.cmp(&("*", "*", kind)))).ok()?;
    kinds.get(at).map(|(_, index)| TypeRef::BuiltIn(*index))
}

/// A type by its name in the table: `core.v1.PodSpec`.
pub fn named(name: &str) -> Option<TypeRef> {
    index_of(name).map(TypeRef::BuiltIn)
}

/// All built-in types in the order of their names.
pub fn all() -> impl Iterator<Item = TypeRef> {
    (0..table().types.len()).filter_map(|at| u16::try_from(at).ok().map(|at| TypeRef::BuiltIn(Index(at))))
}

/// All kinds as (group, version, kind), with their types; `*` for those of every group and version.
pub fn kinds() -> impl Iterator<Item = ((&'static str, &'static str, &'static str), TypeRef)> {
    table().kinds.iter().map(|(kind, index)| (*kind, TypeRef::BuiltIn(*index)))
}

fn index_of(name: &str) -> Option<Index> {
    let at = table().types.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
    u16::try_from(at).ok().map(Index)
}

type Kind = (&'static str, &'static str, &'static str);

struct Table {
    /// Sorted by name, as the file is.
    types: Vec<Entry>,
    /// Sorted.
    kinds: Vec<(Kind, Index)>,
}

struct Entry {
    name: &'static str,
    atomic: bool,
    /// The lines of its fields.
    fields: &'static str,
    parsed: OnceLock<Type>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| read(FACTS))
}

fn read(text: &'static str) -> Table {
    let mut table = Table { types: Vec::new(), kinds: Vec::new() };
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if line.starts_with('#') {
            rest = after;
            continue;
        }
        let body = end_of_fields(after);
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let index = Index(u16::try_from(table.types.len()).unwrap_or(u16::MAX));
        let mut atomic = false;
        for word in words {
            match word {
                "atomic" => atomic = true,
                "*" => table.kinds.push((("*", "*", last_part(name)), index)),
                kind => table.kinds.extend(parse_kind(kind).map(|kind| (kind, index))),
            }
        }
        table.types.push(Entry { name, atomic, fields: &after[..body], parsed: OnceLock::new() });
        rest = &after[body..];
    }
    table.kinds.sort_unstable();
    table
}

/// Where the lines end that start with a space.
fn end_of_fields(text: &str) -> usize {
    let mut at = 0;
    while text[at..].starts_with(' ') {
        at = text[at..].find('\n').map_or(text.len(), |length| at + length + 1);
    }
    at
}

/// `apps/v1/Deployment`, `/v1/Pod`.
fn parse_kind(text: &'static str) -> Option<Kind> {
    let (group, rest) = text.split_once('/')?;
    let (version, kind) = rest.split_once('/')?;
    Some((group, version, kind))
}

fn last_part(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or_default()
}

impl Entry {
    fn parse(&self) -> Type {
        let package = self.name.rsplit_once('.').map_or("", |(package, _)| package);
        Type {
            name: self.name.into(),
            fields: self.fields.lines().filter_map(|line| parse_field(line, package)).collect(),
            preserves_unknown: false,
            atomic: self.atomic,
        }
    }
}

/// ` ports []ContainerPort~ #6 keys=containerPort,protocol merge=containerPort`
fn parse_field(line: &'static str, package: &str) -> Option<Field> {
    let (line, values) =
        line.split_once(" enum=").map_or((line, None), |(line, values)| (line, Some(values)));
    let mut words = line.trim_start().split(' ');
    let name = words.next()?;
    let shape = words.next()?;
    let marks = shape.trim_end_matches(['!', '~']).len();
    let (shape, marks) = shape.split_at(marks);
    let mut field = Field {
        required: marks.contains('!'),
        drops_zero: marks.contains('~'),
        values: values.into_iter().flat_map(|values| values.split(',')).map(Name::from).collect(),
        ..Field::new(name, parse_shape(shape, package)?)
    };
    for fact in words {
        note(&mut field, fact);
    }
    Some(field)
}

fn note(field: &mut Field, fact: &'static str) {
    match fact.split_once('=') {
        Some(("keys", keys)) => set_list(field, ListKind::Map(keys.split(',').map(Name::from).collect())),
        Some(("merge", key)) => field.patch.merge = Some(Merge::Key(key.into())),
        Some(("via", embedded)) => field.via = embedded.into(),
        Some(("default", json)) => field.default = serde_json::from_str(json).ok().map(Box::new),
        _ if fact.starts_with('#') => {
            field.tags = fact[1..].split('.').filter_map(|tag| tag.parse().ok()).collect();
        }
        _ if fact == "set" => set_list(field, ListKind::Set),
        _ if fact == "merge" => field.patch.merge = Some(Merge::Scalars),
        _ if fact == "retain" => field.patch.retain_keys = true,
        _ if fact == "atomic" => field.atomic = true,
        // `replace` is what happens anyway.
        _ => {}
    }
}

fn set_list(field: &mut Field, kind: ListKind) {
    if let Shape::List(_, of) = &mut field.shape {
        *of = kind;
    }
}

fn parse_shape(text: &'static str, package: &str) -> Option<Shape> {
    if let Some(item) = text.strip_prefix("[]") {
        return Some(Shape::List(Box::new(parse_shape(item, package)?), ListKind::Atomic));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Some(Shape::Map(Box::new(parse_shape(item, package)?)));
    }
    let scalar = match text {
        "any" | "object" => return Some(Shape::Any),
        "string" => Scalar::String,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "double" => Scalar::Double,
        "bytes" => Scalar::Bytes,
        "time" => Scalar::Time,
        "micro-time" => Scalar::MicroTime,
        "quantity" => Scalar::Quantity,
        "int-or-string" => Scalar::IntOrString,
        full if full.contains('.') => return named(full).map(Shape::Object),
        bare => return named(&format!("{package}.{bare}")).map(Shape::Object),
    };
    Some(Shape::Scalar(scalar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let fields: usize = all().map(|r#type| r#type.fields.len()).sum();
        let lines = FACTS.lines().filter(|line| line.starts_with(' ')).count();
        assert_eq!(fields, lines);
        assert!(lines > 2000, "{lines}");
    }

    #[test]
    fn types_and_fields_are_in_the_order_that_lookups_need() {
        assert!(table().types.is_sorted_by_key(|entry| entry.name));
        for r#type in all() {
            assert!(r#type.fields.is_sorted_by(|a, b| a.name < b.name), "{type:?}");
        }
    }

    #[test]
    fn merge_keys_list_types_and_tags_are_read() {
        let container = named("core.v1.Container").unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.patch.merge, Some(Merge::Key("containerPort".into())));
        let Shape::List(_, kind) = &ports.shape else { panic!("{ports:?}") };
        assert_eq!(*kind, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!(ports.tags, [6]);
        let probe = named("core.v1.Probe").unwrap();
        assert_eq!(
            probe.field("exec").unwrap().tags,
            [1, 1],
            "inlined in JSON, a message of its own in protobuf"
        );
    }

    #[test]
    fn kinds_are_found_by_group_and_version_and_options_in_every_group() {
        assert_eq!(lookup("apps", "v1", "Deployment").unwrap().name, "apps.v1.Deployment");
        assert_eq!(lookup("", "v1", "Pod").unwrap().go_name(), "v1.Pod");
        assert_eq!(lookup("apps", "v1", "DeleteOptions").unwrap().name, "meta.v1.DeleteOptions");
        assert_eq!(lookup("apps", "v1beta1", "Deployment"), None);
        assert_eq!(lookup("", "v1", "PodSpec"), None);
    }

    #[test]
    fn types_that_contain_themselves_can_be_followed() {
        let props = named("apiextensions.v1.JSONSchemaProps").unwrap();
        let Shape::Object(not) = &props.field("not").unwrap().shape else { panic!() };
        assert_eq!(not.field("not").unwrap().name, "not");
    }
}
