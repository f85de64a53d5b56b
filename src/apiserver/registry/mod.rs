//! The registry: what resources there are. One [`Resource`] row says everything about one stored resource;
//! every handler works from the row, so that there is one path for all kinds.
//!
//! ```text
//!   table/     the rows             ──▶ Resource { names, versions, subresources, columns, fields }
//!   strategy/  particulars of kinds ──▶        + Strategy (pure: defaults, validation, resets, claims)
//!                                   Registry::lookup(group, version, plural) ──▶ handlers
//! ```

mod action;
mod columns;
pub mod strategy;
pub mod table;

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

pub use action::{Action, ActionContext, ActionRequest, Objects, Precondition, Respond};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde_json::Value;

use crate::status::{FieldError, GroupKind, GroupResource};

/// Text that is static for built-in rows and owned for rows made at run time.
pub type Name = Cow<'static, str>;

/// One stored resource.
#[derive(Clone)]
pub struct Resource {
    pub group: Name,
    /// The versions that it is served in, the storage version first. Another *group* may serve it too
    /// (core/v1 and events.k8s.io/v1 Events).
    pub served: Vec<Served>,
    pub kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub short_names: Vec<Name>,
    pub categories: Vec<Name>,
    pub scope: Scope,
    pub verbs: Verbs,
    /// Why objects can only be read, where upstream's server would let them be written; else empty.
    pub read_only_because: Name,
    pub subresources: Vec<Subresource>,
    /// All printer columns, Name included; without any, Name and Created At are printed.
    pub columns: Vec<Column>,
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    pub fields: Vec<Field>,
    pub strategy: Arc<dyn Strategy>,
}

/// A version under which a resource is served.
#[derive(Clone, Debug)]
pub struct Served {
    pub group: Name,
    pub version: Name,
    /// From and to the storage version. `None` where only the apiVersion differs.
    pub conversion: Option<Conversion>,
}

/// Turns an object of one version into another, in place; apiVersion is set by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    pub to_storage: fn(&mut Value),
    pub from_storage: fn(&mut Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u16);

impl Verbs {
    pub const GET: Self = Self(1);
    pub const LIST: Self = Self(1 << 1);
    pub const WATCH: Self = Self(1 << 2);
    pub const CREATE: Self = Self(1 << 3);
    pub const UPDATE: Self = Self(1 << 4);
    pub const PATCH: Self = Self(1 << 5);
    pub const DELETE: Self = Self(1 << 6);
    pub const DELETE_COLLECTION: Self = Self(1 << 7);
    pub const ALL: Self = Self(0xff);
    /// The method of that name: it has no verb of its own, for authorization and discovery neither.
    pub const OPTIONS: Self = Self(1 << 8);
    /// get, update, patch: what a status or scale subresource has.
    pub const GET_UPDATE_PATCH: Self = Self(1 | 1 << 4 | 1 << 5);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// By the verb's name in a request.
    pub fn named(verb: &str) -> Option<Self> {
        NAMED.iter().find(|(name, _)| *name == verb).map(|(_, verb)| *verb)
    }

    /// The names, sorted as discovery lists them.
    pub fn names(self) -> Vec<&'static str> {
        NAMED.iter().filter(|(_, verb)| self.has(*verb)).map(|(name, _)| *name).collect()
    }
}

const NAMED: [(&str, Verbs); 8] = [
    ("create", Verbs::CREATE),
    ("delete", Verbs::DELETE),
    ("deletecollection", Verbs::DELETE_COLLECTION),
    ("get", Verbs::GET),
    ("list", Verbs::LIST),
    ("patch", Verbs::PATCH),
    ("update", Verbs::UPDATE),
    ("watch", Verbs::WATCH),
];

/// Something under an object's path: `status`, `scale`, `binding`, `log`.
#[derive(Clone)]
pub struct Subresource {
    pub name: Name,
    pub verbs: Verbs,
    /// What is sent and answered, if not the resource's own kind: (group, version, kind), e.g.
    /// `("autoscaling", "v1", "Scale")`. `("", "", "")` where it is the parent's kind.
    pub kind: (Name, Name, Name),
    pub how: How,
}

#[derive(Clone)]
pub enum How {
    /// Writes only `status` (and metadata as the strategy allows) of the parent.
    Status,
    /// Reads and writes the parent (GET, PUT, PATCH, as for the object itself) through a strategy of its own: its
    /// `prepare_update` takes from the new object only what this subresource may change, and its `validate_update`
    /// judges that (`finalize`, `approval`).
    Part(Arc<dyn Strategy>),
    /// `autoscaling/v1` Scale of the parent.
    Scale(ScalePaths),
    /// An action of its own; its body (POST, PUT, PATCH) is decoded and passes admission before it is called.
    Acting(Arc<dyn Action>),
    /// As `Acting`, but the body is not read: it is a stream, or there is an upgrade.
    Connect(Arc<dyn Action>),
}

/// Where Scale finds its values in the parent, as JSON pointers.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    pub replicas: Name,
    pub status_replicas: Name,
    /// Either a LabelSelector, or a map of labels (ReplicationController).
    pub selector: Name,
}

/// A printer column (`metav1.TableColumnDefinition`) and how its cell is made.
#[derive(Clone)]
pub struct Column {
    pub name: Name,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub r#type: Name,
    /// `name` for the Name column, `date-time`, …, or empty.
    pub format: Name,
    /// 0 is shown always, more only with `-o wide`.
    pub priority: i32,
    pub description: Name,
    pub cell: Cell,
}

/// How a printer column's cell is computed.
#[derive(Clone)]
pub enum Cell {
    /// Of the object (in the served version) and the present time.
    Of(fn(&Value, Timestamp) -> Value),
    /// With its own data, e.g. a column of a custom resource.
    Made(Arc<CellFn>),
}

/// Computes a cell of an object at a time.
pub type CellFn = dyn Fn(&Value, Timestamp) -> Value + Send + Sync;

impl Cell {
    pub fn value(&self, object: &Value, now: Timestamp) -> Value {
        match self {
            Self::Of(cell) => cell(object, now),
            Self::Made(cell) => cell(object, now),
        }
    }
}

/// A field that a field selector may name.
#[derive(Clone, Debug)]
pub struct Field {
    /// E.g. `spec.nodeName`.
    pub label: Name,
    /// E.g. `/spec/nodeName`; strings are taken as they are, other scalars as JSON writes them.
    pub pointer: Name,
    /// Where it is looked for when it is not there, or empty.
    pub otherwise: Option<Name>,
    /// The value of an object without the field: `""` for strings, `"false"` for booleans.
    pub absent: Name,
}

impl Field {
    pub fn new(label: impl Into<Name>, pointer: impl Into<Name>, absent: impl Into<Name>) -> Self {
        Self { label: label.into(), pointer: pointer.into(), otherwise: None, absent: absent.into() }
    }
}

impl Resource {
    /// A namespaced resource with all verbs and no particulars. `singular` is the kind in lower case.
    pub fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        strategy: Arc<dyn Strategy>,
    ) -> Self {
        Self {
            group: group.into(),
            served: vec![Served { group: group.into(), version: version.into(), conversion: None }],
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            read_only_because: "".into(),
            subresources: Vec::new(),
            columns: Vec::new(),
            fields: Vec::new(),
            strategy,
        }
    }

    pub fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        strategy: Arc<dyn Strategy>,
    ) -> Self {
        Self { scope: Scope::Cluster, ..Self::namespaced(group, version, kind, plural, strategy) }
    }

    #[must_use]
    pub fn short(mut self, names: &[&'static str]) -> Self {
        self.short_names.extend(names.iter().map(|name| Name::from(*name)));
        self
    }

    #[must_use]
    pub fn in_categories(mut self, names: &[&'static str]) -> Self {
        self.categories.extend(names.iter().map(|name| Name::from(*name)));
        self
    }

    /// Adds the `status` subresource.
    #[must_use]
    pub fn with_status(self) -> Self {
        self.with_subresource(Subresource {
            name: "status".into(),
            verbs: Verbs::GET_UPDATE_PATCH,
            kind: ("".into(), "".into(), "".into()),
            how: How::Status,
        })
    }

    #[must_use]
    pub fn with_subresource(mut self, subresource: Subresource) -> Self {
        self.subresources.push(subresource);
        self
    }

    #[must_use]
    pub fn with_columns(mut self, columns: Vec<Column>) -> Self {
        self.columns = columns;
        self
    }

    /// Adds a selectable field; the pointer follows from the label (`spec.nodeName` is `/spec/nodeName`).
    #[must_use]
    pub fn selectable(mut self, label: &'static str, absent: &'static str) -> Self {
        let pointer = format!("/{}", label.replace('.', "/"));
        self.fields.push(Field::new(label, pointer, absent));
        self
    }

    #[must_use]
    pub fn also_served(
        mut self,
        group: &'static str,
        version: &'static str,
        conversion: Option<Conversion>,
    ) -> Self {
        self.served.push(Served { group: group.into(), version: version.into(), conversion });
        self
    }

    #[must_use]
    pub fn with_verbs(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self
    }

    /// Leaves of it what only reads, and says why to who would write.
    #[must_use]
    pub fn read_only(mut self, because: &'static str) -> Self {
        self.verbs = Verbs::GET.and(Verbs::LIST).and(Verbs::WATCH);
        self.subresources.clear();
        self.read_only_because = because.into();
        self
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.as_ref(), self.plural.as_ref())
    }

    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group.as_ref(), self.kind.as_ref())
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|sub| matches!(sub.how, How::Status))
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// The storage version.
    pub fn storage(&self) -> &Served {
        &self.served[0]
    }

    /// `/registry/<group or core>/<plural>/`: every object of the resource is below it.
    pub fn prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group.as_ref() };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// The store's key of an object; `namespace` is empty for a cluster-scoped one.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.is_namespaced() {
            format!("{}{namespace}/{name}", self.prefix())
        } else {
            format!("{}{name}", self.prefix())
        }
    }
}

impl Served {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// A resource that is never stored: what is created is answered (TokenReview, SubjectAccessReview …).
#[derive(Clone)]
pub struct Virtual {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub plural: Name,
    pub singular: Name,
    pub scope: Scope,
    pub action: Arc<dyn Action>,
}

/// What is particular to a kind. All pure; objects are JSON in the storage version.
///
/// Generic, so not repeated here: names, labels, annotations, ownerReferences, uid, creationTimestamp,
/// resourceVersion, generation and dropping `status` on create (where the row has a status), keeping `status`
/// on update, keeping everything but `status` on a status update.
#[expect(unused_variables, reason = "the defaults ignore arguments whose names are the documentation")]
pub trait Strategy: Send + Sync {
    /// Fills in what the client left out. Also called for objects read from a patch.
    fn defaults(&self, object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {}

    /// A new object keeps the status that it comes with (a Node's agent registers what it has found).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {}

    /// After everything but status (and metadata) has been taken from `old`.
    fn prepare_status(&self, new: &mut Value, old: &Value) {}

    /// Writes down when something changed, for those who ask about that; after the preparation of any write. `old` is
    /// `None` for a new object.
    fn stamp(&self, new: &mut Value, old: Option<&Value>, now: Timestamp) {}

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// PUT of an object that is not there creates it (upstream's `AllowCreateOnUpdate`).
    fn creates_on_update(&self) -> bool {
        false
    }

    /// PUT without a resourceVersion overwrites (upstream's `AllowUnconditionalUpdate`).
    fn updates_unconditionally(&self) -> bool {
        true
    }

    /// Whether `metadata.generation` counts changes of this kind; `None` is upstream's rule by group: core kinds
    /// do not, but for pods and replication controllers.
    fn counts_generations(&self) -> Option<bool> {
        None
    }

    /// Whether a completed DELETE answers the object, not a Status (upstream's `ReturnDeletedObject`); `None` is
    /// upstream's list.
    fn returns_deleted(&self) -> Option<bool> {
        None
    }

    /// What a delete does to an object that is not being deleted yet, or whose grace shrinks.
    fn deletion(&self, object: &Value, options: &DeleteOptions) -> Deletion {
        Deletion::Now
    }

    /// Called when an object is marked with a deletionTimestamp (a Namespace becomes Terminating).
    fn prepare_deletion(&self, object: &mut Value) {}

    /// Whether something besides `metadata.finalizers` keeps a deleted object (`spec.finalizers` of a
    /// Namespace).
    fn held(&self, object: &Value) -> bool {
        false
    }

    /// Whether garbage collection orphans dependents if a delete says nothing (upstream: only for legacy
    /// versions, so never by default).
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// What the object holds of pools that are shared by all objects (cluster IPs, node ports). A claim without
    /// a value is filled in. Reserved and released in the transaction that writes the object.
    fn claims(&self, object: &Value) -> Vec<Claim> {
        Vec::new()
    }
}

/// A strategy that adds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Strategy for Plain {}

/// Which names an object may have (`api::names`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    Dns1035Label,
    /// Anything that is one path segment (RBAC).
    PathSegment,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub precondition_uid: Option<String>,
    pub precondition_resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What a delete does, finalizers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Removes the object, once nothing holds it.
    Now,
    /// Marks it (`deletionTimestamp`, `deletionGracePeriodSeconds`) and leaves the removal to whoever runs it.
    Graceful { seconds: i64 },
}

/// A value of a shared pool that an object holds, or asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub pool: Pool,
    pub value: ClaimValue,
    /// JSON pointers at which a chosen value is written (`/spec/clusterIP`, `/spec/clusterIPs/0`). Arrays are
    /// extended by one where the pointer names their end.
    pub write_to: Vec<String>,
    /// The field that an error names.
    pub field: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    ClusterIpV4,
    ClusterIpV6,
    NodePort,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimValue {
    /// Choose one.
    Any,
    /// An address or a port in its canonical text.
    Exactly(String),
}

/// What a path names.
#[derive(Clone)]
pub enum Entry {
    /// A stored resource, and the index of the requested version in `served`.
    Stored(Arc<Resource>, usize),
    Virtual(Arc<Virtual>),
}

/// All resources, replaceable at run time.
pub struct Registry {
    current: ArcSwap<Rows>,
}

/// One state of the registry.
#[derive(Default)]
pub struct Rows {
    pub stored: Vec<Arc<Resource>>,
    pub virtuals: Vec<Arc<Virtual>>,
    by_path: BTreeMap<(String, String, String), Entry>,
}

impl Rows {
    pub fn new(stored: Vec<Resource>, virtuals: Vec<Virtual>) -> Self {
        let stored: Vec<_> = stored.into_iter().map(Arc::new).collect();
        let virtuals: Vec<_> = virtuals.into_iter().map(Arc::new).collect();
        let mut by_path = BTreeMap::new();
        for row in &stored {
            for (index, served) in row.served.iter().enumerate() {
                let path = (served.group.to_string(), served.version.to_string(), row.plural.to_string());
                by_path.insert(path, Entry::Stored(row.clone(), index));
            }
        }
        for row in &virtuals {
            let path = (row.group.to_string(), row.version.to_string(), row.plural.to_string());
            by_path.insert(path, Entry::Virtual(row.clone()));
        }
        Self { stored, virtuals, by_path }
    }

    pub fn lookup(&self, group: &str, version: &str, plural: &str) -> Option<&Entry> {
        self.by_path.get(&(group.to_string(), version.to_string(), plural.to_string()))
    }

    /// The stored resource of a group (its own, not a second one that serves it).
    pub fn stored(&self, what: &GroupResource) -> Option<&Arc<Resource>> {
        self.stored.iter().find(|row| row.group == what.group && row.plural == what.resource)
    }
}

impl Registry {
    pub fn new(stored: Vec<Resource>, virtuals: Vec<Virtual>) -> Self {
        Self { current: ArcSwap::from_pointee(Rows::new(stored, virtuals)) }
    }

    /// The present rows; hold them for one request, not longer.
    pub fn rows(&self) -> Arc<Rows> {
        self.current.load_full()
    }

    pub fn replace(&self, rows: Rows) {
        self.current.store(Arc::new(rows));
    }
}

macro_rules! opaque_debug {
    ($($type:ident: $($field:ident)*),* $(,)?) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(Resource: group plural, Subresource: name verbs, Column: name, Virtual: group plural, Registry:, Rows:);

impl fmt::Debug for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "Status",
            Self::Part(_) => "Part",
            Self::Scale(_) => "Scale",
            Self::Acting(_) => "Acting",
            Self::Connect(_) => "Connect",
        })
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell")
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(row, version) => f.debug_tuple("Stored").field(row).field(version).finish(),
            Self::Virtual(row) => f.debug_tuple("Virtual").field(row).finish(),
        }
    }
}
