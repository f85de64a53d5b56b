//! Selecting objects by labels and by fields.
//!
//! ```text
//!   "a=b,c in (d,e)" ──▶ label::Selector::parse ─┐
//!   LabelSelector (typed or Value) ──────────────┴▶ label::Selector ──matches──▶ anything that has Labels
//!   "metadata.name=x" ──▶ field::Selector::parse ──▶ field::Selector ──matches──▶ a lookup of fields
//! ```
//!
//! A selector's `Display` parses back to itself.

mod field;
mod label;
mod object;
mod parse;

pub use field::{FieldOperator, FieldRequirement, FieldSelector, ParseFieldSelectorError};
pub use label::{Labels, Operator, Requirement, Selector};
pub use object::SelectorObjectError;
pub use parse::ParseSelectorError;
