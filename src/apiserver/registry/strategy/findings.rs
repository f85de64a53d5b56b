//! The mistakes that were found in an object, in the order in which they were found.

use serde_json::Value;

use super::at::At;
use crate::status::{FieldError, FieldErrorKind};

/// What a positive number must be.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const POSITIVE: &str = "must be greater than zero";
pub const IMMUTABLE: &str = "field is immutable";

#[derive(Debug, Default)]
pub struct Findings(Vec<FieldError>);

impl Findings {
    pub fn into_errors(self) -> Vec<FieldError> {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    fn add(&mut self, kind: FieldErrorKind, at: &At<'_>, value: Option<Value>, detail: &str) {
        let field = at.path().to_owned();
        self.0.push(FieldError { kind, field, bad_value: value, detail: detail.to_owned() });
    }

    pub fn required(&mut self, at: &At<'_>, detail: &str) {
        self.add(FieldErrorKind::Required, at, None, detail);
    }

    pub fn invalid(&mut self, at: &At<'_>, detail: &str) {
        self.add(FieldErrorKind::Invalid, at, Some(at.value().clone()), detail);
    }

    /// One `Invalid` for each complaint of a format.
    pub fn complaints(&mut self, at: &At<'_>, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(at, &complaint);
        }
    }

    /// `Invalid` about a value other than the one that stands there.
    pub fn invalid_value(&mut self, at: &At<'_>, value: impl Into<Value>, detail: &str) {
        self.add(FieldErrorKind::Invalid, at, Some(value.into()), detail);
    }

    /// `supported` in the order in which it is shown.
    pub fn not_supported(&mut self, at: &At<'_>, supported: &[&str]) {
        let quoted: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        self.add(FieldErrorKind::NotSupported, at, Some(at.value().clone()), &detail);
    }

    pub fn forbidden(&mut self, at: &At<'_>, detail: &str) {
        self.add(FieldErrorKind::Forbidden, at, None, detail);
    }

    pub fn duplicate(&mut self, at: &At<'_>) {
        self.add(FieldErrorKind::Duplicate, at, Some(at.value().clone()), "");
    }

    pub fn duplicate_value(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.add(FieldErrorKind::Duplicate, at, Some(value.into()), "");
    }

    pub fn not_found(&mut self, at: &At<'_>) {
        self.add(FieldErrorKind::NotFound, at, Some(at.value().clone()), "");
    }

    pub fn too_long(&mut self, at: &At<'_>, max: usize) {
        self.add(FieldErrorKind::TooLong, at, None, &format!("may not be more than {max} bytes"));
    }

    pub fn too_many(&mut self, at: &At<'_>, max: usize) {
        let detail = format!("must have at most {max} items");
        self.add(FieldErrorKind::TooMany, at, Some(at.len().into()), &detail);
    }

    /// A word which must be one of `supported`; required when it is absent.
    pub fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.text().is_empty() {
            self.required(at, "");
        } else if !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// As [`Findings::one_of`], for a word that may be absent.
    pub fn one_of_if_any(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.present() && !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    pub fn not_negative(&mut self, at: &At<'_>) {
        if at.int().is_some_and(|number| number < 0) {
            self.invalid(at, NOT_NEGATIVE);
        }
    }

    /// `new` says the same as `old`; absent and empty are the same.
    pub fn immutable(&mut self, new: &At<'_>, old: &At<'_>) {
        if new.value() != old.value() && !(new.is_empty() && old.is_empty()) {
            self.invalid(new, IMMUTABLE);
        }
    }
}
