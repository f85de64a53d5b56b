//! A strategy as a table of functions: a kind names the few that it has, the rest do nothing.

use jiff::Timestamp;
use serde_json::Value;

use super::at::At;
use super::findings::Findings;
use crate::registry::{Claim, DeleteOptions, Deletion, NameRule, Strategy};
use crate::status::FieldError;

/// The particulars of one kind. `..Rules::NONE` fills in what it does not have.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub defaults: fn(&mut Value),
    pub prepare_create: fn(&mut Value),
    /// New, old.
    pub prepare_update: fn(&mut Value, &Value),
    pub prepare_status: fn(&mut Value, &Value),
    /// New, and old if there is one.
    pub stamp: fn(&mut Value, Option<&Value>, Timestamp),
    /// What holds of an object at all times: checked on create, and on update before `validate_update`.
    pub validate: fn(&At<'_>, &mut Findings),
    /// What only holds when an object is made.
    pub validate_create: fn(&At<'_>, &mut Findings),
    /// New, old.
    pub validate_update: fn(&At<'_>, &At<'_>, &mut Findings),
    pub validate_status: fn(&At<'_>, &At<'_>, &mut Findings),
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    pub name_rule: NameRule,
    pub keeps_status_on_create: bool,
    pub creates_on_update: bool,
    pub updates_unconditionally: bool,
    pub deletion: fn(&Value, &DeleteOptions) -> Deletion,
    pub prepare_deletion: fn(&mut Value),
    pub held: fn(&Value) -> bool,
    pub orphans_by_default: bool,
}

impl Rules {
    pub const NONE: Self = Self {
        defaults: |_| (),
        prepare_create: |_| (),
        prepare_update: |_, _| (),
        prepare_status: |_, _| (),
        stamp: |_, _, _| (),
        validate: |_, _| (),
        validate_create: |_, _| (),
        validate_update: |_, _, _| (),
        validate_status: |_, _, _| (),
        warnings: |_, _| Vec::new(),
        name_rule: NameRule::DnsSubdomain,
        keeps_status_on_create: false,
        creates_on_update: false,
        updates_unconditionally: true,
        deletion: |_, _| Deletion::Now,
        prepare_deletion: |_| (),
        held: |_| false,
        orphans_by_default: false,
    };
}

impl Strategy for Rules {
    fn defaults(&self, object: &mut Value) {
        (self.defaults)(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        (self.prepare_create)(object);
    }

    fn keeps_status_on_create(&self) -> bool {
        self.keeps_status_on_create
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        (self.prepare_update)(new, old);
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        (self.prepare_status)(new, old);
    }

    fn stamp(&self, new: &mut Value, old: Option<&Value>, now: Timestamp) {
        (self.stamp)(new, old, now);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        let at = At::root(object);
        (self.validate)(&at, &mut found);
        (self.validate_create)(&at, &mut found);
        found.into_errors()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        let at = At::root(new);
        (self.validate)(&at, &mut found);
        (self.validate_update)(&at, &At::root(old), &mut found);
        found.into_errors()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        (self.validate_status)(&At::root(new), &At::root(old), &mut found);
        found.into_errors()
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(object, old)
    }

    fn name_rule(&self) -> NameRule {
        self.name_rule
    }

    fn creates_on_update(&self) -> bool {
        self.creates_on_update
    }

    fn updates_unconditionally(&self) -> bool {
        self.updates_unconditionally
    }

    fn deletion(&self, object: &Value, options: &DeleteOptions) -> Deletion {
        (self.deletion)(object, options)
    }

    fn prepare_deletion(&self, object: &mut Value) {
        (self.prepare_deletion)(object);
    }

    fn held(&self, object: &Value) -> bool {
        (self.held)(object)
    }

    fn orphans_by_default(&self) -> bool {
        self.orphans_by_default
    }

    fn claims(&self, _object: &Value) -> Vec<Claim> {
        Vec::new()
    }
}
